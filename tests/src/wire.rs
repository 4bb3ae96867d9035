//! Frames exactly as they are: a packet socket (packet(7)) of a network namespace.

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
    /// Sends out of any interface of this thread's namespace, and sees nothing.
    pub fn to_send() -> Result<Self> {
        Self::of_protocol(0)
    }

    /// Sees what all interfaces of this thread's namespace take in and send, too.
    pub fn to_all() -> Result<Self> {
        Self::of_protocol(libc::ETH_P_ALL)
    }

    /// The same of one interface.
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

    /// How long [`receive`](Self::receive) waits.
    pub fn set_patience(&self, patience: Duration) -> Result<()> {
        Ok(self.socket.set_read_timeout(Some(patience))?)
    }

    /// [`receive`](Self::receive) does not wait.
    pub fn wait_for_nothing(&self) -> Result<()> {
        Ok(self.socket.set_nonblocking(true)?)
    }

    /// The next frame.
    pub fn receive<'a>(&self, buffer: &'a mut [u8]) -> io::Result<&'a [u8]> {
        let length = (&self.socket).read(buffer)?;
        Ok(&buffer[..length])
    }

    /// Sends a frame out of an interface.
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

/// An interface, to send out of, or to see a protocol of.
fn address(interface: u32, protocol: libc::c_int) -> Result<SockAddr> {
    let mut storage = SockAddrStorage::zeroed();
    // SAFETY: this is what the addresses of packet sockets look like.
    let link: &mut libc::sockaddr_ll = unsafe { storage.view_as() };
    link.sll_family = libc::AF_PACKET as u16;
    link.sll_ifindex = i32::try_from(interface)?;
    link.sll_protocol = (protocol as u16).to_be();
    // SAFETY: the family is that of the address, and so is the length.
    Ok(unsafe { SockAddr::new(storage, size_of::<libc::sockaddr_ll>() as libc::socklen_t) })
}
