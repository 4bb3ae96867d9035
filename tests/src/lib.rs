//! The test kit.

pub mod bench;
pub mod programs;
