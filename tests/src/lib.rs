//! The test kit.

pub mod attack;
pub mod bench;
pub mod clients;
pub mod daemon;
pub mod dns;
pub mod flood;
pub mod jitter;
pub mod lab;
pub mod napi;
pub mod packet;
pub mod peer;
pub mod prefixes;
pub mod process;
pub mod processor;
pub mod programs;
pub mod rig;
pub mod service;
pub mod skip;
pub mod sysfs;
pub mod visitor;
pub mod wire;
