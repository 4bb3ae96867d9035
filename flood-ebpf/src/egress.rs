//! The egress program: notes questions, so that their replies are admitted, and the ports that are in use.
//!
//! It looks only at headers, changes nothing, drops nothing, and leaves every packet to the next program. TCP costs
//! a few loads, where this host forwards nothing.

use aya_ebpf::{bindings::__sk_buff, macros::classifier, programs::TcContext};
use flood_common::{
    abi::Settings,
    open,
    solicit::{Note, Outgoing, SolicitPlace, is_in, outgoing, sent, write},
    watch,
    wire::{Window, WireType},
};

use crate::{
    lookup::{has_sessions, is_hashing_tunnel, is_reflector, is_tunnel},
    maps::{BEGUN, OPEN, SETTINGS, SOLICITED, WATCHED},
    now_ns, settings_in_force,
};

/// `TCX_NEXT`, which is also `TC_ACT_UNSPEC` on the hook of older kernels: the next program decides.
const NEXT: i32 = -1;

/// Notes a question. If the packet is still to be segmented, its headers are those that each segment will have.
#[classifier]
fn floodgate_egress(ctx: TcContext) -> i32 {
    // SAFETY: the context is the one that the program was called with. The field is in network byte order, and is
    // the protocol behind the VLAN tag that is kept beside the frame.
    let kind = u16::from_be(unsafe { (*ctx.skb.skb).protocol } as u16);
    if let Some(page) = SETTINGS.get_ptr(0) {
        // SAFETY: array values live as long as the program; user space never writes the slot in force.
        let (settings, _) = unsafe { settings_in_force(page) };
        let window = SkbWindow::new(&ctx, settings);
        if let Some(flow) = outgoing(window, kind, settings.absence == 0) {
            // SAFETY: as above.
            sent(settings, &flow, window.is_connected(), unsafe { now_ns(page) }, &Noted);
        }
    }
    NEXT
}

/// The maps that record what leaves.
struct Noted;

impl Outgoing for Noted {
    #[inline(always)]
    fn set_open(&self, word: usize, port: u16) {
        if let Some(word) = OPEN.get(word as u32) {
            open::set(word, port);
        }
    }

    #[inline(always)]
    fn is_mirror(&self, port: u16) -> bool {
        is_reflector(port)
    }

    #[inline(always)]
    fn has_sessions(&self, port: u16) -> bool {
        has_sessions(port)
    }

    #[inline(always)]
    fn has_asked(&self, flow: SolicitPlace, now_ns: u64) -> bool {
        SOLICITED.get(flow.bucket).is_some_and(|bucket| is_in(bucket, flow.tag, now_ns))
    }

    #[inline(always)]
    fn has_begun(&self, flow: SolicitPlace, now_ns: u64) -> bool {
        BEGUN.get(flow.bucket).is_some_and(|bucket| is_in(bucket, flow.tag, now_ns))
    }

    #[inline(always)]
    fn is_tunnel(&self, port: u16) -> bool {
        is_tunnel(port)
    }

    #[inline(always)]
    fn is_hashing_tunnel(&self, port: u16) -> bool {
        is_hashing_tunnel(port)
    }

    #[inline(always)]
    fn is_watched(&self, source: SolicitPlace, now_ns: u64) -> bool {
        WATCHED.get(source.bucket).is_some_and(|bucket| is_in(bucket, source.tag, now_ns))
    }

    #[inline(always)]
    fn count(&self, flow: SolicitPlace, now_ns: u64) {
        if let Some(bucket) = WATCHED.get(flow.bucket) {
            watch::count(bucket, flow.tag, now_ns);
        }
    }

    #[inline(always)]
    fn goes_on(&self, flow: SolicitPlace, now_ns: u64) {
        if let Some(bucket) = BEGUN.get(flow.bucket) {
            write(bucket, flow.tag, now_ns, Note::ANSWERED);
        }
    }

    #[inline(always)]
    fn ask(&self, flow: SolicitPlace, note: Note, now_ns: u64) {
        if let Some(bucket) = SOLICITED.get(flow.bucket) {
            write(bucket, flow.tag, now_ns, note);
        }
    }
}

/// The linear part of a packet, between the pointers that the kernel gives. Headers are in it.
#[derive(Clone, Copy)]
struct SkbWindow {
    start: usize,
    end: usize,
    ctx: *mut __sk_buff,
    bare: bool,
}

impl SkbWindow {
    #[inline(always)]
    fn new(ctx: &TcContext, settings: &Settings) -> Self {
        // SAFETY: the context is the one that the program was called with.
        let interface = unsafe { (*ctx.skb.skb).ifindex };
        Self { start: ctx.data(), end: ctx.data_end(), ctx: ctx.skb.skb, bare: settings.is_bare(interface) }
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
        // VERIFIER: in exactly the form of `XdpWindow`. Offsets here are at most that of UDP behind IPv4 options.
        if offset > 0x7f || self.start + offset + size_of::<T>() > self.end {
            return None;
        }
        // SAFETY: as for `XdpWindow`.
        Some(unsafe { &*((self.start + offset) as *const T) })
    }

    #[inline(always)]
    fn is_bare(self) -> bool {
        self.bare
    }

    #[inline(always)]
    fn length(self) -> u32 {
        // SAFETY: the context is the one that the program was called with.
        unsafe { (*self.ctx).len }
    }
}
