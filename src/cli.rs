//! What a person types: one definition that makes the parser, the help, and the completions.

use std::path::PathBuf;

use clap::{Args, Parser, Subcommand};

/// Starts a sandboxed php-fpm for each pool when its first connection comes, and stops it when it is idle.
#[derive(Debug, Parser)]
#[command(
    name = "howdah",
    version,
    max_term_width = 100,
    after_help = "Example:\n  howdah serve /etc/howdah/pools\n  howdah request blog /index.php\n\nPool files: one TOML file for each pool; the smallest has `listen` and `user`."
)]
pub struct Cli {
    /// What to do.
    #[command(subcommand)]
    pub command: Command,
}

/// The commands.
#[derive(Debug, Subcommand)]
pub enum Command {
    /// Hold the pools' sockets and start each pool on its first connection
    #[command(
        after_help = "Example:\n  howdah serve /etc/howdah/pools\n\nSIGHUP reads the files again; SIGTERM ends when requests in progress are done (drain, 30 s)."
    )]
    Serve(Serve),
    /// Tell what this host can do, and whether pool files are right
    #[command(
        after_help = "Example:\n  howdah check /etc/howdah/pools/blog.toml\n      howdah check --explain blog.toml\n\nExit status: 3 if a file is wrong, else 4 if the kernel lacks what a pool needs."
    )]
    Check(Check),
    /// List the pools of a running serve
    #[command(after_help = "Example:\n  howdah ps --json | jq '.[] | select(.state == \"warm\") | .pool'")]
    Ps(Ps),
    /// Tell what happened to pools: starts, stops, failures, limits that were hit
    #[command(
        after_help = "Example:\n  howdah events blog --follow\n  howdah events --json | jq 'select(.kind == \"limit\")'\n\nThe latest one or two MiB are kept, in the runtime directory; the journal has the same for longer."
    )]
    Events(Events),
    /// Ask a pool for a page, as a web server would, and print what a browser would get
    #[command(
        after_help = "Example:\n  howdah request blog '/index.php?page=2'\n\nExit status: 0 below 400, else 1."
    )]
    Request(Request),
    /// Attack a pool's sandbox from inside, and tell wall by wall what held
    #[command(
        after_help = "Example:\n  howdah audit /etc/howdah/pools/blog.toml\n  howdah audit --in bwrap --ro-bind / / --unshare-all\n\nStarts the sandbox that serve would start, with a probe in php-fpm's place, and beside it canaries on the host and a neighbour to be found. Where howdah.toml asks for templates, a pool is attacked twice: launched cold, and bound to a template. What a running serve has is not touched. Exit status: 0 if every attack was held, 1 if one was not."
    )]
    Audit(Audit),
    /// Print the OCI runtime spec of a pool's container
    #[command(after_help = "Example:\n  howdah spec /etc/howdah/pools/blog.toml | jq .linux.namespaces")]
    Spec(Spec),
    /// Print a shell's completions
    #[command(after_help = "Example:\n  howdah completions bash > /etc/bash_completion.d/howdah")]
    Completions(Completions),
}

/// Where a running serve keeps its things.
#[derive(Debug, Args)]
pub struct Runtime {
    /// Runtime directory of serve [default: /run/howdah, or $XDG_RUNTIME_DIR/howdah without root]
    #[arg(long, value_name = "DIR")]
    pub runtime_dir: Option<PathBuf>,
}

/// Which files say what.
#[derive(Debug, Args)]
pub struct Files {
    /// Pool files, or directories of them
    #[arg(value_name = "FILE|DIR", default_value = "/etc/howdah/pools")]
    pub pools: Vec<PathBuf>,
    /// What belongs to the whole of howdah [default: /etc/howdah/howdah.toml, if it is there]
    #[arg(long, value_name = "FILE")]
    pub config: Option<PathBuf>,
}

/// `howdah serve`
#[derive(Debug, Args)]
pub struct Serve {
    /// Pool files and howdah.toml.
    #[command(flatten)]
    pub files: Files,
    /// Runtime directory.
    #[command(flatten)]
    pub runtime: Runtime,
    /// End when no pool runs any more (for a unit per pool, with systemd's sockets)
    #[arg(long)]
    pub exit_when_idle: bool,
    /// Tell more: php-fpm's notices, and where the time of each start goes
    #[arg(short, long)]
    pub verbose: bool,
}

