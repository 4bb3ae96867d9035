//! The test kit.

pub mod bench;
pub mod daemon;
pub mod flood;
pub mod lab;
pub mod packet;
pub mod peer;
pub mod prefixes;
pub mod programs;
pub mod rig;
pub mod skip;
pub mod visitor;
