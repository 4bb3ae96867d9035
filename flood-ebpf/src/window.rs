//! Access to the packet in the form that the verifier requires.

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
    /// Whether the packet begins with an IP header.
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
        // VERIFIER: the offset needs a bound before it is added to the packet pointer; no offset is larger. The
        // bound is arithmetic that the compiler cannot compute away, because kernels before 6.18 forget what a
        // comparison taught them when the number is read from the stack again. The comparison with the packet's end
        // must have exactly this form; a slice over the packet is rejected ("invalid access to packet", 6.18).
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
