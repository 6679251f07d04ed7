//! A profile's file and its bases: found, and made one profile.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};

use oci_spec::runtime::LinuxSeccomp;
use toml::Spanned;

use super::super::pool::{IoMax, Limits, Network, ProfileRef};
use super::super::types::AbsPath;
use super::raw::{Layer, Raw, RawLimits, near};
use super::{Dangerous, Execve, Namespace, Proc, Profile, ProfileError, seccomp_file, sysctl, uses};

/// The profiles that are compiled in, and their files.
const BUILT_IN: [(&str, &str); 4] = [
    ("strict", include_str!("../../../profiles/strict.toml")),
    (BOTTOM, include_str!("../../../profiles/hosting.toml")),
    ("compat", include_str!("../../../profiles/compat.toml")),
    ("ci", include_str!("../../../profiles/ci.toml")),
];

/// The one that says every key, and has no base.
const BOTTOM: &str = "hosting";

/// The names of the profiles that are compiled in.
pub(super) fn names() -> [&'static str; 4] {
    BUILT_IN.map(|(name, _)| name)
}

/// A profile's file, its base's, and so on down to the built-in `hosting`.
pub(super) struct Layers<'a> {
    directory: &'a Path,
    stack: Vec<Layer>,
    looked_for: Vec<PathBuf>,
}

impl<'a> Layers<'a> {
    pub(super) fn new(directory: &'a Path) -> Self {
        Self { directory, stack: Vec::new(), looked_for: Vec::new() }
    }

    /// Reads the file that `profile` means and, after it, its bases.
    pub(super) fn read(&mut self, profile: &ProfileRef) -> Result<(), ProfileError> {
        self.push(profile)?;
        self.read_bases()
    }

    /// Reads the built-in profile `name` and its bases.
    pub(super) fn read_built_in(&mut self, name: &str) -> Result<(), ProfileError> {
        self.push_built_in(name);
        self.read_bases()
    }

    fn read_bases(&mut self) -> Result<(), ProfileError> {
        while let Some(base) = self.base_of_last()? {
            self.push(&base)?;
        }
        Ok(())
    }

    fn push(&mut self, profile: &ProfileRef) -> Result<(), ProfileError> {
        match profile {
            ProfileRef::File(path) => self.push_file(path.as_path().to_owned()),
            ProfileRef::Named(name) => self.push_named(name),
        }
    }

    fn push_named(&mut self, name: &str) -> Result<(), ProfileError> {
        let file = self.file_of(name);
        // What is compiled in rests on nothing else: `strict` is the same on every machine
        // that has no file of that name. And a file of a built-in's name builds on the built-in.
        let above = self.stack.last().is_some_and(|layer| layer.built_in);
        let seen = self.stack.iter().any(|layer| layer.file == file);
        if (above || seen) && self.push_built_in(name) {
            return Ok(());
        }
        match self.push_file(file.clone()) {
            Err(ProfileError::Read { source, .. }) if source.kind() == std::io::ErrorKind::NotFound => {
                if self.push_built_in(name) { Ok(()) } else { Err(self.about_base(unknown(name, &file))) }
            }
            other => other,
        }
    }

    fn push_file(&mut self, file: PathBuf) -> Result<(), ProfileError> {
        if self.stack.iter().any(|layer| layer.file == file) {
            return Err(self.about_base(format!("{} is its own base", file.display())));
        }
        self.looked_for.push(file.clone());
        match std::fs::read_to_string(&file) {
            Ok(text) => self.stack.push(Layer::parse(file, text)?),
            Err(source) => return Err(ProfileError::Read { file, source }),
        }
        Ok(())
    }

    /// Puts the built-in profile `name` below the others; false if there is none.
    fn push_built_in(&mut self, name: &str) -> bool {
        let Some((_, text)) = BUILT_IN.into_iter().find(|(known, _)| *known == name) else { return false };
        let file = Path::new("(built in)").join(format!("{name}.toml"));
        let mut layer = Layer::parse(file, text.to_owned()).expect("compiled in, and a test reads it");
        layer.built_in = true;
        self.stack.push(layer);
        true
    }

