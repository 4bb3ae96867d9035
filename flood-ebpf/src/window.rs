//! The packet as the verifier wants it looked at.

use core::intrinsics::is_val_statically_known;

use aya_ebpf::{bindings::xdp_md, helpers::generated::bpf_xdp_get_buff_len, programs::XdpContext};
use flood_common::{
    packet::MAX_HEADER_OFFSET,
    verifier::unknown,
    wire::{Window, WireType},
};

/// The first buffer of the packet, between the pointers that the kernel gives.
#[derive(Clone, Copy)]
pub(crate) struct XdpWindow {
    start: usize,
    end: usize,
    ctx: *mut xdp_md,
    /// Whether it begins with an IP header.
    pub(crate) bare: bool,
}

impl XdpWindow {
    #[inline(always)]
    pub(crate) fn new(ctx: &XdpContext) -> Self {
        Self { start: ctx.data(), end: ctx.data_end(), ctx: ctx.ctx, bare: false }
    }
}

impl<'a> Window<'a> for XdpWindow {
    #[inline(always)]
    fn view<T: WireType>(self, offset: usize) -> Option<&'a T> {
        // VERIFIER: a bound on the offset before it meets the packet pointer; no offset is larger. By arithmetic that
        // the compiler cannot compute away, as kernels before 6.18 forget what a comparison taught them when the number
        // is read from the stack once more. The comparison with the packet's end in this very form; a slice over the
        // packet is rejected ("invalid access to packet", 6.18).
        let offset =
            if is_val_statically_known(offset) { offset } else { unknown(offset) & MAX_HEADER_OFFSET };
        if self.start + offset + size_of::<T>() > self.end {
            return None;
        }
        // SAFETY: the range lies within the packet, which outlives the program's run; a `WireType` has alignment 1
        // and no invalid bit pattern.
        Some(unsafe { &*((self.start + offset) as *const T) })
    }

    #[inline(always)]
    fn is_bare(self) -> bool {
        self.bare
    }

    #[inline(always)]
    fn length(self) -> u32 {
        // SAFETY: the context is the one that the program was called with.
        unsafe { bpf_xdp_get_buff_len(self.ctx) as u32 }
    }

    #[inline(always)]
    fn first_buffer(self) -> u32 {
        (self.end - self.start) as u32
    }
}
