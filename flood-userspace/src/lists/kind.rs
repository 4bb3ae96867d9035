//! Which of the two lists.

use flood_common::lists::{ALLOWED, BLOCKED};

/// Which of the two lists.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub enum ListKind {
    /// Sources that pass whatever else holds.
    Allow,
    /// Sources that are dropped.
    Block,
}

impl ListKind {
    /// Both.
    pub const ALL: [Self; 2] = [Self::Allow, Self::Block];

    /// The one that it is not.
    pub fn other(self) -> Self {
        match self {
            Self::Allow => Self::Block,
            Self::Block => Self::Allow,
        }
    }

    /// The word for it on the command line and in messages.
    pub fn label(self) -> &'static str {
        match self {
            Self::Allow => "allow",
            Self::Block => "block",
        }
    }

    /// What stands for it in the kernel's tables.
    pub(crate) fn bit(self) -> u64 {
        match self {
            Self::Allow => ALLOWED,
            Self::Block => BLOCKED,
        }
    }
}