    fn file_of(&self, name: &str) -> PathBuf {
        self.directory.join(format!("{name}.toml"))
    }

    /// What the last layer builds on; `None` below the built-in `hosting`.
    fn base_of_last(&self) -> Result<Option<ProfileRef>, ProfileError> {
        let Some(layer) = self.stack.last() else { return Ok(None) };
        let named = |name: &str| Ok(Some(ProfileRef::Named(name.into())));
        let Some(base) = &layer.raw.base else {
            let own_name = names().into_iter().find(|name| self.file_of(name) == layer.file);
            return if layer.built_in { Ok(None) } else { named(own_name.unwrap_or(BOTTOM)) };
        };
        let name = base.get_ref();
        if name.starts_with('/') {
            return layer.word(base).map(ProfileRef::File).map(Some);
        }
        if name.is_empty() || name.contains('/') || name.starts_with('.') {
            let reason = format!("{name:?} is no profile: write a name or an absolute path");
            return Err(layer.error(base.span(), reason));
        }
        named(name)
    }

    /// An error about the base of the last layer; there is none where the pool's own word is wrong.
    fn about_base(&self, reason: String) -> ProfileError {
        match self.stack.last() {
            Some(layer) => {
                layer.error(layer.raw.base.as_ref().map_or(0..0, Spanned::span), format!("base: {reason}"))
            }
            None => ProfileError::Unknown(reason),
        }
    }

    /// The first answer to `key`, asked from the profile down to its last base.
    fn first<'l, T>(
        &'l self,
        key: impl Fn(&'l Raw) -> Option<&'l T>,
    ) -> Result<(&'l Layer, &'l T), ProfileError> {
        let found = self.stack.iter().find_map(|layer| key(&layer.raw).map(|value| (layer, value)));
        found.ok_or_else(|| ProfileError::Unknown("the built-in profile lacks a key".into()))
    }

    /// One profile out of all layers.
    pub(super) fn resolve(self) -> Result<Profile, ProfileError> {
        let top = &self.stack[0];
        let (masks, masked) = self.first(|raw| raw.masked_paths.as_ref())?;
        let (readers, readonly) = self.first(|raw| raw.readonly_paths.as_ref())?;
        let (keeper, capabilities) = self.first(|raw| raw.capabilities.as_ref())?;
        let (mode_layer, mode) = self.first(|raw| raw.network.as_ref()?.mode.as_ref())?;
        let (executor, executable) = self.first(|raw| raw.landlock_execute.as_ref())?;
        let seccomp = self.seccomp()?;
        let namespaces = self.namespaces()?;
        Ok(Profile {
            name: top.file.file_stem().unwrap_or_default().to_string_lossy().into(),
            base: top.raw.base.as_ref().map(|base| base.get_ref().as_str().into()),
            landlock: *self.first(|raw| raw.landlock.as_ref())?.1,
            landlock_abi: self.landlock_abi()?,
            landlock_execute: uses::kinds(executor, executable)?,
            loopback_tcp: *self.first(|raw| raw.loopback_tcp.as_ref())?.1,
            tcp_listener_held: *self.first(|raw| raw.tcp_listener_held.as_ref())?.1,
            listen: true,
            no_new_privs: self.no_new_privs(seccomp.is_some())?,
            dangerous: self.dangerous()?,
            execve: self.execve(seccomp.is_some())?,
            seccomp,
            capabilities: keeper.capabilities(capabilities)?,
            close_descriptors: *self.first(|raw| raw.close_descriptors.as_ref())?.1,
            proc: self.proc()?,
            masked_paths: masks.words(masked)?,
            readonly_paths: readers.words(readonly)?,
            mount_flags: uses::mount_flags(|kind| {
                self.first(|raw| raw.mount_flags.as_ref().and_then(|flags| kind(flags)))
            })?,
            network: mode_layer.word::<Network>(mode)?,
            sysctl: sysctl::all(&self.stack, &namespaces)?,
            namespaces,
            limits: self.limits()?,
            looked_for: self.looked_for.iter().cloned().chain(self.seccomp_file()).collect(),
            files: self.stack.into_iter().map(|layer| (layer.file, layer.text)).collect(),
        })
    }

