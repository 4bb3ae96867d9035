//! The binary as its users run it: real interfaces, real clients, real captures.

#[path = "e2e/answers.rs"]
mod answers;
#[path = "e2e/attached.rs"]
mod attached;
#[path = "e2e/bench.rs"]
mod bench;
#[path = "e2e/bulk.rs"]
mod bulk;
#[path = "e2e/clocks.rs"]
mod clocks;
#[path = "e2e/commands.rs"]
mod commands;
#[path = "e2e/control.rs"]
mod control;
#[path = "e2e/devices.rs"]
mod devices;
#[path = "e2e/explain.rs"]
mod explain;
#[path = "e2e/feeds.rs"]
mod feeds;
#[path = "e2e/interfaces.rs"]
mod interfaces;
#[path = "e2e/lists.rs"]
mod lists;
#[path = "e2e/proof.rs"]
mod proof;
#[path = "e2e/replay.rs"]
mod replay;
#[path = "e2e/robust.rs"]
mod robust;
#[path = "e2e/traffic.rs"]
mod traffic;
#[path = "e2e/wrong.rs"]
mod wrong;
