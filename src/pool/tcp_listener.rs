//! What a pool gets by listening on TCP beside its visitors. A TCP socket belongs to
//! the network namespace in which it was made, whoever holds it: the listening socket,
//! and every connection that is accepted from it, can be disconnected (connect(2) to
//! AF_UNSPEC) and connected to whatever the *host* reaches, its loopback among it.
//! Landlock's rules for TCP are about the process and not about the namespace: they
//! hold that. The pool's packet filter is in another namespace and does not.

use crate::config::pool::{Network, Pool};
use crate::config::profile::Profile;
use crate::config::settings::place_of;
use crate::config::types::Listen;
use crate::sandbox::landlock;
use crate::spec;

/// Why a pool may not listen on TCP. Displays as one line.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum TcpListenerError {
    /// With `outbound`.
    #[error(
        "network mode \"outbound\" and listening on TCP ({0}) do not go together: that socket belongs to the host's \
         network, where the pool's packet filter does not stand: listen on a unix socket"
    )]
    Outbound(Listen),
    /// The profile demands the wall, and there is none.
    #[error(transparent)]
    Unheld(#[from] Box<Unheld>),
}

/// A TCP listener that nothing holds and that the profile wants held. Displays with its place.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error(
    "{place}: listening on TCP ({listen}) would be a way into the host's network, and the profile {profile} wants \
     that held ({demand}): {why}: listen on a unix socket, or write tcp_listener_held = false in {cure}"
)]
pub struct Unheld {
    /// The line that says where the pool listens: "FILE:LINE".
    place: String,
    /// The first TCP address.
    listen: Listen,
    /// The profile's name.
    profile: Box<str>,
    /// The line that demands it: "FILE:LINE".
    demand: String,
    /// What is missing.
    why: String,
    /// The profile in which to write that it is not to be.
    cure: String,
    /// Whether it is the kernel that lacks it.
    pub of_kernel: bool,
}

/// Refuses a TCP listener that nothing would hold, where that is not to be.
///
/// # Errors
/// What is not held and what to do.
pub fn refuse(pool: &Pool, profile: &Profile) -> Result<(), TcpListenerError> {
    judge(pool, profile, landlock::kernel_abi())
}

/// What the profile opens beside `hosting`, and what the pool's listener opens with it.
pub fn weakened(pool: &Pool, profile: &Profile) -> Vec<String> {
    let mut found = profile.weakened();
    found.extend(weakness(pool, profile));
    found
}

/// What a TCP listener leaves open under `profile` on this kernel, as a few words.
fn weakness(pool: &Pool, profile: &Profile) -> Option<String> {
    let (_, why) = unheld(pool, profile, landlock::kernel_abi())?;
    Some(format!("a TCP listener is a way into the host's network: {why}; listen on a unix socket"))
}

/// What it costs to hold it.
pub fn price(pool: &Pool, profile: &Profile) -> Option<&'static str> {
    let wanted = profile.landlock && profile.loopback_tcp && landlock::kernel_abi() >= NEEDED;
    (wanted && spec::holds_tcp_listener(pool, profile)).then_some(
        "it listens on TCP, by a socket of the host's network: so that this is no way in, it connects nowhere by TCP \
         and binds no port, on its own loopback neither: listen on a unix socket to have that",
    )
}

/// Landlock's rules for TCP, as an ABI.
const NEEDED: i32 = spec::ABI_OF_PORTS as i32;

fn judge(pool: &Pool, profile: &Profile, kernel: i32) -> Result<(), TcpListenerError> {
    let Some(listen) = spec::tcp_listener(pool) else { return Ok(()) };
    if let Network::Outbound(_) = spec::network(pool, profile) {
        return Err(TcpListenerError::Outbound(listen.clone()));
    }
    match unheld(pool, profile, kernel) {
        Some((of_kernel, why)) if profile.tcp_listener_held => Err(Box::new(Unheld {
            place: place_of(pool, profile, "listen")
                .map_or_else(|| pool.file.display().to_string(), |place| place.to_string()),
            listen: listen.clone(),
            profile: profile.name.clone(),
            demand: place_of(pool, profile, "tcp_listener_held").map_or_else(
                || "tcp_listener_held".to_owned(),
                |place| format!("tcp_listener_held, {place}"),
            ),
            why,
            cure: match profile.own_file() {
                Some(file) => file.display().to_string(),
                None => format!("a profile of your own (base = {:?})", profile.name),
            },
            of_kernel,
        })
        .into()),
        _ => Ok(()),
    }
}

