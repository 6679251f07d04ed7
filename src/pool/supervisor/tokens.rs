//! What an epoll event is about, packed into the one number that the kernel
//! keeps for each descriptor. It knows no pool, only the places in a list.

/// What an epoll event is about.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Token {
    Signal,
    Listener(usize),
    Status(usize),
    End(usize),
    Log(usize),
    Refused(usize),
    Uplink(usize),
    /// The host's own addresses have changed.
    Addresses,
    /// A counter of a generation's cgroup.
    Limit(usize),
    /// The kernel's audit.
    Audit,
    /// What an image's php-fpm says of itself.
    Answer(usize),
    /// Calls of a generation's program that wait to be let through.
    Gate(usize),
    /// A template has ended that nobody has used.
    Templates,
}

impl Token {
    pub(super) fn pack(self) -> u64 {
        let (kind, index) = match self {
            Self::Signal => (0, 0),
            Self::Listener(index) => (1, index),
            Self::Status(index) => (2, index),
            Self::End(index) => (3, index),
            Self::Log(index) => (4, index),
            Self::Refused(index) => (5, index),
            Self::Limit(index) => (6, index),
            Self::Audit => (7, 0),
            Self::Answer(index) => (8, index),
            Self::Gate(index) => (9, index),
            Self::Uplink(index) => (10, index),
            Self::Addresses => (11, 0),
            Self::Templates => (12, 0),
        };
        (kind << 56) | index as u64
    }

    pub(super) fn unpack(data: u64) -> Self {
        let index = (data & (u64::MAX >> 8)) as usize;
        match data >> 56 {
            1 => Self::Listener(index),
            2 => Self::Status(index),
            3 => Self::End(index),
            4 => Self::Log(index),
            5 => Self::Refused(index),
            6 => Self::Limit(index),
            7 => Self::Audit,
            8 => Self::Answer(index),
            9 => Self::Gate(index),
            10 => Self::Uplink(index),
            11 => Self::Addresses,
            12 => Self::Templates,
            _ => Self::Signal,
        }
    }
}
