//! The kinds of lists.

use flood_common::lists::{ALLOWED, BLOCKED};

/// The kind of a list.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub enum ListKind {
    /// Sources that always pass.
    Allow,
    /// Sources that are dropped.
    Block,
    /// Sources whose packets pass over the limits when they give evidence of their origin.
    AllowProven,
}

impl ListKind {
    /// All kinds.
    pub const ALL: [Self; 3] = [Self::Allow, Self::Block, Self::AllowProven];

    /// The lists in which each packet is looked up.
    pub const OF_EACH_PACKET: [Self; 2] = [Self::Allow, Self::Block];

    /// Returns its name on the command line and in messages.
    pub fn label(self) -> &'static str {
        match self {
            Self::Allow => "allow",
            Self::Block => "block",
            Self::AllowProven => "allow-proven",
        }
    }

    /// Returns its bit in the tables in which each packet is looked up.
    pub(crate) fn bit(self) -> u64 {
        match self {
            Self::Allow => ALLOWED,
            Self::Block => BLOCKED,
            Self::AllowProven => 0,
        }
    }
}
