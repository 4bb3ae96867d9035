//! `cargo xtask flood`: sends a bounded flood out of a veth interface of this network namespace.

use std::{net::IpAddr, process::ExitCode, time::Duration};

use anyhow::{Context, Result};
use clap::Parser;
use flood_userspace::{
    bpf::interface::interface,
    quantity::{PacketRate, parse_duration},
};
use floodgate_tests::{flood::Flood, packet, programs::Sources};

/// Sends frames with random sources out of one end of a veth pair; the other end receives them.
///
/// More than ten million a second come out of one core. The receiving end needs an XDP program, or generic receive
/// offload (`ethtool -K IFACE gro on`), for frames to be taken in.
#[derive(Parser)]
#[command(name = "cargo xtask flood")]
struct Arguments {
    /// The veth interface.
    interface: String,
    /// Destination MAC address.
    #[arg(long, default_value = "ff:ff:ff:ff:ff:ff")]
    mac: String,
    /// Destination address.
    #[arg(long, default_value = "192.0.2.1")]
    to: IpAddr,
    /// Destination port (UDP).
    #[arg(long, default_value_t = 9)]
    port: u16,
    /// The first source; the others follow it.
    #[arg(long, default_value = "198.18.0.0")]
    from: IpAddr,
    /// Number of sources, rounded up to a power of two.
    #[arg(long, default_value_t = 1)]
    sources: u64,
    /// Frames per second [default: as many as possible]
    #[arg(long)]
    rate: Option<PacketRate>,
    /// Frames in all.
    #[arg(long, default_value_t = 100_000_000)]
    count: u64,
    /// How long.
    #[arg(long, default_value = "5s", value_parser = parse_duration)]
    duration: Duration,
}

fn main() -> Result<ExitCode> {
    let arguments = Arguments::parse();
    let index = interface(&arguments.interface)?.index;
    let mut frame =
        packet::from(arguments.from).to(arguments.to).udp(40_000, arguments.port).payload(18).bytes();
    frame[..6]
        .copy_from_slice(&parse_mac(&arguments.mac).context("--mac wants six bytes, as 02:00:00:00:00:01")?);
    let first = match arguments.from {
        IpAddr::V4(v4) => u64::from(v4.to_bits()),
        IpAddr::V6(v6) => (v6.to_bits() >> 64) as u64,
    };
    let count = arguments.sources.clamp(1, 1 << 32).next_power_of_two();
    let flood = Flood {
        interface: index,
        frame,
        varied: Vec::new(),
        sources: Sources { first, count, adjacent: true },
        rate: arguments.rate.map(|rate| rate.0),
        count: arguments.count,
        duration: arguments.duration,
    };
    let sent = flood.run(|| false)?;
    println!("{sent} frames sent from {count} sources");
    Ok(ExitCode::SUCCESS)
}

fn parse_mac(text: &str) -> Option<[u8; 6]> {
    let bytes: Option<Vec<u8>> = text.split(':').map(|byte| u8::from_str_radix(byte, 16).ok()).collect();
    bytes?.try_into().ok()
}