    /// The file of the filter, where it is not compiled in.
    fn seccomp_file(&self) -> Option<PathBuf> {
        let (_, word) = self.first(|raw| raw.seccomp.as_ref()).ok()?;
        Some(PathBuf::from(word.get_ref())).filter(|path| path.is_absolute())
    }

    fn seccomp(&self) -> Result<Option<LinuxSeccomp>, ProfileError> {
        let (layer, word) = self.first(|raw| raw.seccomp.as_ref())?;
        match word.get_ref().as_str() {
            "off" => Ok(None),
            name if seccomp_file::built_in(name).is_some() => Ok(seccomp_file::built_in(name)),
            path if path.starts_with('/') => {
                let path: AbsPath = layer.word(word)?;
                seccomp_file::read(path.as_path()).map(Some)
            }
            other => {
                let reason = format!(
                    "{other:?} is no filter: write {}, \"off\" or an absolute path",
                    seccomp_file::NAMES
                );
                Err(layer.error(word.span(), reason))
            }
        }
    }

    fn landlock_abi(&self) -> Result<u32, ProfileError> {
        let (layer, abi) = self.first(|raw| raw.landlock_abi.as_ref())?;
        u32::try_from(*abi.get_ref()).ok().filter(|abi| *abi > 0).ok_or_else(|| {
            let reason =
                format!("{} is no ABI of Landlock: write 1 or more (landlock = false is off)", abi.get_ref());
            layer.error(abi.span(), reason)
        })
    }

    fn dangerous(&self) -> Result<Dangerous, ProfileError> {
        let (layer, word) = self.first(|raw| raw.dangerous.as_ref())?;
        match word.get_ref().as_str() {
            "errno" => Ok(Dangerous::Errno),
            "kill" => Ok(Dangerous::Kill),
            other => Err(layer.error(word.span(), format!("{other:?} is neither \"errno\" nor \"kill\""))),
        }
    }

    fn execve(&self, filtered: bool) -> Result<Execve, ProfileError> {
        let (layer, word) = self.first(|raw| raw.execve.as_ref())?;
        match word.get_ref().as_str() {
            "any" => Ok(Execve::Any),
            "once" if filtered => Ok(Execve::Once),
            "once" => {
                let reason = "execve = \"once\" is a part of the seccomp filter: \
                              with seccomp = \"off\" write \"any\"";
                Err(layer.error(word.span(), reason))
            }
            other => Err(layer.error(word.span(), format!("{other:?} is neither \"any\" nor \"once\""))),
        }
    }

    fn no_new_privs(&self, filtered: bool) -> Result<bool, ProfileError> {
        let (layer, word) = self.first(|raw| raw.no_new_privs.as_ref())?;
        if !*word.get_ref() && filtered {
            let reason = "no_new_privs = false needs seccomp = \"off\": the kernel takes a filter \
                          of an unprivileged process only with it (seccomp(2))";
            return Err(layer.error(word.span(), reason));
        }
        Ok(*word.get_ref())
    }

    fn namespaces(&self) -> Result<BTreeSet<Namespace>, ProfileError> {
        let (layer, shared) = self.first(|raw| raw.share.as_ref())?;
        let mut own = BTreeSet::from(Namespace::ALL);
        for word in shared {
            let Some(namespace) = Namespace::ALL.into_iter().find(|n| n.as_str() == word.get_ref()) else {
                let near = near(word.get_ref(), Namespace::ALL.map(Namespace::as_str));
                return Err(layer.error(word.span(), format!("{:?} is no namespace{near}", word.get_ref())));
            };
            // The root is built in the one, and php-fpm is process 1 of the other.
            if matches!(namespace, Namespace::Mount | Namespace::Pid) {
                let reason = format!("the {namespace} namespace cannot be shared: take it out of the list");
                return Err(layer.error(word.span(), reason));
            }
            own.remove(&namespace);
        }
        Ok(own)
    }

