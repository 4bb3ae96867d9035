//! The control socket: what is said over it, who listens and serves, who calls.

pub mod client;
pub mod listener;
pub mod protocol;
pub mod server;
