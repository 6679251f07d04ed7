//! What a pool gets by listening on TCP beside its visitors. A TCP socket belongs to
//! the network namespace in which it was made, whoever holds it: the listening socket,
//! and every connection that is accepted from it, can be disconnected (connect(2) to
//! AF_UNSPEC) and connected to whatever the *host* reaches, its loopback among it.
//! Landlock's rules for TCP are about the process and not about the namespace: they
//! hold that. The pool's packet filter is in another namespace and does not.

use crate::config::pool::{Network, Pool};
use crate::config::profile::Profile;
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
    #[error(
        "listening on TCP ({listen}) would be a way into the host's network, which the profile {profile} wants held \
         (tcp_listener_held): {why}; listen on a unix socket"
    )]
    Unheld {
        /// The first TCP address.
        listen: Listen,
        /// The profile's name.
        profile: Box<str>,
        /// What is missing.
        why: String,
        /// Whether it is the kernel that lacks it.
        of_kernel: bool,
    },
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
        Some((of_kernel, why)) if profile.tcp_listener_held => Err(TcpListenerError::Unheld {
            listen: listen.clone(),
            profile: profile.name.clone(),
            why,
            of_kernel,
        }),
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
            format!("this kernel has Landlock ABI {} and {NEEDED} is needed", kernel.max(0)),
        ));
    }
    // sendto(2) with MSG_FASTOPEN connects, and the kernel does not ask Landlock about it.
    let filtered = profile.seccomp.is_some();
    (!filtered)
        .then(|| (false, "seccomp is off, which refuses the Fast Open that goes past Landlock".to_owned()))
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use super::*;
    use crate::config::HostAccounts;
    use crate::config::load_pools;
    use crate::config::profile;

    /// A pool that listens there, with this in its file.
    fn pool(listen: &str, more: &str) -> Pool {
        let place = tempfile::tempdir().unwrap();
        let file = place.path().join("blog.toml");
        std::fs::write(&file, format!("listen = {listen:?}\nuser = \"www-data\"\n{more}")).unwrap();
        let loaded = load_pools(&[file], &Default::default(), &HostAccounts::default());
        assert!(loaded.errors.is_empty(), "{:?}", loaded.errors);
        loaded.pools.into_iter().next().unwrap()
    }

    fn profile(name: &str) -> Profile {
        profile::load(&crate::config::pool::ProfileRef::Named(name.into()), Path::new("/nonexistent"))
            .unwrap()
    }

    #[test]
    fn on_a_kernel_without_the_wall_strict_does_not_start_and_hosting_says_so() {
        let tcp = pool("127.0.0.1:9001", "");
        let told = judge(&tcp, &profile("strict"), 2).unwrap_err().to_string();
        assert!(told.contains("this kernel has Landlock ABI 2 and 4 is needed"), "{told}");
        assert!(judge(&tcp, &profile("ci"), 3).is_err());
        for name in ["hosting", "compat"] {
            assert_eq!(judge(&tcp, &profile(name), 2), Ok(()));
            assert!(unheld(&tcp, &profile(name), 2).is_some());
        }
        let unix = pool("/run/blog.sock", "");
        assert_eq!(judge(&unix, &profile("strict"), 0), Ok(()));
        assert_eq!(unheld(&unix, &profile("hosting"), 0), None);
    }

    #[test]
    fn where_the_wall_is_there_nothing_is_said() {
        let tcp = pool("[::1]:9001", "");
        for name in ["strict", "hosting", "compat", "ci"] {
            assert_eq!(judge(&tcp, &profile(name), 4), Ok(()));
            assert_eq!(unheld(&tcp, &profile(name), 4), None);
        }
        // The host's network is what that mode is for.
        let host = pool("127.0.0.1:9001", "[network]\nmode = \"host\"\n");
        assert_eq!(unheld(&host, &profile("hosting"), 2), None);
    }

    #[test]
    fn a_wall_that_the_profile_takes_down_is_missed() {
        let tcp = pool("127.0.0.1:9001", "");
        let off = Profile { landlock: false, ..profile("hosting") };
        assert_eq!(unheld(&tcp, &off, 7), Some((false, "Landlock is off".to_owned())));
        assert!(judge(&tcp, &Profile { landlock: false, ..profile("strict") }, 7).is_err());
        assert!(unheld(&tcp, &Profile { seccomp: None, ..profile("hosting") }, 7).is_some());
    }

    #[test]
    fn outbound_and_tcp_are_refused_together() {
        let both = pool("127.0.0.1:9001", "[network]\nmode = \"outbound\"\n");
        let told = judge(&both, &profile("hosting"), 7).unwrap_err().to_string();
        assert!(told.contains("127.0.0.1:9001") && told.ends_with("listen on a unix socket"), "{told}");
    }
}
