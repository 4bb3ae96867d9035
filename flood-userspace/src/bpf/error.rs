//! What can go wrong between user space and the kernel, in terms that an operator understands.
//!
//! Every message says what was attempted, on what, why it failed, and what to do about it.

use std::{error::Error, io};

use aya::maps::MapError;

use crate::lists::EditError;

/// A failure of the kernel side.
#[derive(thiserror::Error, Debug)]
pub enum BpfError {
    /// Missing privilege.
    #[error(
        "{what}: not permitted. Floodgate must run as root, or with the capabilities CAP_BPF, CAP_NET_ADMIN and \
         CAP_PERFMON: try it with sudo"
    )]
    NotPermitted {
        /// What was attempted.
        what: String,
    },

    /// Kernel older than the oldest supported release.
    #[error(
        "this is Linux {release}; Floodgate needs 6.1 or newer. Debian 12, Ubuntu 24.04 and RHEL 10 have such a kernel"
    )]
    KernelTooOld {
        /// Release of the running kernel.
        release: String,
    },

    /// The tables do not fit.
    #[error(
        "the tables of {slots} sources and of the lists need {needed_mib} MiB, and the machine has {available_mib} MiB \
         to spare: lower `sources.table`, `lists.ipv4` or `lists.ipv6`"
    )]
    TooLarge {
        /// Slots in each table.
        slots: u64,
        /// Memory that the tables need.
        needed_mib: u64,
        /// Half of what the kernel says is available.
        available_mib: u64,
    },

    /// The kernel refused memory for a map.
    #[error(
        "the kernel has no memory for the tables (map {map}): lower `sources.table`, `lists.ipv4` or `lists.ipv6`, or raise the \
         memory limit of the service"
    )]
    NoMemory {
        /// The map.
        map: String,
    },

    /// No such interface.
    #[error("there is no interface {name}. There are: {}", have.join(", "))]
    NoSuchInterface {
        /// As given.
        name: String,
        /// The interfaces that there are.
        have: Vec<String>,
    },

    /// Another program is attached.
    #[error(
        "{interface} has an XDP program already: {program} (id {id}). `--replace` puts Floodgate in its place; it is \
         not put back afterwards"
    )]
    Occupied {
        /// The interface.
        interface: String,
        /// Name of the program.
        program: String,
        /// Its id in the kernel.
        id: u32,
    },

    /// The loopback receives packets from this host alone.
    #[error(
        "{interface} is the loopback: what comes there is from this host to itself, and would be dropped as `land`. Guard \
         the interface to the network; with `sanity.land` and `sanity.loopback_source` false, `--force` guards this one, too"
    )]
    Loopback {
        /// The interface.
        interface: String,
    },

    /// The interface receives something other than Ethernet frames or IP packets.
    #[error(
        "{interface} is of the type {kind}: a filter finds neither an Ethernet nor an IP header at the beginning of what comes \
         there. Guard the interface that carries its packets"
    )]
    UnknownLinkLayer {
        /// The interface.
        interface: String,
        /// What the kernel calls its link layer.
        kind: String,
    },

    /// Another Floodgate.
    #[error(
        "{interface} is already guarded by another floodgate (program id {id}). `floodgate status` asks it, \
         `floodgate detach {interface}` makes it let go"
    )]
    AlreadyGuarded {
        /// The interface.
        interface: String,
        /// Id of its program in the kernel.
        id: u32,
    },

    /// An alternative name of an interface that is guarded.
    #[error("it is {interface}, which this daemon guards already")]
    AlreadyOurs {
        /// The name by which it is guarded.
        interface: String,
    },

    /// No native XDP.
    #[error(
        "the driver {driver} of {interface} has no native XDP: {cause}. Generic XDP works on any driver, but late \
         and slowly: `--attach generic`, or `attach = \"native-or-generic\"` in the configuration"
    )]
    NoNativeXdp {
        /// The interface.
        interface: String,
        /// Its driver.
        driver: String,
        /// What the kernel said.
        cause: io::Error,
    },

    /// The driver has native XDP, but not with the present settings of the interface.
    #[error(
        "the driver {driver} of {interface} refuses native XDP as the interface is set up: {cause}. Usual reasons are \
         large receive offload (`ethtool -K {interface} lro off`) and too few queues (`ethtool -L`); the last lines of \
         `dmesg` may say which. `--attach generic` works on any driver, but late and slowly"
    )]
    NativeRefused {
        /// The interface.
        interface: String,
        /// Its driver.
        driver: String,
        /// What the kernel said.
        cause: io::Error,
    },

    /// Attaching failed otherwise.
    #[error("attaching to {interface}: {cause}. `floodgate doctor {interface}` says what may be in the way")]
    Attach {
        /// The interface.
        interface: String,
        /// What the kernel said.
        cause: String,
    },

    /// The egress program is required, and cannot be attached.
    #[error(
        "{interface}: the program that notes what the host asks for cannot be attached to the way out: {cause}. \
         `proof.solicited = \"auto\"` does without it where it has to"
    )]
    Egress {
        /// The interface.
        interface: String,
        /// What the kernel said.
        cause: String,
    },

    /// Too many interfaces.
    #[error("{interface} would be one too many: a daemon guards at most {limit} interfaces")]
    TooManyInterfaces {
        /// The interface.
        interface: String,
        /// How many fit.
        limit: usize,
    },

    /// The verifier rejected the program.
    #[error("the kernel's verifier refuses the filter; please report this with the kernel's release:\n{log}")]
    Refused {
        /// The verifier's log.
        log: String,
    },

    /// The object was not built for this binary.
    #[error("the BPF object does not fit this binary: {what}. Build both together")]
    WrongObject {
        /// What does not fit.
        what: String,
    },

    /// A map could not be mapped into memory.
    #[error("mapping {map} into memory: {source}")]
    MapAccess {
        /// The map.
        map: &'static str,
        /// What the kernel said.
        source: io::Error,
    },

    /// A map could not be read or written.
    #[error("map {map}: {cause}")]
    Map {
        /// The map.
        map: &'static str,
        /// What the kernel said.
        cause: String,
    },

    /// The lists are full.
    #[error(transparent)]
    ListFull(EditError),

    /// Asking the kernel about interfaces failed.
    #[error("asking the kernel about interfaces: {cause}")]
    Netlink {
        /// What the kernel said.
        cause: String,
    },

    /// Anything else from aya.
    #[error("{what}: {cause}")]
    Other {
        /// What was attempted.
        what: &'static str,
        /// The chain of causes.
        cause: String,
    },
}

