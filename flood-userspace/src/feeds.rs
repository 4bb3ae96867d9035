//! Feeds: lists that others maintain, and that are read regularly.
//!
//! [`fetch`] reads the bytes of one, [`content`] parses them and says whether they can be believed, [`copy`] keeps
//! the last good ones on disk, [`schedule`] says when to try next. Nothing here changes a list: only content that has
//! been believed changes what is in force, and that is up to the daemon.

pub mod content;
pub mod copy;
pub mod fetch;
mod reach;
pub mod schedule;

pub use content::{Content, NoList};
pub use copy::{Copies, Copy};
pub use fetch::{FetchError, Fetched, Stamp, fetch};
