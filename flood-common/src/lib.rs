//! What the filter thinks with: pure code, shared by the kernel and user space.
//!
//! Nothing here reads a clock, touches a map or allocates; time and looked-up facts come in as values, so that
//! every line runs unchanged on a host (unit tests, property tests, `floodgate replay`) and in the kernel. What
//! cannot be pure lives in `flood-ebpf`, and is little.
//!
//! The way of a packet through this crate: [`wire`] views headers, [`link`] opens frames, [`packet`] parses headers into a
//! summary, [`sanity`] knows what no packet should be, [`decide`](mod@decide) turns the summary into a [`reason`], [`ordinary`]
//! does all of that at once for what most packets are, [`meter`] keeps the limits and [`lists`] the lists that `decide` asks about,
//! [`solicit`] knows what the host asked for, and [`abi`] is what both sides of the kernel border agree on.
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
