//! BPF links. A link keeps a program on an interface as long as its descriptor is open and no other process breaks
//! it.
//!
//! They are created here and not by the loader, which does not expose their descriptors: these alone tell whether a
//! link still holds its program, and on which interface.

use std::{
    io,
    os::fd::{AsFd, AsRawFd, FromRawFd, OwnedFd},
};

use aya::programs::ProgramFd;

/// linux/bpf.h, `enum bpf_cmd`.
mod command {
    pub(super) const OBJ_GET_INFO_BY_FD: libc::c_long = 15;
    pub(super) const LINK_CREATE: libc::c_long = 28;
    pub(super) const LINK_GET_FD_BY_ID: libc::c_long = 30;
    pub(super) const LINK_DETACH: libc::c_long = 34;
}

/// linux/bpf.h, `enum bpf_attach_type`.
const BPF_XDP: u32 = 37;
const BPF_TCX_EGRESS: u32 = 47;

/// linux/if_link.h.
pub(super) const XDP_FLAGS_SKB_MODE: u32 = 1 << 1;
pub(super) const XDP_FLAGS_DRV_MODE: u32 = 1 << 2;

/// Where a program is attached.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Place {
    /// Into the driver.
    Driver,
    /// Behind the driver.
    BehindDriver,
    /// On egress, behind other programs (Linux 6.6).
    WayOut,
}

/// What a link holds.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) struct Held {
    /// Id of the program, which others can replace.
    pub(super) program: u32,
    /// Index of the interface, in the network namespace in which it is by now. `None` if there is none any more: the
    /// link was broken, or the interface is gone.
    pub(super) interface: Option<u32>,
}

/// A link. Dropping it detaches the program.
#[derive(Debug)]
pub(super) struct Link(OwnedFd);

impl Link {
    /// Attaches a program to an interface.
    pub(super) fn create(program: &ProgramFd, interface: u32, place: Place) -> io::Result<Self> {
        let (attach_type, flags) = match place {
            Place::Driver => (BPF_XDP, XDP_FLAGS_DRV_MODE),
            Place::BehindDriver => (BPF_XDP, XDP_FLAGS_SKB_MODE),
            Place::WayOut => (BPF_TCX_EGRESS, 0),
        };
        let program = program.as_fd().as_raw_fd().cast_unsigned();
        bpf(command::LINK_CREATE, &mut [program, interface, attach_type, flags, 0, 0, 0, 0]).and_then(owned)
    }

    /// Opens the link with this id.
    pub(super) fn with_id(id: u32) -> io::Result<Self> {
        bpf(command::LINK_GET_FD_BY_ID, &mut [id, 0, 0]).and_then(owned)
    }

    /// Queries what it holds.
    pub(super) fn holds(&self) -> io::Result<Held> {
        /// `struct bpf_link_info` up to the first field of its union, which is the interface for both kinds of link.
        #[derive(Default)]
        #[repr(C, align(8))]
        struct Info {
            kind: u32,
            id: u32,
            program: u32,
            _padding: u32,
            interface: u32,
            _rest: u32,
        }

        let mut info = Info::default();
        let at = (&raw mut info).expose_provenance() as u64;
        let descriptor = self.0.as_raw_fd().cast_unsigned();
        let [low, high] = [at as u32, (at >> 32) as u32];
        let halves = if cfg!(target_endian = "little") { [low, high] } else { [high, low] };
        let mut attributes = [descriptor, size_of::<Info>() as u32, halves[0], halves[1]];
        bpf(command::OBJ_GET_INFO_BY_FD, &mut attributes)?;
        let interface = Some(info.interface).filter(|index| *index != 0);
        Ok(Held { program: info.program, interface })
    }

    /// Breaks the link for all its holders.
    pub(super) fn detach(&self) -> io::Result<()> {
        bpf(command::LINK_DETACH, &mut [self.0.as_raw_fd().cast_unsigned()]).map(|_| ())
    }
}

fn owned(descriptor: i32) -> io::Result<Link> {
    // SAFETY: the kernel has just given us this descriptor, and nobody else knows it.
    Ok(Link(unsafe { OwnedFd::from_raw_fd(descriptor) }))
}

/// Calls bpf(2) with a command. The kernel takes missing attributes for zero.
fn bpf<const N: usize>(command: libc::c_long, attributes: &mut [u32; N]) -> io::Result<i32> {
    // SAFETY: the kernel reads and writes as many bytes as we say. Where attributes point to more memory, the caller
    // ensures that it is valid.
    let result =
        unsafe { libc::syscall(libc::SYS_bpf, command, attributes.as_mut_ptr(), size_of::<[u32; N]>()) };
    if result < 0 { Err(io::Error::last_os_error()) } else { i32::try_from(result).map_err(io::Error::other) }
}
