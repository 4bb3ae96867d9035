//! The control socket: protocol, listener, server and client.

pub mod client;
pub mod listener;
pub mod protocol;
pub mod server;
