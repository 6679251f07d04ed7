//! `howdah spec`: the OCI runtime spec of a pool's container.

use std::fs;
use std::path::Path;

use oci_spec::runtime::Spec;
use serde_json::Value;

use super::check::plan_one;
use super::{CONFIGURATION, Failure, KERNEL, LAUNCH, Scratch, become_rootless, places};
use crate::cli::Spec as Arguments;
use crate::config::profile::Execve;
use crate::config::settings::settings;
use crate::config::{HostAccounts, load_pool, load_serve};
use crate::journal::{self, Level, Origin};
use crate::pool::prepare::PrepareError;
use crate::spec::FROM;

/// A filter cannot count, and nobody answers what it asks where another runtime than howdah starts the bundle.
const NOT_HELD: &str = "the spec does not hold execve = \"once\": under another runtime than howdah, the pool may execute \
     programs after php-fpm: let howdah start it, or give it an image without programs";

pub(super) fn run(arguments: &Arguments) -> Result<(), Failure> {
    let accounts = HostAccounts::default();
    let wrong = |error| Failure::new(CONFIGURATION, error);
    let (config, defaults) = load_serve(arguments.config.as_deref(), &accounts).map_err(wrong)?;
    let pool = load_pool(&arguments.pool, &defaults, &accounts).map_err(wrong)?;
    become_rootless()?;
    let scratch = Scratch::new()?;
    let places = places(scratch.path().to_owned(), &config);
    // A bundle names its root relative to itself (OCI runtime spec, config.md, "Root").
    let planned = plan_one(&pool, &places, Path::new("rootfs"));
    drop(scratch);
    let told = |error: &dyn ToString| format!("pool {}: {}", pool.name, error.to_string());
    let status = |error: &PrepareError| if error.is_of_kernel() { KERNEL } else { LAUNCH };
    let blueprint = planned.map_err(|error| Failure::new(status(&error), told(&error)))?;
    let mut spec = blueprint.prepared.spec.clone();
    let said = settings(&pool, &blueprint.prepared.profile, arguments.config.as_deref()).map_err(wrong)?;
    let mut annotations = spec.annotations().clone().unwrap_or_default();
    annotations.extend(said.into_iter().map(|one| (format!("{FROM}{}", one.key), one.from.to_string())));
    spec.set_annotations(Some(annotations));
    if blueprint.prepared.profile.execve == Execve::Once {
        let origin = Origin { pool: Some(pool.name.as_str()), generation: None };
        journal::line(Level::Warning, origin, NOT_HELD);
    }
    let text = text_of(&spec).map_err(|error| Failure::new(LAUNCH, told(&error)))?;
    let Some(bundle) = &arguments.bundle else {
        println!("{text}");
        return Ok(());
    };
    fs::create_dir_all(bundle)
        .and_then(|()| fs::write(bundle.join("config.json"), text))
        .map_err(|error| Failure::file(LAUNCH, bundle, &error))?;
    // The root's mount points are made after what is mounted on them: directories, or files.
    let made = blueprint.make_state(&pool).and_then(|()| blueprint.make_root(&pool, &bundle.join("rootfs")));
    made.map_err(|error| Failure::new(LAUNCH, told(&error)))
}

/// The spec as JSON, the same at each run: oci-spec keeps annotations, limits and
/// capabilities in tables without an order.
fn text_of(spec: &Spec) -> serde_json::Result<String> {
    let mut value = serde_json::to_value(spec)?;
    let sets = value.pointer_mut("/process/capabilities").and_then(Value::as_object_mut);
    for set in sets.into_iter().flatten().filter_map(|(_, set)| set.as_array_mut()) {
        set.sort_by_key(Value::to_string);
    }
    serde_json::to_string_pretty(&value)
}