impl BpfError {
    /// Converts a failed access to a map.
    pub(super) fn map(map: &'static str, error: &MapError) -> Self {
        if errno(error) == Some(libc::EPERM) {
            return Self::NotPermitted { what: format!("accessing map {map}") };
        }
        Self::Map { map, cause: chain(error) }
    }

    /// Converts a failed load of the object, or of a program in it.
    pub(super) fn load(error: &(dyn Error + 'static)) -> Self {
        let text = chain(error);
        match errno(error) {
            Some(libc::EPERM) => Self::NotPermitted { what: "loading the filter into the kernel".into() },
            Some(libc::ENOMEM | libc::E2BIG) if text.contains("map") => Self::NoMemory { map: text },
            Some(libc::EACCES | libc::EINVAL | libc::E2BIG) => Self::Refused { log: text },
            _ => Self::Other { what: "loading the filter into the kernel", cause: text },
        }
    }

    /// Whether the operator can fix it with other arguments, rather than with privileges.
    pub fn is_usage(&self) -> bool {
        matches!(self, Self::NoSuchInterface { .. } | Self::TooManyInterfaces { .. })
    }
}

/// Returns the first error number in a chain of causes.
pub(super) fn errno(error: &(dyn Error + 'static)) -> Option<i32> {
    let mut next = Some(error);
    while let Some(error) = next {
        if let Some(number) = error.downcast_ref::<io::Error>().and_then(io::Error::raw_os_error) {
            return Some(number);
        }
        next = error.source();
    }
    None
}

/// Formats a chain of causes in one line, without repetitions.
pub(super) fn chain(error: &(dyn Error + 'static)) -> String {
    let mut text = error.to_string();
    let mut next = error.source();
    while let Some(error) = next {
        let cause = error.to_string();
        if !text.contains(&cause) {
            text = format!("{text}: {cause}");
        }
        next = error.source();
    }
    text
}
