//! The second look at packets beyond a limit.
//!
//! It is a program of its own, which the filter calls for such packets only: the filter stays as short as it is, and the
//! verifier follows socket lookups once, not once for every way to a limit.

use core::mem::offset_of;

use aya_ebpf::{
    bindings::{bpf_sock, xdp_action},
    helpers::generated::{
        bpf_sk_lookup_udp, bpf_sk_release, bpf_skc_lookup_tcp, bpf_tcp_check_syncookie,
        bpf_tcp_gen_syncookie, bpf_xdp_adjust_tail, bpf_xdp_load_bytes, bpf_xdp_store_bytes,
    },
    macros::xdp,
    programs::XdpContext,
};
use flood_common::{
    abi::{BUDGET_RETRANSMISSIONS, MODE_ENFORCE, Settings, next},
    address::Address,
    answer::{AnswerV4, AnswerV6},
    meter::{Charge, Price},
    packet::{Packet, Parsed, parse},
    place::Place,
    proof::{
        Cookie, Opening, Proof, Quote, Receiver, Retransmission, Sockets, Standing, answerable, note_syn,
        prove,
    },
    reason::Reason,
    verifier::opaque,
    wire::{Ethernet, Ipv4, Ipv6, Tcp, Window, protocol},
};

use crate::{
    finish::finish,
    lookup::charge_host,
    maps::{CPU_STATE, NEXT, SETTINGS, SYNS},
    now_ns, settings_in_force,
    window::XdpWindow,
};

/// Lookups in the network namespace of the interface.
const THIS_NAMESPACE: u64 = -1i64 as u64;

/// `TCP_LISTEN` (include/net/tcp_states.h).
const LISTEN: u32 = 10;

const ENOENT: i64 = -2;

/// The shortest TCP header, bytes.
const MIN_TCP: u64 = size_of::<Tcp>() as u64;

/// Hands the packet over to [`floodgate_prove`], which finishes with it. Comes back only if that program is not in its
/// place.
#[inline(always)]
pub(crate) fn call(ctx: &XdpContext, exceeded: Reason) {
    if let Some(state) = CPU_STATE.get_ptr_mut(0) {
        // SAFETY: the value is this processor's own, and a program is not interrupted by itself on a processor.
        unsafe { (*state).reason = exceeded.number().into() };
        // SAFETY: on success the call does not return; on failure the packet is dropped for its limit.
        unsafe { NEXT.tail_call(ctx, next::PROVE) };
    }
}

/// Looks once more at a packet that exceeds a limit.
#[xdp(frags)]
fn floodgate_prove(ctx: XdpContext) -> u32 {
    let (Some(page), Some(state)) = (SETTINGS.get_ptr(0), CPU_STATE.get_ptr(0)) else {
        return xdp_action::XDP_PASS; // cannot happen: the arrays have one element
    };
    // SAFETY: array values live as long as the program; user space never writes the slot in force. The other value is
    // this processor's own, and nothing ran on it since `call` wrote it.
    let (settings, now_ns, exceeded) =
        unsafe { (settings_in_force(page), now_ns(page), (*state).reason as u32) };
    let window = XdpWindow::new(&ctx);
    let Parsed::Packet(packet) = parse(window) else {
        return xdp_action::XDP_PASS; // cannot happen: only a packet exceeds a limit
    };
    let length = packet.length;
    let (reason, pass) = match prove(&packet, window, settings, now_ns, &HostSockets { ctx: &ctx }) {
        Proof::Verdict(reason) => (reason.number(), xdp_action::XDP_PASS),
        Proof::Nothing => (exceeded, xdp_action::XDP_PASS),
        Proof::Answer(_) if settings.mode != MODE_ENFORCE => {
            (Reason::Answered.number(), xdp_action::XDP_PASS)
        }
        Proof::Answer(cookie) => match answer(&ctx, &packet, settings, &cookie) {
            Some(()) => (Reason::Answered.number(), xdp_action::XDP_TX),
            None => (exceeded, xdp_action::XDP_PASS),
        },
    };
    finish(&ctx, settings, length, reason, pass)
}

/// The sockets in the network namespace of the interface.
struct HostSockets<'a> {
    ctx: &'a XdpContext,
}

/// Addresses and ports in network byte order, as `struct bpf_sock_tuple` has them.
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
    /// Not part of it.
    padding: u32,
}

const TUPLE_V4: u32 = size_of::<TupleV4>() as u32;
const TUPLE_V6: u32 = offset_of!(TupleV6, padding) as u32;

