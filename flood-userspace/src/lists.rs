//! The block list and the allow list as the daemon holds them.
//!
//! [`target`] reads one address, prefix or range; [`import`] reads whole files of them; [`guard`] refuses
//! what would cut the host off; [`configured`] is what a configuration fills a list with; [`book`] holds a list and says what the kernel must be told when it changes.
//! Nothing here touches the kernel. Every prefix that leaves these modules has its host bits cleared, and an
//! IPv4-mapped IPv6 address is the IPv4 address.

pub mod book;
pub mod configured;
pub mod guard;
pub mod import;
pub mod target;

pub use book::{Book, Change, Entry, Origin};
pub use target::{TargetError, parse_target};
