//! Helpers that exist only for the kernel's verifier, or for the compiler on its behalf.

/// Returns `value`, after which the verifier knows no more about it than about `unknown`.
///
/// The verifier follows every path through a program. Where paths meet, it continues separately as long as a value
/// differs between them: each constant, each range that a comparison taught it. Where the code that follows need
/// not know the value, this merges the paths. It costs two instructions; without it the filter took ten times the
/// verification.
#[inline(always)]
#[must_use]
pub fn opaque(value: u64, unknown: u64) -> u64 {
    #[cfg(target_arch = "bpf")]
    let value = {
        let mut value = value;
        // The verifier does not know that XOR with the same number twice cancels out. Not `pure`, because the
        // compiler would defer it until the value is used, after the paths that are to merge (egress program:
        // 60,839 instead of 2,351).
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

/// Keeps the value of a register, but makes it unknown to the compiler from there on.
macro_rules! kept {
    ($value:ident) => {{
        #[cfg(target_arch = "bpf")]
        let $value = {
            let mut value = $value;
            // SAFETY: the register keeps its value.
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

/// Returns `value` but hides it from the compiler, so that it does not remove a bound that the verifier needs.
#[inline(always)]
#[must_use]
pub fn unknown(value: usize) -> usize {
    kept!(value)
}

/// Returns `value`, which the compiler does not touch before this point.
///
/// With an enum that has two kinds of content, the compiler may widen one before it checks which of them is
/// present; if it is the other, the register may still hold a pointer.
#[inline(always)]
#[must_use]
pub fn here(value: u32) -> u32 {
    kept!(value)
}

/// Returns the lesser of a number and a constant, in a form that the compiler cannot take apart.
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
