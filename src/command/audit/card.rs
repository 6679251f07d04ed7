//! What came of the attacks, for people and for programs.

use std::io::IsTerminal;

use serde::Serialize;

use crate::attack::{ATTACKS, Attack, Wall};
use crate::journal::one_line;

/// What came of one attack.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub(super) enum Outcome {
    /// A wall stood.
    Held,
    /// It succeeded.
    Open,
    /// There was nothing to try.
    NotTried,
    /// The listening socket is poisoned, unless somebody repairs it.
    #[serde(skip)]
    Poisoned,
}

/// One attack and what came of it.
#[derive(Debug, Clone, Serialize)]
pub(super) struct Finding {
    attack: &'static str,
    tries: &'static str,
    /// Walls of which each alone holds it.
    walls: Vec<&'static str>,
    pub(super) outcome: Outcome,
    /// The errno that it met, or what it got.
    pub(super) detail: String,
    /// What would hold it.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) change: Option<String>,
    #[serde(skip)]
    pub(super) of: &'static Attack,
}

impl Finding {
    pub(super) fn new(of: &'static Attack, outcome: Outcome, detail: &str) -> Self {
        let walls = of.walls.iter().map(|wall| wall.name()).collect();
        // What is in a sandbox may have chosen some of it: names, what a program says.
        let detail = one_line(detail).into_owned();
        Self { attack: of.id, tries: of.tries, walls, outcome, detail, change: None, of }
    }

    /// A line of the probe's: `ID <tab> OUTCOME <tab> DETAIL`.
    pub(super) fn parse(line: &str) -> Option<Self> {
        let mut fields = line.strip_prefix("howdah-probe\t")?.splitn(3, '\t');
        let (id, word, detail) = (fields.next()?, fields.next()?, fields.next()?);
        let of = ATTACKS.iter().find(|attack| attack.id == id)?;
        let outcome = match word {
            "held" => Outcome::Held,
            "not-tried" => Outcome::NotTried,
            "poisoned" => Outcome::Poisoned,
            _ => Outcome::Open,
        };
        Some(Self::new(of, outcome, detail))
    }
}

/// Everything about one sandbox.
#[derive(Debug, Serialize)]
pub(super) struct Card {
    /// The pool's name, or the launcher's command.
    pub(super) sandbox: String,
    /// The pool's file.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) file: Option<String>,
    /// The pool's profile.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) profile: Option<String>,
    /// How a pool's sandbox was started, as `howdah ps` has it: "cold launch" or "template".
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) start: Option<&'static str>,
    /// uname -r
    pub(super) kernel: String,
    held: usize,
    open: usize,
    not_tried: usize,
    pub(super) attacks: Vec<Finding>,
}

impl Card {
    /// The card of `found`; an attack of the table that nobody has told of is open.
    pub(super) fn new(sandbox: String, found: Vec<Finding>) -> Self {
        let mut attacks: Vec<Finding> = ATTACKS
            .iter()
            .map(|attack| {
                let told = found.iter().find(|finding| finding.of.id == attack.id);
                told.cloned()
                    .unwrap_or_else(|| Finding::new(attack, Outcome::Open, "unclear: the probe did not tell"))
            })
            .collect();
        for finding in &mut attacks {
            if finding.outcome == Outcome::Poisoned {
                finding.outcome = Outcome::Open;
            }
        }
        let count = |outcome| attacks.iter().filter(|finding| finding.outcome == outcome).count();
        let kernel = std::fs::read_to_string("/proc/sys/kernel/osrelease").unwrap_or_default();
        let (held, open, not_tried) = (count(Outcome::Held), count(Outcome::Open), count(Outcome::NotTried));
        Self {
            sandbox,
            file: None,
            profile: None,
            start: None,
            kernel: kernel.trim().to_owned(),
            held,
            open,
            not_tried,
            attacks,
        }
    }

    pub(super) fn is_whole(&self) -> bool {
        self.open == 0
    }

    pub(super) fn print(&self, verbose: bool) {
        let paint = Paint::new();
        let profile = self.profile.as_ref().map(|name| format!(", profile {name}")).unwrap_or_default();
        let start = self.start.map(|start| format!(", by {start}")).unwrap_or_default();
        println!("{}{profile}{start}, kernel {}", paint.bold(&self.sandbox), self.kernel);
        for wall in walls() {
            let of_wall: Vec<&Finding> =
                self.attacks.iter().filter(|finding| finding.of.walls[0].name() == wall).collect();
            let tried = of_wall.iter().filter(|finding| finding.outcome != Outcome::NotTried).count();
            let held = of_wall.iter().filter(|finding| finding.outcome == Outcome::Held).count();
            let count = format!("{held} of {tried} held");
            println!("  {wall:<26}{}", if held == tried { paint.green(&count) } else { paint.red(&count) });
            of_wall.iter().for_each(|finding| finding.print(verbose, &paint));
        }
        let not_tried = match self.not_tried {
            0 => String::new(),
            some => format!(", {some} not tried"),
        };
        println!("{} of {} held{not_tried}", self.held, self.held + self.open);
    }
}

impl Finding {
    fn print(&self, verbose: bool, paint: &Paint) {
        match self.outcome {
            Outcome::Held if verbose => {
                println!("    held  {}: {} ({})", self.attack, self.tries, self.detail)
            }
            Outcome::NotTried if verbose => println!("    -     {}: not tried: {}", self.attack, self.detail),
            Outcome::Held | Outcome::NotTried => {}
            Outcome::Open | Outcome::Poisoned => {
                println!("    {}  {}: {}: {}", paint.red("OPEN"), self.attack, self.tries, self.detail);
                self.change.iter().for_each(|change| println!("          hint: {change}"));
            }
        }
    }
}

/// The headings, in the order of the table.
fn walls() -> Vec<&'static str> {
    let mut names: Vec<&'static str> = Vec::new();
    for attack in ATTACKS {
        let name = attack.walls.first().copied().map_or("", Wall::name);
        if !names.contains(&name) {
            names.push(name);
        }
    }
    names
}

/// Colour, on a terminal only.
struct Paint(bool);

impl Paint {
    fn new() -> Self {
        Self(std::io::stdout().is_terminal() && std::env::var_os("NO_COLOR").is_none())
    }

    fn with(&self, code: &str, text: &str) -> String {
        if self.0 { format!("\x1b[{code}m{text}\x1b[0m") } else { text.to_owned() }
    }

    fn bold(&self, text: &str) -> String {
        self.with("1", text)
    }

    fn red(&self, text: &str) -> String {
        self.with("31", text)
    }

    fn green(&self, text: &str) -> String {
        self.with("32", text)
    }
}
