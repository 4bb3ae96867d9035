//! What the host's sockets say, in the network namespace of the interface.
//!
//! The helpers tell whether there is a socket and in what state. They do not tell what it sent and received, and
//! the layout of the kernel's own structures differs between kernels. So the offsets are constants that the loader
//! takes from the kernel's BTF. An offset of 0 means that the kernel does not provide it, and the verifier removes
//! the code that would read there.

use core::mem::{MaybeUninit, offset_of};

use aya_ebpf::{
    bindings::bpf_sock,
    helpers::generated::{
        bpf_sk_lookup_udp, bpf_sk_release, bpf_skc_lookup_tcp, bpf_skc_to_tcp_request_sock,
        bpf_skc_to_tcp_sock, bpf_skc_to_tcp_timewait_sock, bpf_tcp_check_syncookie, bpf_tcp_gen_syncookie,
        bpf_xdp_load_bytes,
    },
    programs::XdpContext,
};
use flood_common::{
    address::Address,
    again::{self, SynPlace},
    evidence::{Connection, Cookie, Opening, Quote, Receiver, Request, Segment, Standing, answerable, state},
    packet::Packet,
    proof::Host,
    solicit::Flow,
    verifier::opaque,
    wire::{Ipv4, Ipv6, Tcp, Window, protocol},
};

use crate::{
    lookup::MapTables,
    maps::{
        ACK_BACKLOG, LOCAL, MAX_ACK_BACKLOG, RCV_NXT, RCV_WND, REQUEST_RCV_NXT, SND_UNA, SNT_ISN, SYNS,
        TW_RCV_NXT, TW_SND_NXT, WRITE_SEQ, key_of,
    },
    window::XdpWindow,
};

/// Selects lookups in the network namespace of the interface.
const THIS_NAMESPACE: u64 = -1i64 as u64;

const ENOENT: i64 = -2;

/// The shortest TCP header, bytes.
const MIN_TCP: u64 = size_of::<Tcp>() as u64;

/// Addresses and ports in network byte order, as in `struct bpf_sock_tuple`.
#[repr(C)]
#[derive(Clone, Copy)]
struct TupleV4 {
    addresses: [u32; 2],
    ports: [u16; 2],
}

/// The same for IPv6.
#[repr(C)]
#[derive(Clone, Copy)]
struct TupleV6 {
    addresses: [[u64; 2]; 2],
    ports: [u16; 2],
    /// Not part of the tuple.
    padding: u32,
}

const TUPLE_V4: u32 = size_of::<TupleV4>() as u32;
const TUPLE_V6: u32 = offset_of!(TupleV6, padding) as u32;

/// A socket reference that is released on drop.
struct Socket(*mut bpf_sock);

impl Drop for Socket {
    #[inline(always)]
    fn drop(&mut self) {
        // SAFETY: the reference is held, and nothing reads it afterwards.
        unsafe { bpf_sk_release(self.0.cast()) };
    }
}

impl Socket {
    /// Looks up the socket that would receive a packet of a flow.
    ///
    /// VERIFIER: the protocol is a constant to the compiler, so that sockets of both kinds have paths of their own.
    #[inline(always)]
    fn look_up(ctx: &XdpContext, protocol: u8, flow: &Flow) -> Option<Self> {
        let ports = [flow.remote_port, flow.local_port].map(u16::to_be);
        let ctx = ctx.ctx.cast();
        let socket = match (flow.remote, flow.local) {
            (Address::V4(remote), Address::V4(local)) => {
                let mut tuple = TupleV4 { addresses: [remote, local].map(u32::to_be), ports };
                let tuple = (&raw mut tuple).cast();
                // SAFETY: the context is the program's, and the tuple has the stated length.
                unsafe {
                    if protocol == protocol::TCP {
                        bpf_skc_lookup_tcp(ctx, tuple, TUPLE_V4, THIS_NAMESPACE, 0)
                    } else {
                        bpf_sk_lookup_udp(ctx, tuple, TUPLE_V4, THIS_NAMESPACE, 0)
                    }
                }
            }
            (remote, local) => {
                let addresses = [remote, local].map(|address| address.halves().map(u64::to_be));
                let mut tuple = TupleV6 { addresses, ports, padding: 0 };
                let tuple = (&raw mut tuple).cast();
                // SAFETY: the context is the program's, and the tuple has the stated length.
                unsafe {
                    if protocol == protocol::TCP {
                        bpf_skc_lookup_tcp(ctx, tuple, TUPLE_V6, THIS_NAMESPACE, 0)
                    } else {
                        bpf_sk_lookup_udp(ctx, tuple, TUPLE_V6, THIS_NAMESPACE, 0)
                    }
                }
            }
        };
        if socket.is_null() { None } else { Some(Self(socket)) }
    }

