//! `howdah spec`: the OCI runtime spec of a pool's container.

use std::fs;
use std::path::Path;

use super::check::plan_one;
use super::{CONFIGURATION, Failure, LAUNCH, Scratch, become_rootless, places};
use crate::cli::Spec;
use crate::config::{HostAccounts, load_pool, load_serve};

pub(super) fn run(arguments: &Spec) -> Result<(), Failure> {
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
    let blueprint = planned.map_err(|error| Failure::new(LAUNCH, told(&error)))?;
    let text = serde_json::to_string_pretty(&blueprint.prepared.spec)
        .map_err(|error| Failure::new(LAUNCH, told(&error)))?;
    let Some(bundle) = &arguments.bundle else {
        println!("{text}");
        return Ok(());
    };
    fs::create_dir_all(bundle)
        .and_then(|()| fs::write(bundle.join("config.json"), text))
        .map_err(|error| Failure::file(LAUNCH, bundle, &error))?;
    blueprint.make_root(&pool, &bundle.join("rootfs")).map_err(|error| Failure::new(LAUNCH, told(&error)))
}
