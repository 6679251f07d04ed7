//! What each kind of a pool's mounts is for: `[mount_flags]` and `landlock_execute`.

use std::collections::BTreeSet;
use std::fmt;

use toml::Spanned;

use super::ProfileError;
use super::raw::{Layer, RawMountFlags, near};

/// A kind of mount, by what is in it. What the image brings is none of these.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum MountKind {
    /// `[[mount]]` with `access = "ro"`.
    Code,
    /// `[[mount]]` with `access = "rw"`, and the pool's own state.
    Writable,
    /// `/tmp`, `/run` and `/dev/shm`.
    Tmp,
}

impl MountKind {
    /// All of them.
    pub const ALL: [Self; 3] = [Self::Code, Self::Writable, Self::Tmp];

    /// Its word in a profile.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Code => "code",
            Self::Writable => "writable",
            Self::Tmp => "tmp",
        }
    }
}

impl fmt::Display for MountKind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

/// A flag of mount(8).
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum MountFlag {
    /// `ro`
    ReadOnly,
    /// `nosuid`: set-user-id bits and file capabilities are ignored.
    NoSuid,
    /// `nodev`: device nodes are dead.
    NoDev,
    /// `noexec`: nothing is executed.
    NoExec,
}

impl MountFlag {
    const ALL: [Self; 4] = [Self::ReadOnly, Self::NoSuid, Self::NoDev, Self::NoExec];

    /// Its word in a profile, which is mount(8)'s.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::ReadOnly => "ro",
            Self::NoSuid => "nosuid",
            Self::NoDev => "nodev",
            Self::NoExec => "noexec",
        }
    }
}

/// `[mount_flags]`: with which flags each kind is mounted.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct MountFlags {
    /// Of [`MountKind::Code`].
    pub code: BTreeSet<MountFlag>,
    /// Of [`MountKind::Writable`].
    pub writable: BTreeSet<MountFlag>,
    /// Of [`MountKind::Tmp`].
    pub tmp: BTreeSet<MountFlag>,
}

impl MountFlags {
    /// The flags of one kind.
    pub fn of(&self, kind: MountKind) -> &BTreeSet<MountFlag> {
        match kind {
            MountKind::Code => &self.code,
            MountKind::Writable => &self.writable,
            MountKind::Tmp => &self.tmp,
        }
    }
}

/// A list of words and the file that has it.
type Said<'l> = (&'l Layer, &'l Vec<Spanned<String>>);
/// Picks a kind's list out of a file's table.
type Pick = fn(&RawMountFlags) -> Option<&Vec<Spanned<String>>>;

/// The flags of each kind, each asked of `first` by itself.
pub(super) fn mount_flags<'l>(
    first: impl Fn(Pick) -> Result<Said<'l>, ProfileError>,
) -> Result<MountFlags, ProfileError> {
    Ok(MountFlags {
        code: flags(first(|raw| raw.code.as_ref())?, true)?,
        writable: flags(first(|raw| raw.writable.as_ref())?, false)?,
        tmp: flags(first(|raw| raw.tmp.as_ref())?, false)?,
    })
}

fn flags((layer, words): Said<'_>, may_be_read_only: bool) -> Result<BTreeSet<MountFlag>, ProfileError> {
    let one = |word: &Spanned<String>| {
        let Some(flag) = MountFlag::ALL.into_iter().find(|flag| flag.as_str() == word.get_ref()) else {
            let near = near(word.get_ref(), MountFlag::ALL.map(MountFlag::as_str));
            return Err(layer.error(word.span(), format!("{:?} is no mount flag{near}", word.get_ref())));
        };
        if flag == MountFlag::ReadOnly && !may_be_read_only {
            let reason = "\"ro\" is for code: the others are there to be written in";
            return Err(layer.error(word.span(), reason));
        }
        Ok(flag)
    };
    words.iter().map(one).collect()
}

/// Kinds by their words.
pub(super) fn kinds(layer: &Layer, words: &[Spanned<String>]) -> Result<BTreeSet<MountKind>, ProfileError> {
    let one = |word: &Spanned<String>| {
        MountKind::ALL.into_iter().find(|kind| kind.as_str() == word.get_ref()).ok_or_else(|| {
            let near = near(word.get_ref(), MountKind::ALL.map(MountKind::as_str));
            layer.error(word.span(), format!("{:?} is no kind of mount{near}", word.get_ref()))
        })
    };
    words.iter().map(one).collect()
}
