//! The library behind the `floodgate` binary.
#![cfg_attr(test, allow(clippy::unwrap_used, reason = "a test that cannot go on panics"))]

pub mod boot_time;
pub mod bpf;
pub mod capture;
pub mod cli;
pub mod config;
pub mod control;
pub mod daemon;
pub mod doctor;
pub mod feeds;
pub mod file;
pub mod host;
pub mod lists;
pub mod log;
pub mod memory;
pub mod metrics;
mod netlink;
pub mod printable;
pub mod process;
pub mod quantity;
pub mod replay;
pub mod state;
