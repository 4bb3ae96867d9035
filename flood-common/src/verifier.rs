//! What is said to the kernel's verifier, or to the compiler for its sake, and means nothing anywhere else.

/// Returns `value`, of which the verifier afterwards knows no more than of `unknown`.
///
/// The verifier follows every way through a program, and goes on separately from where ways meet as long as a value
/// differs between them: each constant, each range that a comparison taught it. Where nothing that follows needs to
/// know, this makes the ways one. It costs two instructions; without it the filter took ten times the verification.
#[inline(always)]
#[must_use]
pub fn opaque(value: u64, unknown: u64) -> u64 {
    #[cfg(target_arch = "bpf")]
    let value = {
        let mut value = value;
        // The verifier does not know that the same number twice cancels out. Not `pure`, as the compiler would put it off
        // until the value is used, after the ways that are to be one (the program on the way out: 60,839 instead of 2,351).
        // SAFETY: arithmetic on a register.
        unsafe {
            core::arch::asm!(
                "{value} ^= {unknown}",
                "{value} ^= {unknown}",
                value = inout(reg) value,
                unknown = in(reg) unknown,
                options(nomem, nostack, preserves_flags)
            );
        }
        value
    };
    #[cfg(not(target_arch = "bpf"))]
    let _ = unknown;
    value
}

/// A register that keeps its value, and of which the compiler knows nothing from there on.
macro_rules! kept {
    ($value:ident) => {{
        #[cfg(target_arch = "bpf")]
        let $value = {
            let mut value = $value;
            // SAFETY: a register that keeps its value.
            unsafe {
                core::arch::asm!(
                    "{value} = {value}",
                    value = inout(reg) value,
                    options(pure, nomem, nostack, preserves_flags)
                )
            };
            value
        };
        $value
    }};
}

/// Returns `value`, of which the compiler afterwards knows nothing, so that it computes no bound away that the verifier
/// needs.
#[inline(always)]
#[must_use]
pub fn unknown(value: usize) -> usize {
    kept!(value)
}

/// Returns `value`, which the compiler does not touch before it comes here.
///
/// Of an enum with two kinds of content it may widen the one before it looks which of them there is, and where it is the other,
/// the register may still hold a pointer.
#[inline(always)]
#[must_use]
pub fn here(value: u32) -> u32 {
    kept!(value)
}

/// The lesser of a number and a constant, in a form that the compiler cannot take apart.
#[inline(always)]
#[must_use]
pub fn at_most<const MOST: i32>(value: usize) -> usize {
    #[cfg(target_arch = "bpf")]
    let value = {
        let mut value = value;
        // SAFETY: a register, and a jump over the next instruction.
        unsafe {
            core::arch::asm!(
                "if {value} <= {most} goto +1",
                "{value} = {most}",
                value = inout(reg) value,
                most = const MOST,
                options(pure, nomem, nostack)
            );
        }
        value
    };
    #[cfg(not(target_arch = "bpf"))]
    let value = value.min(MOST as usize);
    value
}