    fn proc(&self) -> Result<Proc, ProfileError> {
        let (layer, word) = self.first(|raw| raw.proc.as_ref())?;
        match word.get_ref().as_str() {
            "pid" => Ok(Proc::Pid),
            "full" => Ok(Proc::Full),
            other => Err(layer.error(word.span(), format!("{other:?} is neither \"pid\" nor \"full\""))),
        }
    }

    fn limits(&self) -> Result<Limits, ProfileError> {
        Ok(Limits {
            memory: self.limit(|limits| limits.memory.as_ref(), Layer::bytes)?,
            memory_high: self.limit(|limits| limits.memory_high.as_ref(), Layer::bytes)?,
            oom_group: self.limit(|limits| limits.oom_group.as_ref(), |_, on| Ok(Some(*on.get_ref())))?,
            swap: self.limit(|limits| limits.swap.as_ref(), Layer::bytes)?,
            tasks: self.limit(|limits| limits.tasks.as_ref(), Layer::count)?,
            cpu: self.limit(|limits| limits.cpu.as_ref(), Layer::cores)?,
            cpu_weight: self.limit(|limits| limits.cpu_weight.as_ref(), Layer::weight)?,
            io_weight: self.limit(|limits| limits.io_weight.as_ref(), Layer::weight)?,
            io_max: self.io_max()?,
            tmp: self.limit(|limits| limits.tmp.as_ref(), Layer::bytes)?,
            run: self.limit(|limits| limits.run.as_ref(), Layer::bytes)?,
            shm: self.limit(|limits| limits.shm.as_ref(), Layer::bytes)?,
            open_files: self.limit(|limits| limits.open_files.as_ref(), Layer::count)?,
            file_size: self.limit(|limits| limits.file_size.as_ref(), Layer::bytes)?,
            cpu_time: self.limit(|limits| limits.cpu_time.as_ref(), Layer::span)?,
            core: self.limit(|limits| limits.core.as_ref(), Layer::bytes)?,
            memlock: self.limit(|limits| limits.memlock.as_ref(), Layer::bytes)?,
            msgqueue: self.limit(|limits| limits.msgqueue.as_ref(), Layer::bytes)?,
            sigpending: self.limit(|limits| limits.sigpending.as_ref(), Layer::count)?,
            stack: self.limit(|limits| limits.stack.as_ref(), Layer::bytes)?,
        })
    }

    fn io_max(&self) -> Result<Vec<IoMax>, ProfileError> {
        match self.first(|raw| raw.limits.as_ref().and_then(|limits| limits.io_max.as_ref())) {
            Ok((layer, list)) => list.iter().map(|raw| layer.io_max(raw)).collect(),
            Err(_) => Ok(Vec::new()),
        }
    }

    fn limit<'l, R: 'l, T>(
        &'l self,
        key: impl Fn(&'l RawLimits) -> Option<&'l R>,
        value: impl Fn(&'l Layer, &'l R) -> Result<Option<T>, ProfileError>,
    ) -> Result<Option<T>, ProfileError> {
        match self.first(|raw| raw.limits.as_ref().and_then(&key)) {
            Ok((layer, raw)) => value(layer, raw),
            Err(_) => Ok(None),
        }
    }
}

fn unknown(name: &str, file: &Path) -> String {
    match near(name, names()).as_str() {
        "" => format!("unknown profile {name:?}: there is no {}", file.display()),
        near => format!("unknown profile {name:?}{near} There is no {}", file.display()),
    }
}
