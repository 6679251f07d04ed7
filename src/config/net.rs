//! `[network]` on its way from a file to a pool's [`Network`]: which key goes with which mode.

use std::ops::Range;

use toml::Spanned;

use super::error::ConfigError;
use super::explain::Source;
use super::network::{Destination, Network, Outbound, Ports, Service, sorted};
use super::raw::{NetworkMode, RawNetwork};

/// What a file's `[network]` says.
#[derive(Debug, Clone, Default)]
pub(super) struct NetworkDraft {
    mode: Option<NetworkMode>,
    allow: Option<Vec<Destination>>,
    dns: Option<bool>,
    connect: Option<Vec<u16>>,
    bind: Option<Vec<u16>>,
    sockets: Option<Vec<Service>>,
    /// The keys that go with one mode only: each with that mode and its place.
    bound: Vec<(&'static str, NetworkMode, Range<usize>)>,
}

impl NetworkDraft {
    /// What the file says; two keys that contradict each other in it are refused.
    pub(super) fn read(raw: RawNetwork, source: Source<'_>) -> Result<Self, ConfigError> {
        let RawNetwork { mode, allow, dns, connect, bind, sockets } = raw;
        let place = |span: Option<Range<usize>>, key, mode| span.map(|span| (key, mode, span));
        let bound = [
            place(allow.as_ref().map(Spanned::span), "allow", NetworkMode::Outbound),
            place(dns.as_ref().map(Spanned::span), "dns", NetworkMode::Outbound),
            place(connect.as_ref().map(Spanned::span), "connect", NetworkMode::Host),
            place(bind.as_ref().map(Spanned::span), "bind", NetworkMode::Host),
        ];
        if let Some(empty) = allow.as_ref().filter(|allow| allow.get_ref().is_empty()) {
            let what = "network.allow is an empty list: write mode = \"none\", or what is allowed";
            return Err(source.error(&empty.span(), what));
        }
        let ports = |list: Spanned<Vec<super::amounts::Whole<1, 65_535>>>| {
            sorted(list.into_inner().into_iter().map(|port| port.0 as u16).collect())
        };
        let draft = Self {
            mode,
            allow: allow.map(Spanned::into_inner),
            dns: dns.map(Spanned::into_inner),
            connect: connect.map(ports),
            bind: bind.map(ports),
            sockets,
            bound: bound.into_iter().flatten().collect(),
        };
        match mode {
            Some(mode) => draft.held_against(mode, source).map(|()| draft),
            None => Ok(draft),
        }
    }

    /// Refuses a key of this file that means nothing under `mode`.
    fn held_against(&self, mode: NetworkMode, source: Source<'_>) -> Result<(), ConfigError> {
        let Some((key, wanted, place)) = self.bound.iter().find(|(_, wanted, _)| *wanted != mode) else {
            return Ok(());
        };
        let (mode, wanted) = (mode.as_str(), wanted.as_str());
        let what = format!(
            "network.{key} goes with mode = \"{wanted}\", and the mode is \"{mode}\": change the mode or take {key} out"
        );
        Err(source.error(place, what))
    }

    /// The network that this draft over `under` is; `None`: what the profile says. Keys of `under` that do not go with the mode are left out.
    pub(super) fn finish(self, under: &Self, source: Source<'_>) -> Result<Option<Network>, ConfigError> {
        let Some(mode) = self.mode.or(under.mode) else {
            let Some((key, wanted, place)) = self.bound.first() else { return Ok(None) };
            let what = format!("network.{key} goes with mode = \"{}\": write that too", wanted.as_str());
            return Err(source.error(place, what));
        };
        self.held_against(mode, source)?;
        Ok(Some(match mode {
            NetworkMode::None => Network::None,
            NetworkMode::Outbound => Network::Outbound(Outbound {
                allow: self.allow.or_else(|| under.allow.clone()).unwrap_or_default(),
                dns: self.dns.or(under.dns).unwrap_or(true),
            }),
            NetworkMode::Host => Network::Host(Ports {
                connect: self.connect.or_else(|| under.connect.clone()),
                bind: self.bind.or_else(|| under.bind.clone()),
            }),
        }))
    }

    /// The services of this draft over `under`.
    pub(super) fn sockets_over(&self, under: &Self) -> Vec<Service> {
        self.sockets.clone().or_else(|| under.sockets.clone()).unwrap_or_else(|| Service::DATABASES.to_vec())
    }
}
