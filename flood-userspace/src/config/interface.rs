//! The name of a network interface, checked by the kernel's rules.

use std::fmt;
use std::str::FromStr;

use serde::Serialize;
use thiserror::Error;

/// Longest name in bytes: alternative names are longer than the others, and the kernel's ALTIFNAMSIZ is 128, with a NUL
/// behind the name (`include/uapi/linux/if.h`).
const MAX_BYTES: usize = 127;

/// A name that the kernel would accept for an interface, or as an alternative name of one (`dev_valid_name` in
/// `net/core/dev.c`). It is safe as a component of a path, too.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize)]
#[serde(transparent)]
pub struct InterfaceName(String);

/// A text that names no interface.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
#[error(
    "{0:?} cannot be the name of an interface: 1 to {MAX_BYTES} bytes, no '/', ':' or blanks; see `ip link`"
)]
pub struct InterfaceNameError(String);

impl InterfaceName {
    /// The name.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl FromStr for InterfaceName {
    type Err = InterfaceNameError;

    fn from_str(text: &str) -> Result<Self, InterfaceNameError> {
        let forbidden = |c: char| matches!(c, '/' | ':' | '\0') || c.is_whitespace();
        let right_length = (1..=MAX_BYTES).contains(&text.len());
        if !right_length || matches!(text, "." | "..") || text.contains(forbidden) {
            return Err(InterfaceNameError(text.to_owned()));
        }
        Ok(Self(text.to_owned()))
    }
}

impl fmt::Display for InterfaceName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(&self.0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_kernels_rules_decide_what_a_name_is() {
        let cases = [
            ("usual", "eth0", true),
            ("VLAN", "eth0.100", true),
            ("an alternative name", "enx0123456789ab-of-the-upper-rack", true),
            ("as long as can be", &"a".repeat(127), true),
            ("one too long", &"a".repeat(128), false),
            ("empty", "", false),
            ("this folder", ".", false),
            ("the folder above", "..", false),
            ("path", "a/b", false),
            ("alias", "eth0:1", false),
            ("blank", "eth 0", false),
            ("NUL", "eth0\0", false),
        ];
        for (why, text, expected) in cases {
            assert_eq!(text.parse::<InterfaceName>().is_ok(), expected, "{why}: {text:?}");
        }
    }
}
