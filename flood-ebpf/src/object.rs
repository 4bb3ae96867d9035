//! What every object needs besides its programs.

/// The kernel offers some helpers only to programs under a GPL-compatible licence.
#[unsafe(link_section = "license")]
#[unsafe(no_mangle)]
static LICENSE: [u8; 13] = *b"Dual MIT/GPL\0";

/// An endless loop, so that the verifier rejects the program if a panic can be reached.
#[panic_handler]
fn panic(_: &core::panic::PanicInfo) -> ! {
    loop {}
}
