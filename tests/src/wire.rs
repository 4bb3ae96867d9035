//! Raw frames: a packet socket (packet(7)) of a network namespace.

use std::{
    io::{self, Read},
    os::fd::{AsFd, BorrowedFd},
    time::Duration,
};

use anyhow::{Context, Result, ensure};
use socket2::{Domain, Protocol, SockAddr, SockAddrStorage, Socket, Type};

/// A packet socket.
#[derive(Debug)]
pub struct Wire {
    socket: Socket,
}

impl Wire {
    /// Sends on any interface of this thread's namespace, and receives nothing.
    pub fn to_send() -> Result<Self> {
        Self::of_protocol(0)
    }

    /// Receives what all interfaces of this thread's namespace receive and send, and can send, too.
    pub fn to_all() -> Result<Self> {
        Self::of_protocol(libc::ETH_P_ALL)
    }

    /// The same for one interface.
    pub fn to(interface: u32) -> Result<Self> {
        let wire = Self::to_all()?;
        wire.socket.bind(&address(interface, libc::ETH_P_ALL)?).context("binding a packet socket")?;
        Ok(wire)
    }

    fn of_protocol(protocol: libc::c_int) -> Result<Self> {
        let protocol = Protocol::from(libc::c_int::from((protocol as u16).to_be()));
        let socket =
            Socket::new(Domain::PACKET, Type::RAW, Some(protocol)).context("opening a packet socket")?;
        Ok(Self { socket })
    }

    /// Sets how long [`receive`](Self::receive) waits.
    pub fn set_patience(&self, patience: Duration) -> Result<()> {
        Ok(self.socket.set_read_timeout(Some(patience))?)
    }

    /// Makes [`receive`](Self::receive) not wait.
    pub fn wait_for_nothing(&self) -> Result<()> {
        Ok(self.socket.set_nonblocking(true)?)
    }

    /// Returns the next frame.
    pub fn receive<'a>(&self, buffer: &'a mut [u8]) -> io::Result<&'a [u8]> {
        let length = (&self.socket).read(buffer)?;
        Ok(&buffer[..length])
    }

    /// Sends a frame on an interface.
    pub fn send(&self, interface: u32, frame: &[u8]) -> Result<()> {
        let sent = self.socket.send_to(frame, &address(interface, 0)?);
        let sent = sent.with_context(|| format!("sending {} bytes", frame.len()))?;
        ensure!(sent == frame.len(), "{sent} of {} bytes sent", frame.len());
        Ok(())
    }
}

impl AsFd for Wire {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.socket.as_fd()
    }
}

/// Returns the address of an interface, for sending, or for receiving a protocol.
fn address(interface: u32, protocol: libc::c_int) -> Result<SockAddr> {
    let mut storage = SockAddrStorage::zeroed();
    // SAFETY: this is the format of the addresses of packet sockets.
    let link: &mut libc::sockaddr_ll = unsafe { storage.view_as() };
    link.sll_family = libc::AF_PACKET as u16;
    link.sll_ifindex = i32::try_from(interface)?;
    link.sll_protocol = (protocol as u16).to_be();
    // SAFETY: the family and the length are those of the address.
    Ok(unsafe { SockAddr::new(storage, size_of::<libc::sockaddr_ll>() as libc::socklen_t) })
}