    /// Returns the state, one of [`state`].
    #[inline(always)]
    fn state(&self) -> u32 {
        // SAFETY: the reference is held; volatile, so that the field is read by itself, as the verifier requires.
        unsafe { (&raw const (*self.0).state).read_volatile() }
    }

    /// Whether the socket is connected to a peer.
    #[inline(always)]
    fn has_peer(&self) -> bool {
        // SAFETY: as above.
        unsafe { (&raw const (*self.0).dst_port).read_volatile() != 0 }
    }

    /// Returns what the socket knows about its connection; `None` if it has none or the kernel does not tell.
    #[inline(always)]
    fn connection(&self, state: u32) -> Option<Connection> {
        // SAFETY: the reference is held as long as the converted socket is read; the offsets are those of u32
        // fields, according to the kernel.
        unsafe {
            let socket = bpf_skc_to_tcp_sock(self.0.cast());
            if socket.is_null() {
                return None;
            }
            Some(Connection {
                state,
                unacknowledged: field(socket.cast(), SND_UNA.load()),
                next: field(socket.cast(), WRITE_SEQ.load()),
                expected: field(socket.cast(), RCV_NXT.load()),
                window: field(socket.cast(), RCV_WND.load()),
            })
        }
    }

    /// Returns both numbers of a connection of which only the remains exist. `None` if the kernel does not tell.
    #[inline(always)]
    fn remains(&self) -> Option<Connection> {
        if TW_SND_NXT.load() == 0 || TW_RCV_NXT.load() == 0 {
            return None;
        }
        // SAFETY: as above.
        unsafe {
            let socket = bpf_skc_to_tcp_timewait_sock(self.0.cast());
            if socket.is_null() {
                return None;
            }
            let sent = field(socket.cast(), TW_SND_NXT.load());
            let expected = field(socket.cast(), TW_RCV_NXT.load());
            Some(Connection::remains(sent, expected))
        }
    }

    /// Returns what a request has sent and expects.
    #[inline(always)]
    fn request(&self) -> Option<Request> {
        // SAFETY: as above.
        unsafe {
            let request = bpf_skc_to_tcp_request_sock(self.0.cast());
            if request.is_null() {
                return None;
            }
            Some(Request {
                sent: field(request.cast(), SNT_ISN.load()),
                expected: field(request.cast(), REQUEST_RCV_NXT.load()),
            })
        }
    }

    /// Whether a listener has more connections waiting than it accepts (`sk_acceptq_is_full`, include/net/sock.h).
    #[inline(always)]
    fn is_full(&self) -> bool {
        if ACK_BACKLOG.load() == 0 || MAX_ACK_BACKLOG.load() == 0 {
            return false;
        }
        // SAFETY: as above.
        unsafe {
            let socket = bpf_skc_to_tcp_sock(self.0.cast());
            !socket.is_null()
                && field(socket.cast(), ACK_BACKLOG.load()) > field(socket.cast(), MAX_ACK_BACKLOG.load())
        }
    }

    /// Whether the cookie in a segment is this listener's.
    #[inline(always)]
    fn is_cookie_right(&self, ctx: &XdpContext, packet: &Packet) -> bool {
        let window = XdpWindow::new(ctx);
        let Some(tcp) = window.view::<Tcp>(packet.transport_at) else { return false };
        let tcp = core::ptr::from_ref(tcp).cast_mut().cast();
        let length = size_of::<Tcp>() as u32;
        let listener = self.0.cast();
        let result = match packet.source {
            Address::V4(_) => {
                let Some(ip) = window.view::<Ipv4>(packet.network_at) else { return false };
                let ip = core::ptr::from_ref(ip).cast_mut().cast();
                // SAFETY: the socket is held, and the headers lie within the packet.
                unsafe { bpf_tcp_check_syncookie(listener, ip, size_of::<Ipv4>() as u32, tcp, length) }
            }
            Address::V6 { .. } => {
                let Some(ip) = window.view::<Ipv6>(packet.network_at) else { return false };
                let ip = core::ptr::from_ref(ip).cast_mut().cast();
                // SAFETY: the socket is held, and the headers lie within the packet.
                unsafe { bpf_tcp_check_syncookie(listener, ip, size_of::<Ipv6>() as u32, tcp, length) }
            }
        };
        result == 0
    }

