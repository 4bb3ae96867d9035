//! The logic of the filter: pure code, shared by the kernel and user space.
//!
//! Nothing here reads a clock, touches a map or allocates; time and looked-up facts come in as values, so that
//! every line runs unchanged on a host (unit tests, property tests, `floodgate replay`) and in the kernel. The
//! little that cannot be pure is in `flood-ebpf`.
//!
//! The path of a packet through this crate: [`wire`] views headers, [`link`] opens frames, [`packet`] parses
//! headers into a summary, [`sanity`] finds packets that should not exist, [`decide`](mod@decide) turns the summary
//! into a [`reason`], [`ordinary`] does all of that at once for most packets, [`meter`] keeps the limits and
//! [`lists`] the lists that `decide` consults, [`solicit`] records what the host solicited, and [`abi`] defines
//! what both sides of the kernel border agree on.
//!
//! Invariant: this crate depends on `zerocopy` and on nothing else.
#![cfg_attr(not(any(test, feature = "host")), no_std)]
#![cfg_attr(target_arch = "bpf", feature(asm_experimental_arch))]
#![cfg_attr(test, allow(clippy::unwrap_used, reason = "a test that cannot go on panics"))]

pub mod abi;
pub mod account;
pub mod address;
pub mod again;
pub mod answer;
pub mod class;
pub mod decide;
pub mod evidence;
pub mod fragments;
#[cfg(any(test, feature = "host"))]
pub mod host;
pub mod link;
pub mod lists;
pub mod meter;
pub mod open;
pub mod ordinary;
pub mod packet;
pub mod place;
pub mod proof;
pub mod reason;
pub mod reassembly;
pub mod reflector;
pub mod sampler;
pub mod sanity;
pub mod sketch;
pub mod solicit;
pub mod verifier;
pub mod watch;
pub mod wire;