impl HostSockets<'_> {
    /// Looks up the socket that would receive a packet, or null. A socket that was found must be released.
    #[inline(always)]
    fn look_up(&self, protocol: u8, [source, destination]: [Address; 2], ports: [u16; 2]) -> *mut bpf_sock {
        let ports = ports.map(u16::to_be);
        let ctx = self.ctx.ctx.cast();
        match (source, destination) {
            (Address::V4(source), Address::V4(destination)) => {
                let mut tuple = TupleV4 { addresses: [source, destination].map(u32::to_be), ports };
                let tuple = (&raw mut tuple).cast();
                // SAFETY: the context is the program's, and the tuple as long as it is said to be.
                unsafe {
                    if protocol == protocol::TCP {
                        bpf_skc_lookup_tcp(ctx, tuple, TUPLE_V4, THIS_NAMESPACE, 0)
                    } else {
                        bpf_sk_lookup_udp(ctx, tuple, TUPLE_V4, THIS_NAMESPACE, 0)
                    }
                }
            }
            _ => {
                let addresses = [source, destination].map(|address| address.halves().map(u64::to_be));
                let mut tuple = TupleV6 { addresses, ports, padding: 0 };
                let tuple = (&raw mut tuple).cast();
                // SAFETY: the context is the program's, and the tuple as long as it is said to be.
                unsafe {
                    if protocol == protocol::TCP {
                        bpf_skc_lookup_tcp(ctx, tuple, TUPLE_V6, THIS_NAMESPACE, 0)
                    } else {
                        bpf_sk_lookup_udp(ctx, tuple, TUPLE_V6, THIS_NAMESPACE, 0)
                    }
                }
            }
        }
    }

    #[inline(always)]
    fn receiver(&self, protocol: u8, packet: &Packet) -> *mut bpf_sock {
        let ports = packet.ports.map_or([0; 2], |ports| [ports.source, ports.destination]);
        self.look_up(protocol, [packet.source, packet.destination], ports)
    }

    /// Whether the cookie that a segment brings is this listener's.
    #[inline(always)]
    fn is_cookie_right(&self, listener: *mut bpf_sock, packet: &Packet) -> bool {
        let window = XdpWindow::new(self.ctx);
        let Some(tcp) = window.view::<Tcp>(packet.transport_at) else { return false };
        let tcp = core::ptr::from_ref(tcp).cast_mut().cast();
        let length = size_of::<Tcp>() as u32;
        let listener = listener.cast();
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

    /// Has the listener make a cookie.
    #[inline(always)]
    fn make_cookie(&self, listener: *mut bpf_sock, packet: &Packet) -> Opening {
        let window = XdpWindow::new(self.ctx);
        let Some((clients, header)) = answerable(packet, window) else { return Opening::Unable };
        // The parser accepts no shorter header, and the kernel looks again whether the length is the header's.
        // VERIFIER: bounds by arithmetic, which kernels before 6.18 keep when the number moves to another register. The
        // compiler, which knows them already, must not compute them away.
        let length = (opaque(header as u64, packet.length.into()).wrapping_sub(MIN_TCP) & 63) + MIN_TCP;
        let (at, length) = (packet.transport_at as u32, length as u32);
        // A copy, as the kernel wants all of the header at once, and the verifier a constant length in the packet.
        let mut tcp = [0u64; (MIN_TCP as usize + 63).div_ceil(8)];
        let tcp = (&raw mut tcp).cast();
        let listener = listener.cast();
        let result = match packet.source {
            Address::V4(_) => {
                let Some(ip) = window.view::<Ipv4>(packet.network_at) else { return Opening::Unable };
                let ip = core::ptr::from_ref(ip).cast_mut().cast();
                // SAFETY: the buffer has room for the longest length; the socket is held; the IP header lies within the
                // packet.
                unsafe {
                    if bpf_xdp_load_bytes(self.ctx.ctx, at, tcp, length) != 0 {
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
                    if bpf_xdp_load_bytes(self.ctx.ctx, at, tcp, length) != 0 {
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
            ENOENT => Opening::Room,
            _ => Opening::Unable,
        }
    }
}

/// What sockets say to a UDP datagram between these.
#[inline(always)]
pub(crate) fn receiver(ctx: &XdpContext, addresses: [Address; 2], ports: [u16; 2]) -> Receiver {
    let socket = HostSockets { ctx }.look_up(protocol::UDP, addresses, ports);
    if socket.is_null() {
        return Receiver::NoSocket;
    }
    // SAFETY: the socket is held until it is released; volatile as below. Only a connected socket has a peer.
    unsafe {
        let peer = (&raw const (*socket).dst_port).read_volatile();
        release(socket);
        if peer == 0 { Receiver::Anybodys } else { Receiver::Connected }
    }
}

/// # Safety
/// The socket must be held.
#[inline(always)]
unsafe fn is_listening(socket: *mut bpf_sock) -> bool {
    // SAFETY: the caller's; volatile, so that the field is read by itself, as the verifier wants it.
    unsafe { (&raw const (*socket).state).read_volatile() == LISTEN }
}

/// # Safety
/// The socket must be held, and is not afterwards.
#[inline(always)]
unsafe fn release(socket: *mut bpf_sock) {
    // SAFETY: the caller's.
    unsafe { bpf_sk_release(socket.cast()) };
}

impl Sockets for HostSockets<'_> {
    #[inline(always)]
    fn open(&self, packet: &Packet) -> Opening {
        let socket = self.receiver(protocol::TCP, packet);
        if socket.is_null() {
            return Opening::NoSocket;
        }
        // SAFETY: the socket is held until it is released.
        unsafe {
            let opening =
                if is_listening(socket) { self.make_cookie(socket, packet) } else { Opening::Connection };
            release(socket);
            opening
        }
    }

    #[inline(always)]
    fn stand(&self, packet: &Packet) -> Standing {
        let socket = self.receiver(protocol::TCP, packet);
        if socket.is_null() {
            return Standing::NoSocket;
        }
        // SAFETY: the socket is held until it is released.
        unsafe {
            let standing = if is_listening(socket) {
                Standing::Listener { cookie: self.is_cookie_right(socket, packet) }
            } else {
                Standing::Connection
            };
            release(socket);
            standing
        }
    }

    #[inline(always)]
    fn receive(&self, packet: &Packet) -> Receiver {
        let ports = packet.ports.map_or([0; 2], |ports| [ports.source, ports.destination]);
        receiver(self.ctx, [packet.source, packet.destination], ports)
    }

    #[inline(always)]
    fn sent(&self, quote: &Quote) -> bool {
        // The answer to what is quoted would go the other way.
        let [source, destination] = quote.ports;
        let socket = self.look_up(quote.protocol, [quote.destination, quote.source], [destination, source]);
        if socket.is_null() {
            return false;
        }
        // SAFETY: the socket is held until it is released.
        unsafe {
            let sent = quote.protocol == protocol::UDP || !is_listening(socket);
            release(socket);
            sent
        }
    }

    #[inline(always)]
    fn note_syn(&self, place: Place, now_ns: u64) -> Retransmission {
        match SYNS.get(place.bucket) {
            Some(bucket) => note_syn(bucket, place.tag, now_ns),
            None => Retransmission::Full,
        }
    }

    #[inline(always)]
    fn charge_retransmission(&self, now_ns: u64, price: &Price) -> Charge {
        charge_host(BUDGET_RETRANSMISSIONS, now_ns, price)
    }
}

/// Makes the SYN-ACK out of the SYN, in place: link layer and VLAN tags stay, but for the MAC addresses, which change
/// places. `None` if it cannot be done; the packet is to be dropped then.
#[inline(always)]
fn answer(ctx: &XdpContext, packet: &Packet, settings: &Settings, cookie: &Cookie) -> Option<()> {
    let mtu = settings.mtu as u16;
    let syn = packet.ports?;
    match (packet.source, packet.destination) {
        (Address::V4(client), Address::V4(host)) => {
            store(ctx, packet, AnswerV4::new([client, host], syn, cookie, mtu))
        }
        (client, host) => {
            store(ctx, packet, AnswerV6::new([client, host].map(Address::halves), syn, cookie, mtu))
        }
    }
}

#[inline(always)]
fn store<T>(ctx: &XdpContext, packet: &Packet, mut answer: T) -> Option<()> {
    let ethernet = XdpWindow::new(ctx).view::<Ethernet>(0)?;
    let mut addresses = [ethernet.source, ethernet.destination];
    let size = size_of::<T>();
    let change = (packet.network_at + size) as i64 - i64::from(packet.length);
    // SAFETY: the context is the program's, and both values are as long as they are said to be. All views of the packet
    // end here.
    let results = unsafe {
        if bpf_xdp_adjust_tail(ctx.ctx, change as i32) != 0 {
            return None;
        }
        [
            bpf_xdp_store_bytes(ctx.ctx, 0, (&raw mut addresses).cast(), size_of_val(&addresses) as u32),
            bpf_xdp_store_bytes(ctx.ctx, packet.network_at as u32, (&raw mut answer).cast(), size as u32),
        ]
    };
    (results == [0, 0]).then_some(())
}
