//! Feeds: lists that somebody else keeps, and that are read again and again.
//!
//! [`fetch`] gets the bytes of one, [`content`] reads them and says whether they can be believed, [`copy`] keeps the
//! last good ones on disk, [`schedule`] says when to try next. Nothing here touches a list: what is in force is
//! changed only by content that has been believed, and that is the daemon's business.

pub mod content;
pub mod copy;
pub mod fetch;
mod reach;
pub mod schedule;

pub use content::{Content, NoList};
pub use copy::{Copies, Copy};
pub use fetch::{FetchError, Fetched, Stamp, fetch};
