//! The program on the way out: notes questions, so that their answers are let in, and the ports that are in use.
//!
//! It looks at no more than headers, changes nothing and drops nothing, and leaves every packet to whoever comes next. TCP
//! costs a few loads.

use aya_ebpf::{bindings::__sk_buff, macros::classifier, programs::TcContext};
use flood_common::{
    abi::Settings,
    open,
    solicit::{Flow, Note, SolicitPlace, is_in, outgoing, write},
    wire::{Window, WireType, protocol},
};

use crate::{
    lookup::{has_sessions, is_reflector},
    maps::{BEGUN, OPEN, SOLICITED},
    now_ns, settings_in_force,
};

/// `TCX_NEXT`, and the same number for the hook of older kernels, `TC_ACT_UNSPEC`: whoever comes next decides.
const NEXT: i32 = -1;

/// Notes a question. With segments that are still to be cut, the headers are those that each of them will have.
#[classifier]
fn floodgate_egress(ctx: TcContext) -> i32 {
    let window = SkbWindow::new(&ctx);
    // SAFETY: the context is the one that the program was called with. The field is in network byte order, and inside the
    // VLAN tag that is kept beside the frame.
    let kind = u16::from_be(unsafe { (*window.ctx).protocol } as u16);
    if let Some(flow) = outgoing(window, kind)
        && let Some(page) = crate::maps::SETTINGS.get_ptr(0)
    {
        // SAFETY: array values live as long as the program; user space never writes the slot in force.
        let (settings, now_ns) = unsafe { (settings_in_force(page), now_ns(page)) };
        sent(settings, &flow, now_ns, window.is_connected());
    }
    NEXT
}

/// Writes down what follows from a packet that leaves: that its port is in use, and what may be answered.
#[inline(always)]
fn sent(settings: &Settings, flow: &Flow, now_ns: u64, is_connected: bool) {
    if flow.protocol == protocol::UDP {
        let word = open::word(flow.local_port) as u32;
        if let Some(word) = OPEN.get(word) {
            open::set(word, flow.local_port);
        }
        if let Some(word) = OPEN.get(word + 1)
            && is_connected
        {
            open::set(word, flow.local_port);
        }
        if !is_reflector(flow.remote_port) {
            return;
        }
    }
    let SolicitPlace { bucket, tag } = flow.place(&settings.solicit_seeds);
    let (Some(begun), Some(solicited)) = (BEGUN.get(bucket), SOLICITED.get(bucket)) else { return };
    if !is_connected && is_in(begun, tag, now_ns) {
        write(begun, tag, now_ns, Note::BEGUN);
    } else {
        write(solicited, tag, now_ns, Note::question(flow, has_sessions(flow.remote_port)));
    }
}

/// The part of a packet that lies in one piece, between the pointers that the kernel gives. Headers do.
#[derive(Clone, Copy)]
struct SkbWindow {
    start: usize,
    end: usize,
    ctx: *mut __sk_buff,
}

impl SkbWindow {
    #[inline(always)]
    fn new(ctx: &TcContext) -> Self {
        Self { start: ctx.data(), end: ctx.data_end(), ctx: ctx.skb.skb }
    }

    /// Whether the packet is from a connected socket.
    #[inline(always)]
    fn is_connected(self) -> bool {
        // SAFETY: the context is the one that the program was called with, and the kernel holds the socket of a packet.
        unsafe {
            let socket = (*self.ctx).__bindgen_anon_2.sk;
            !socket.is_null() && (*socket).dst_port != 0
        }
    }
}

impl<'a> Window<'a> for SkbWindow {
    #[inline(always)]
    fn view<T: WireType>(self, offset: usize) -> Option<&'a T> {
        // VERIFIER: in the very form that `XdpWindow` has. Offsets here are at most that of UDP behind IPv4 options.
        if offset > 0x7f || self.start + offset + size_of::<T>() > self.end {
            return None;
        }
        // SAFETY: as for `XdpWindow`.
        Some(unsafe { &*((self.start + offset) as *const T) })
    }

    #[inline(always)]
    fn length(self) -> u32 {
        // SAFETY: the context is the one that the program was called with.
        unsafe { (*self.ctx).len }
    }
}
