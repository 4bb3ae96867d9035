//! The packet as the verifier wants it looked at.

use aya_ebpf::{helpers::generated::bpf_xdp_get_buff_len, programs::XdpContext};
use flood_common::{
    packet::MAX_HEADER_OFFSET,
    wire::{Window, WireType},
};

/// The linear part of the packet, between the pointers that the kernel gives.
#[derive(Clone, Copy)]
pub(crate) struct XdpWindow {
    start: usize,
    end: usize,
    length: u32,
}

impl XdpWindow {
    #[inline(always)]
    pub(crate) fn new(ctx: &XdpContext) -> Self {
        // SAFETY: the context is the one that the program was called with.
        let length = unsafe { bpf_xdp_get_buff_len(ctx.ctx) };
        Self {
            start: ctx.data(),
            end: ctx.data_end(),
            length: length as u32,
        }
    }
}

impl<'a> Window<'a> for XdpWindow {
    #[inline(always)]
    fn view<T: WireType>(self, offset: usize) -> Option<&'a T> {
        // VERIFIER: a bound on the offset before it meets the packet pointer, and the comparison with the packet's
        // end in this very form; a slice over the packet is rejected ("invalid access to packet", 6.18).
        if offset > MAX_HEADER_OFFSET || self.start + offset + size_of::<T>() > self.end {
            return None;
        }
        // SAFETY: the range lies within the packet, which outlives the program's run; a `WireType` has alignment 1
        // and no invalid bit pattern.
        Some(unsafe { &*((self.start + offset) as *const T) })
    }

    #[inline(always)]
    fn length(self) -> u32 {
        self.length
    }
}