/// Why nothing holds the pool's TCP listener, and whether that is the kernel's doing;
/// `None`: something does, or there is no such listener.
fn unheld(pool: &Pool, profile: &Profile, kernel: i32) -> Option<(bool, String)> {
    if !spec::holds_tcp_listener(pool, profile) {
        return None;
    }
    if !profile.landlock {
        return Some((false, "Landlock is off".to_owned()));
    }
    if kernel < NEEDED {
        return Some((
            true,
            format!(
                "this kernel has Landlock ABI {} and {NEEDED} is needed, which Linux 6.7 brought",
                kernel.max(0)
            ),
        ));
    }
    // sendto(2) with MSG_FASTOPEN connects, and the kernel does not ask Landlock about it. Any
    // filter is made to refuse that, one of the user's own as well.
    let filtered = profile.seccomp.is_some();
    (!filtered)
        .then(|| (false, "seccomp is off, which refuses the Fast Open that goes past Landlock".to_owned()))
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use tempfile::TempDir;

    use super::*;
    use crate::config::pool::ProfileRef;
    use crate::config::{HostAccounts, load_pools, profile};

    /// A pool that listens there, with this in its file, which goes with the directory.
    fn pool(listen: &str, more: &str) -> (Pool, TempDir) {
        let place = tempfile::tempdir().unwrap();
        let file = place.path().join("blog.toml");
        std::fs::write(&file, format!("user = \"www-data\"\nlisten = {listen:?}\n{more}")).unwrap();
        let loaded = load_pools(&[file], &Default::default(), &HostAccounts::default());
        assert!(loaded.errors.is_empty(), "{:?}", loaded.errors);
        (loaded.pools.into_iter().next().unwrap(), place)
    }

    fn profile(name: &str) -> Profile {
        profile::load(&ProfileRef::Named(name.into()), Path::new("/nonexistent")).unwrap()
    }

    #[test]
    fn on_a_kernel_without_the_wall_only_compat_starts_and_says_what_is_open() {
        let (tcp, _place) = pool("127.0.0.1:9001", "");
        for name in ["strict", "hosting", "ci"] {
            let error = judge(&tcp, &profile(name), 3).unwrap_err();
            assert!(matches!(&error, TcpListenerError::Unheld(unheld) if unheld.of_kernel), "{error}");
            assert!(error.to_string().contains("this kernel has Landlock ABI 3 and 4 is needed"), "{error}");
        }
        assert_eq!(judge(&tcp, &profile("compat"), 2), Ok(()));
        assert!(unheld(&tcp, &profile("compat"), 2).is_some());
        assert_eq!(judge(&tcp, &Profile { tcp_listener_held: false, ..profile("hosting") }, 2), Ok(()));
        let (unix, _place) = pool("/run/blog.sock", "");
        for name in ["strict", "hosting", "compat", "ci"] {
            assert_eq!(judge(&unix, &profile(name), 0), Ok(()));
            assert_eq!(unheld(&unix, &profile(name), 0), None);
        }
    }

    #[test]
    fn a_refusal_says_what_where_why_and_what_to_do() {
        let (tcp, place) = pool("127.0.0.1:9001", "");
        let demand = include_str!("../../profiles/hosting.toml")
            .lines()
            .position(|line| line == "tcp_listener_held = true")
            .unwrap();
        let blog = place.path().join("blog.toml");
        let line = format!(
            "{}:2: listening on TCP (127.0.0.1:9001) would be a way into the host's network, and the profile \
             hosting wants that held (tcp_listener_held, (built in)/hosting.toml:{}): this kernel has Landlock \
             ABI 2 and 4 is needed, which Linux 6.7 brought: listen on a unix socket, or write \
             tcp_listener_held = false in a profile of your own (base = \"hosting\")",
            blog.display(),
            demand + 1
        );
        assert_eq!(judge(&tcp, &profile("hosting"), 2).unwrap_err().to_string(), line);
        let own = place.path().join("own.toml");
        std::fs::write(&own, "# mine\nlandlock = false\ntcp_listener_held = true\n").unwrap();
        let named = ProfileRef::File(own.to_str().unwrap().parse().unwrap());
        let told = judge(&tcp, &profile::load(&named, place.path()).unwrap(), 7).unwrap_err().to_string();
        let demand = format!("(tcp_listener_held, {}:3): Landlock is off: ", own.display());
        let cure = format!("or write tcp_listener_held = false in {}", own.display());
        assert!(told.contains(&demand) && told.ends_with(&cure), "{told}");
    }

    #[test]
    fn where_the_wall_is_there_nothing_is_said() {
        let (tcp, _place) = pool("[::1]:9001", "");
        for name in ["strict", "hosting", "compat", "ci"] {
            assert_eq!(judge(&tcp, &profile(name), 4), Ok(()));
            assert_eq!(unheld(&tcp, &profile(name), 4), None);
        }
        // The host's network is what that mode is for.
        let (host, _place) = pool("127.0.0.1:9001", "[network]\nmode = \"host\"\n");
        assert_eq!(judge(&host, &profile("hosting"), 2), Ok(()));
        assert_eq!(unheld(&host, &profile("hosting"), 2), None);
    }

    #[test]
    fn a_wall_that_the_profile_takes_down_is_missed() {
        let (tcp, _place) = pool("127.0.0.1:9001", "");
        let off = Profile { landlock: false, ..profile("hosting") };
        assert_eq!(unheld(&tcp, &off, 7), Some((false, "Landlock is off".to_owned())));
        let written = |profile| Profile { tcp_listener_held: false, ..profile };
        for open in [off, Profile { seccomp: None, ..profile("hosting") }] {
            let error = judge(&tcp, &open, 7).unwrap_err();
            assert!(matches!(&error, TcpListenerError::Unheld(unheld) if !unheld.of_kernel), "{error}");
            assert_eq!(judge(&tcp, &written(open), 7), Ok(()));
        }
    }

    #[test]
    fn outbound_and_tcp_are_refused_together() {
        let (both, _place) = pool("127.0.0.1:9001", "[network]\nmode = \"outbound\"\n");
        let told = judge(&both, &profile("compat"), 7).unwrap_err().to_string();
        assert!(told.contains("127.0.0.1:9001") && told.ends_with("listen on a unix socket"), "{told}");
    }
}
