//! The control socket: what is said over it, who serves it, who calls it.

pub mod client;
pub mod protocol;
pub mod server;