/// `howdah check`
#[derive(Debug, Args)]
pub struct Check {
    /// Pool files and howdah.toml.
    #[command(flatten)]
    pub files: Files,
    /// Tell every setting in force, and which line of which file it comes from
    #[arg(long)]
    pub explain: bool,
    /// Print JSON (with every setting)
    #[arg(long)]
    pub json: bool,
}

/// `howdah ps`
#[derive(Debug, Args)]
pub struct Ps {
    /// Runtime directory.
    #[command(flatten)]
    pub runtime: Runtime,
    /// Show the templates, class by class, in place of the pools
    #[arg(long)]
    pub templates: bool,
    /// Print JSON
    #[arg(long)]
    pub json: bool,
}

/// `howdah events`
#[derive(Debug, Args)]
pub struct Events {
    /// Only this pool
    pub pool: Option<String>,
    /// Runtime directory.
    #[command(flatten)]
    pub runtime: Runtime,
    /// Wait for more
    #[arg(short, long)]
    pub follow: bool,
    /// Print JSON, an object a line
    #[arg(long)]
    pub json: bool,
}

/// `howdah request`
#[derive(Debug, Args)]
pub struct Request {
    /// The pool's name
    pub pool: String,
    /// A URI such as /index.php?page=2, or a script by its path inside the pool
    #[arg(value_name = "SCRIPT|URI")]
    pub target: String,
    /// Runtime directory.
    #[command(flatten)]
    pub runtime: Runtime,
    /// Send this as the body of a POST; @FILE sends a file, @- standard input
    #[arg(short, long, value_name = "TEXT|@FILE")]
    pub data: Option<String>,
    /// Send a header, "Name: value"
    #[arg(short = 'H', long = "header", value_name = "HEADER")]
    pub headers: Vec<String>,
    /// Use this method instead of GET (or POST with --data)
    #[arg(short = 'X', long)]
    pub method: Option<String>,
    /// Print the status and the headers too
    #[arg(short, long)]
    pub include: bool,
    /// Give up after this many seconds
    #[arg(long, default_value_t = 60)]
    pub timeout: u64,
}

/// `howdah audit`
#[derive(Debug, Args)]
pub struct Audit {
    /// Pool files, or names of pools in /etc/howdah/pools
    #[arg(value_name = "FILE|NAME", required_unless_present_any = ["outside", "inside"])]
    pub pools: Vec<PathBuf>,
    /// What belongs to the whole of howdah [default: /etc/howdah/howdah.toml, if it is there]
    #[arg(long, value_name = "FILE")]
    pub config: Option<PathBuf>,
    /// Try this profile in place of the pool's own
    #[arg(long, value_name = "NAME|FILE")]
    pub profile: Option<String>,
    /// Attack only what starts this way [default: each way in which serve would start the pool]
    #[arg(long, value_name = "WAY", conflicts_with_all = ["outside", "inside"])]
    pub start: Option<Start>,
    /// Print JSON
    #[arg(long)]
    pub json: bool,
    /// Tell each attack, also those that were held
    #[arg(short, long)]
    pub verbose: bool,
    /// Attack from outside any sandbox: shows what an attack looks like that nothing holds
    #[arg(long, conflicts_with_all = ["pools", "inside", "profile"])]
    pub outside: bool,
    /// Attack from inside another launcher: the probe's path and arguments are appended to COMMAND
    #[arg(long = "in", value_name = "COMMAND", num_args = 1.., allow_hyphen_values = true, conflicts_with_all = ["pools", "profile"])]
    pub inside: Vec<std::ffi::OsString>,
    /// With --in: put the probe there, where COMMAND's sandbox has it too [default: a directory in $TMPDIR]
    #[arg(long, value_name = "FILE", requires = "inside")]
    pub probe: Option<PathBuf>,
}

/// How a pool's sandbox comes to be: `howdah audit --start`
#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
pub enum Start {
    /// It is made when it is needed
    Cold,
    /// It was made before anybody knew its pool, and is bound to it
    Template,
}

/// `howdah spec`
#[derive(Debug, Args)]
pub struct Spec {
    /// A pool file
    #[arg(value_name = "FILE")]
    pub pool: PathBuf,
    /// What belongs to the whole of howdah [default: /etc/howdah/howdah.toml, if it is there]
    #[arg(long, value_name = "FILE")]
    pub config: Option<PathBuf>,
    /// Write an OCI bundle there instead: config.json and the root directory
    #[arg(long, value_name = "DIR")]
    pub bundle: Option<PathBuf>,
}

/// `howdah completions`
#[derive(Debug, Args)]
pub struct Completions {
    /// The shell
    pub shell: clap_complete::Shell,
}