    /// Makes the listener generate a cookie.
    #[inline(always)]
    fn make_cookie(&self, ctx: &XdpContext, packet: &Packet) -> Opening {
        let window = XdpWindow::new(ctx);
        let Some((clients, header)) = answerable(packet, window) else { return Opening::Unable };
        // The parser accepts no shorter header, and the kernel checks again that the length is the header's.
        // VERIFIER: the bounds are computed by arithmetic, which kernels before 6.18 keep when the number moves to
        // another register. The compiler, which already knows the bounds, must not remove the arithmetic.
        let length = (opaque(header as u64, packet.length.into()).wrapping_sub(MIN_TCP) & 63) + MIN_TCP;
        let (at, length) = (packet.transport_at as u32, length as u32);
        // A copy, because the kernel wants the whole header at once, and the verifier a constant length in the
        // packet.
        let mut tcp = [const { MaybeUninit::<u64>::uninit() }; (MIN_TCP as usize + 63).div_ceil(8)];
        for word in &mut tcp {
            // SAFETY: memory of our own; volatile, because the compiler otherwise calls a function that sets byte
            // by byte (30 ns).
            unsafe { word.as_mut_ptr().write_volatile(0) };
        }
        let tcp = (&raw mut tcp).cast();
        let listener = self.0.cast();
        let result = match packet.source {
            Address::V4(_) => {
                let Some(ip) = window.view::<Ipv4>(packet.network_at) else { return Opening::Unable };
                let ip = core::ptr::from_ref(ip).cast_mut().cast();
                // SAFETY: the buffer has room for the longest length; the socket is held; the IP header lies within the
                // packet.
                unsafe {
                    if bpf_xdp_load_bytes(ctx.ctx, at, tcp, length) != 0 {
                        return Opening::Unable;
                    }
                    bpf_tcp_gen_syncookie(listener, ip, size_of::<Ipv4>() as u32, tcp.cast(), length)
                }
            }
            Address::V6 { .. } => {
                let Some(ip) = window.view::<Ipv6>(packet.network_at) else { return Opening::Unable };
                let ip = core::ptr::from_ref(ip).cast_mut().cast();
                // SAFETY: the buffer has room for the longest length; the socket is held; the IP header lies within the
                // packet.
                unsafe {
                    if bpf_xdp_load_bytes(ctx.ctx, at, tcp, length) != 0 {
                        return Opening::Unable;
                    }
                    bpf_tcp_gen_syncookie(listener, ip, size_of::<Ipv6>() as u32, tcp.cast(), length)
                }
            }
        };
        match result {
            0.. => {
                Opening::Cookie(Cookie { sequence: result as u32, clients, segment: (result >> 32) as u16 })
            }
            // Cookies disabled, not needed yet, or no room for more connections; the helper returns the same for
            // all of them.
            ENOENT if self.is_full() => Opening::Full,
            ENOENT => Opening::Room,
            _ => Opening::Unable,
        }
    }
}

/// Reads a field of a kernel structure.
///
/// # Safety
/// The offset must be that of a u32 in the structure.
#[inline(always)]
unsafe fn field(structure: *const u8, offset: u32) -> u32 {
    // SAFETY: the caller ensures it; volatile, so that the field is read by itself, as the verifier requires.
    unsafe { structure.add(offset as usize).cast::<u32>().read_volatile() }
}

/// Whether the kernel provides the offsets of a connection's numbers.
#[inline(always)]
fn knows_connections() -> bool {
    SND_UNA.load() != 0 && WRITE_SEQ.load() != 0 && RCV_NXT.load() != 0 && RCV_WND.load() != 0
}

/// Whether the kernel provides the offsets of a request's numbers.
#[inline(always)]
fn knows_requests() -> bool {
    SNT_ISN.load() != 0 && REQUEST_RCV_NXT.load() != 0
}

