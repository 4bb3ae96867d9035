//! Requests to the kernel over netlink, its answers, and its notifications.

pub(crate) mod attributes;

use std::io;

use netlink_packet_core::{
    NLM_F_ACK, NLM_F_DUMP, NLM_F_REQUEST, NetlinkDeserializable, NetlinkHeader, NetlinkMessage,
    NetlinkPayload, NetlinkSerializable,
};
use netlink_packet_generic::{
    GenlFamily, GenlMessage,
    ctrl::{GenlCtrl, GenlCtrlCmd, nlas::GenlCtrlAttrs},
};
use netlink_packet_route::{
    RouteNetlinkMessage,
    link::LinkMessage,
    route::{RouteHeader, RouteMessage},
};
use netlink_sys::{
    Socket, SocketAddr,
    protocols::{NETLINK_GENERIC, NETLINK_ROUTE},
};
use tokio::io::{Interest, unix::AsyncFd};

/// Room for one datagram of a dump; the kernel fills at most 32 KiB (linux/netlink.h, NLMSG_GOODSIZE aside).
const RECEIVE_BYTES: usize = 64 * 1024;

/// A message of a netlink protocol.
pub(crate) trait Message: NetlinkSerializable + NetlinkDeserializable {
    /// Number of the protocol (linux/netlink.h).
    const PROTOCOL: isize;
}

impl Message for RouteNetlinkMessage {
    const PROTOCOL: isize = NETLINK_ROUTE;
}

impl<F: GenlFamily> Message for GenlMessage<F>
where
    Self: NetlinkSerializable + NetlinkDeserializable,
{
    const PROTOCOL: isize = NETLINK_GENERIC;
}

/// Sends a request and collects the messages of the answer. The kernel marks the end of a dump by itself, and that of
/// any other answer by an acknowledgement, which is always requested.
pub(crate) fn exchange<T: Message>(request: T, flags: u16) -> io::Result<Vec<T>> {
    collect(Socket::new(T::PROTOCOL)?, request, flags, usize::MAX)
}

/// Returns the routes with the family, table and type of this header, as far as it has them. The kernel selects them,
/// so that a full table of other routes costs little. Reads no more once `most` are found.
pub(crate) fn routes(like: RouteHeader, most: usize) -> io::Result<Vec<RouteMessage>> {
    let socket = Socket::new(NETLINK_ROUTE)?;
    socket.set_netlink_get_strict_chk(true)?;
    let mut request = RouteMessage::default();
    request.header = like;
    let request = RouteNetlinkMessage::GetRoute(request);
    let answers = match collect(socket, request, NLM_F_REQUEST | NLM_F_DUMP, most) {
        // There is no such table.
        Err(error) if error.raw_os_error() == Some(libc::ENOENT) => Vec::new(),
        answers => answers?,
    };
    let route = |answer| if let RouteNetlinkMessage::NewRoute(route) = answer { Some(route) } else { None };
    Ok(answers.into_iter().filter_map(route).collect())
}

/// Sends a request over a socket, and receives until the answer ends or has `most` messages.
fn collect<T: Message>(mut socket: Socket, request: T, flags: u16, most: usize) -> io::Result<Vec<T>> {
    socket.bind_auto()?;
    socket.connect(&SocketAddr::new(0, 0))?;
    let mut message = NetlinkMessage::new(NetlinkHeader::default(), NetlinkPayload::InnerMessage(request));
    message.header.flags = if flags & NLM_F_DUMP == NLM_F_DUMP { flags } else { flags | NLM_F_ACK };
    message.finalize();
    let mut bytes = vec![0; message.buffer_len()];
    message.serialize(&mut bytes);
    socket.send(&bytes, 0)?;

    let mut answers = Vec::new();
    let mut buffer = vec![0; RECEIVE_BYTES];
    while answers.len() < most {
        let received = socket.recv(&mut &mut buffer[..], 0)?;
        let mut rest = &buffer[..received];
        while !rest.is_empty() {
            let answer = NetlinkMessage::<T>::deserialize(rest).map_err(io::Error::other)?;
            match answer.payload {
                NetlinkPayload::Done(_) => return Ok(answers),
                NetlinkPayload::Error(error) => {
                    return error
                        .code
                        .map_or(Ok(answers), |code| Err(io::Error::from_raw_os_error(-code.get())));
                }
                NetlinkPayload::InnerMessage(message) => answers.push(message),
                _ => {}
            }
            let length = (answer.header.length as usize).next_multiple_of(4);
            rest = rest.get(length..).unwrap_or_default();
        }
    }
    Ok(answers)
}

