//! What to change where an attack was open: which line of which file has taken a
//! wall down, and what it must say instead.

use super::card::{Card, Finding, Outcome};
use crate::attack::Wall;
use crate::config::profile::Profile;
use crate::config::settings::{Place, Setting};

/// Says so of each open attack on a sandbox of howdah's, whose settings these are.
pub(super) fn advise(card: &mut Card, settings: &[Setting], standard: &Profile) {
    for finding in card.attacks.iter_mut().filter(|finding| finding.outcome == Outcome::Open) {
        finding.change = Some(change(finding, settings, standard));
    }
}

fn change(finding: &Finding, settings: &[Setting], standard: &Profile) -> String {
    let mut lines: Vec<String> = Vec::new();
    for wall in finding.of.walls {
        let down = settings.iter().filter(|setting| takes_down(setting, *wall, standard));
        for Setting { key, value, from } in down {
            let instead = match wall.setting().filter(|setting| setting.starts_with(&format!("{key} = "))) {
                Some(setting) => format!("write {setting}"),
                None if key == "share" => format!("take {} out of it", shared(*wall)),
                None => "take the line out".to_owned(),
            };
            lines.push(format!("{from} says {key} = {value}: {instead}"));
        }
    }
    lines.dedup();
    if lines.is_empty() {
        return "no file takes its walls down: please report it as a fault of howdah".to_owned();
    }
    lines.join("; or ")
}

/// Whether the setting says anything else of the wall than the default profile does.
fn takes_down(Setting { key, value, from }: &Setting, wall: Wall, standard: &Profile) -> bool {
    let is_said = match from {
        Place::File(file, _) => standard.files.iter().all(|(other, _)| other != file),
        Place::Defaults(..) => true,
        Place::Unsaid => false,
    };
    let stands = match key.as_str() {
        "share" => !value.contains(shared(wall)),
        "network.mode" => value != "\"host\"",
        _ => wall.setting() == Some(&format!("{key} = {value}")),
    };
    is_said && wall.keys().contains(&key.as_str()) && !stands
}

/// The namespace that is the wall, as `share` has it.
fn shared(wall: Wall) -> &'static str {
    match wall {
        Wall::User => "\"user\"",
        Wall::Network => "\"network\"",
        Wall::Ipc => "\"ipc\"",
        Wall::Uts => "\"uts\"",
        Wall::Cgroup => "\"cgroup\"",
        _ => "",
    }
}
