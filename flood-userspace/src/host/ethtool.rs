//! Queries drivers about interfaces, by the ioctl of ethtool(8).

use std::{
    io,
    os::{fd::AsRawFd, unix::net::UnixDatagram},
};

/// Sends a request. Its first word is the command, and the answer is written after it (linux/ethtool.h).
pub fn ethtool(interface: &str, request: &mut [u32]) -> io::Result<()> {
    /// linux/sockios.h.
    const SIOCETHTOOL: libc::Ioctl = 0x8946;

    // SAFETY: all zeros are a valid `ifreq`.
    let mut named: libc::ifreq = unsafe { std::mem::zeroed() };
    let room = named.ifr_name.len() - 1; // a NUL must follow the name
    for (to, byte) in named.ifr_name[..room].iter_mut().zip(interface.bytes()) {
        *to = byte.cast_signed() as libc::c_char;
    }
    named.ifr_ifru.ifru_data = request.as_mut_ptr().cast();
    let socket = UnixDatagram::unbound()?;
    // SAFETY: the kernel writes as much after the command word as the request says that there is room for.
    let result = unsafe { libc::ioctl(socket.as_raw_fd(), SIOCETHTOOL, &raw mut named) };
    if result < 0 { Err(io::Error::last_os_error()) } else { Ok(()) }
}
