//! The lists as the daemon holds them.
//!
//! [`target`] parses one address, prefix or range; [`import`] reads whole files of them. [`guard`] keeps out what
//! would cut the host off, and [`doubt`] what is implausible. [`configured`] returns what a configuration puts
//! into a list. [`book`] holds a list; [`tables`] writes the tables in which the kernel looks addresses up;
//! [`books`] keeps the two together; and [`proven`] works out what the kernel has to know of the allow-proven
//! list. Nothing here makes system calls for the kernel's tables. Every prefix that leaves these modules has its
//! host bits cleared, and an IPv4-mapped IPv6 address becomes the IPv4 address.

pub mod book;
pub mod books;
pub mod configured;
pub mod doubt;
pub mod guard;
pub mod import;
mod kind;
pub mod proven;
pub mod tables;
pub mod target;

pub use book::{Book, Change, Edit, Entry, Note, Origin, Places};
pub use books::{Books, EditError, Full, Lists, check_room};
pub use guard::Guard;
pub use kind::ListKind;
pub use target::{TargetError, canonical, parse_target};