/// Returns the listener of a flow, whatever else exists between its ports: no connection comes from port 0.
#[inline(always)]
fn listener(ctx: &XdpContext, flow: &Flow) -> Option<Socket> {
    let socket = Socket::look_up(ctx, protocol::TCP, &Flow { remote_port: 0, ..*flow })?;
    if socket.state() == state::LISTEN { Some(socket) } else { None }
}

/// Whether the address is a unicast address of this host.
#[inline(always)]
pub(crate) fn is_local(address: Address) -> bool {
    !matches!(address, Address::V6 { network: 0, .. }) && LOCAL.get(key_of(address)).is_some()
}

/// Returns what the sockets say about a UDP datagram to an address of this host.
#[inline(always)]
pub(crate) fn receiver(ctx: &XdpContext, flow: &Flow) -> Receiver {
    match Socket::look_up(ctx, protocol::UDP, flow) {
        None => Receiver::NoSocket,
        Some(socket) if socket.has_peer() => Receiver::Connected,
        Some(_) => Receiver::Anybodys,
    }
}

impl Host for MapTables<'_> {
    #[inline(always)]
    fn open(&self, packet: &Packet) -> Opening {
        let flow = Flow::of(packet);
        let Some(mut socket) = Socket::look_up(self.ctx, protocol::TCP, &flow) else {
            return Opening::NoSocket;
        };
        let mut state = socket.state();
        if state == state::NEW_SYN_RECV {
            // Some SYN made a request, which answers by itself; the listener makes cookies.
            drop(socket);
            socket = match listener(self.ctx, &flow) {
                Some(listener) => listener,
                None => return Opening::Connection,
            };
            state = state::LISTEN;
        }
        if state == state::LISTEN { socket.make_cookie(self.ctx, packet) } else { Opening::Connection }
    }

    #[inline(always)]
    fn stand(&self, packet: &Packet, segment: &Segment) -> Standing {
        let flow = Flow::of(packet);
        let Some(mut socket) = Socket::look_up(self.ctx, protocol::TCP, &flow) else {
            return Standing::NoSocket;
        };
        let state = socket.state();
        let connection = match state {
            state::LISTEN | state::NEW_SYN_RECV | state::CLOSE => None,
            state::TIME_WAIT => socket.remains(),
            _ if !knows_connections() => return Standing::Proven,
            _ => socket.connection(state),
        };
        if let Some(connection) = connection {
            return if connection.fits(segment) { Standing::Proven } else { Standing::Unproven };
        }
        if state == state::NEW_SYN_RECV {
            if !knows_requests() {
                return Standing::Unknown;
            }
            if socket.request().is_some_and(|request| request.is_acknowledged(segment)) {
                return Standing::Proven;
            }
            // Another sender's SYN may have made the request.
            drop(socket);
            socket = match listener(self.ctx, &flow) {
                Some(listener) => listener,
                None => return Standing::Unproven,
            };
        } else if state != state::LISTEN {
            return Standing::Unproven;
        }
        match socket.is_cookie_right(self.ctx, packet) {
            true => Standing::Proven,
            false if state == state::LISTEN => Standing::WrongCookie,
            false => Standing::Unproven,
        }
    }

    #[inline(always)]
    fn has_sent(&self, quote: &Quote) -> bool {
        let flow = quote.flow();
        // VERIFIER: before 6.3 no instruction may read sockets of both kinds ("same insn cannot be used with
        // different pointers", 6.1), so each kind has a lookup of its own.
        if quote.protocol == protocol::UDP {
            return is_local(flow.local) && receiver(self.ctx, &flow) == Receiver::Connected;
        }
        let Some(socket) = Socket::look_up(self.ctx, protocol::TCP, &flow) else { return false };
        match socket.state() {
            state::LISTEN | state::NEW_SYN_RECV | state::TIME_WAIT | state::CLOSE => false,
            _ if !knows_connections() => true,
            state => socket.connection(state).is_some_and(|connection| connection.has_sent(quote.sequence)),
        }
    }

    #[inline(always)]
    fn came_again(&self, place: SynPlace, now_ns: u64) -> bool {
        SYNS.get(place.line).is_some_and(|line| again::came_again(line, place.bits, now_ns))
    }
}