/// Returns all network interfaces, as the kernel describes them.
pub(crate) fn links() -> io::Result<Vec<LinkMessage>> {
    let answers = exchange(RouteNetlinkMessage::GetLink(LinkMessage::default()), NLM_F_REQUEST | NLM_F_DUMP)?;
    let link = |answer| if let RouteNetlinkMessage::NewLink(link) = answer { Some(link) } else { None };
    Ok(answers.into_iter().filter_map(link).collect())
}

/// Returns the number that the kernel has assigned to a generic netlink family. An error if it does not know it.
pub(crate) fn family_id(name: &str) -> io::Result<u16> {
    let nlas = vec![GenlCtrlAttrs::FamilyName(name.to_owned())];
    let request = GenlMessage::from_payload(GenlCtrl { cmd: GenlCtrlCmd::GetFamily, nlas });
    let answers = exchange(request, NLM_F_REQUEST)?;
    let mut attributes = answers.into_iter().flat_map(|answer| answer.payload.nlas);
    attributes
        .find_map(|attribute| if let GenlCtrlAttrs::FamilyId(id) = attribute { Some(id) } else { None })
        .ok_or_else(|| io::Error::from(io::ErrorKind::Unsupported))
}

/// Notifications of the kernel about network interfaces that come, go or change, in the network namespace in which
/// this was created.
pub(crate) struct LinkChanges(AsyncFd<Socket>);

impl LinkChanges {
    /// linux/rtnetlink.h, `RTNLGRP_LINK`.
    const GROUP: u32 = 1;

    /// How many messages are read as one change.
    const AT_ONCE: usize = 1_024;

    /// Starts to listen.
    pub(crate) fn listen() -> io::Result<Self> {
        let mut socket = Socket::new(NETLINK_ROUTE)?;
        socket.bind_auto()?;
        socket.add_membership(Self::GROUP)?;
        socket.set_non_blocking(true)?;
        // SAFETY: the socket owns its descriptor, which stays open and the same until it is dropped along with this.
        Ok(Self(unsafe { AsyncFd::register_with_interest(socket, Interest::READABLE) }?))
    }

    /// Returns when something has changed since the last time.
    pub(crate) async fn next(&mut self) -> io::Result<()> {
        let mut ready = self.0.readable().await?;
        let mut buffer = vec![0; RECEIVE_BYTES];
        for _ in 0..Self::AT_ONCE {
            match ready.get_inner().recv(&mut &mut buffer[..], 0) {
                Ok(_) => {}
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
                    ready.clear_ready();
                    break;
                }
                // More messages arrived than there was room for.
                Err(error) if error.raw_os_error() == Some(libc::ENOBUFS) => {}
                Err(error) => return Err(error),
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use netlink_packet_route::{AddressFamily, route::RouteType};

    use super::*;

    #[test]
    fn the_kernel_picks_routes_and_no_more_are_read_than_wanted() {
        const TABLE_LOCAL: u8 = 255;
        const NO_TABLE: u8 = 251;
        let ask = |table, kind, most| {
            let address_family = AddressFamily::Inet;
            routes(RouteHeader { address_family, table, kind, ..RouteHeader::default() }, most).unwrap()
        };
        let local = ask(TABLE_LOCAL, RouteType::Local, usize::MAX);
        let is_local =
            |route: &RouteMessage| route.header.table == TABLE_LOCAL && route.header.kind == RouteType::Local;
        // 127.0.0.0/8 and 127.0.0.1, wherever `lo` is up.
        assert!(local.len() >= 2 && local.iter().all(is_local), "{local:?}");
        assert!(ask(NO_TABLE, RouteType::Unicast, usize::MAX).is_empty());
        assert!(ask(TABLE_LOCAL, RouteType::Local, 0).is_empty());
    }
}
