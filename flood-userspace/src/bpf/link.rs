//! Links: what holds a program on an interface, as long as the descriptor is open and nobody else breaks it.
//!
//! Made here and not by the loader, which does not give their descriptors out: they alone say whether a link still holds
//! its program, and on which interface.

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

/// Where a program is put.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Place {
    /// Into the driver.
    Driver,
    /// Behind the driver.
    BehindDriver,
    /// On the way out, behind other programs (Linux 6.6).
    WayOut,
}

/// What a link holds.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) struct Held {
    /// The program, which others can exchange.
    pub(super) program: u32,
    /// Number of the interface, in the network namespace in which that is by now. `None` when it is on none any more: it was
    /// broken, or the interface is gone.
    pub(super) interface: Option<u32>,
}

/// A link. When it is dropped, the program is taken off.
#[derive(Debug)]
pub(super) struct Link(OwnedFd);

impl Link {
    /// Puts a program on an interface.
    pub(super) fn create(program: &ProgramFd, interface: u32, place: Place) -> io::Result<Self> {
        let (attach_type, flags) = match place {
            Place::Driver => (BPF_XDP, XDP_FLAGS_DRV_MODE),
            Place::BehindDriver => (BPF_XDP, XDP_FLAGS_SKB_MODE),
            Place::WayOut => (BPF_TCX_EGRESS, 0),
        };
        let program = program.as_fd().as_raw_fd().cast_unsigned();
        bpf(command::LINK_CREATE, &mut [program, interface, attach_type, flags, 0, 0, 0, 0]).and_then(owned)
    }

    /// The link with this number.
    pub(super) fn with_id(id: u32) -> io::Result<Self> {
        bpf(command::LINK_GET_FD_BY_ID, &mut [id, 0, 0]).and_then(owned)
    }

    /// What it holds.
    pub(super) fn holds(&self) -> io::Result<Held> {
        /// `struct bpf_link_info` up to the first fields of its union, which for both kinds of link is the interface.
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

    /// Breaks it, for all who hold it.
    pub(super) fn detach(&self) -> io::Result<()> {
        bpf(command::LINK_DETACH, &mut [self.0.as_raw_fd().cast_unsigned()]).map(|_| ())
    }
}

fn owned(descriptor: i32) -> io::Result<Link> {
    // SAFETY: the kernel has just given us this descriptor, and nobody else knows it.
    Ok(Link(unsafe { OwnedFd::from_raw_fd(descriptor) }))
}

/// A bpf(2) command. The kernel takes what is not given for zero.
fn bpf<const N: usize>(command: libc::c_long, attributes: &mut [u32; N]) -> io::Result<i32> {
    // SAFETY: the kernel reads and writes as many bytes as we say, and where one of them points to more, who calls keeps that.
    let result =
        unsafe { libc::syscall(libc::SYS_bpf, command, attributes.as_mut_ptr(), size_of::<[u32; N]>()) };
    if result < 0 { Err(io::Error::last_os_error()) } else { i32::try_from(result).map_err(io::Error::other) }
}
