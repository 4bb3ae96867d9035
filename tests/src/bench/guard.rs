//! What guards a server in the bench: Floodgate, what people would use instead, and nothing.

use std::{
    io::{BufRead, BufReader, Write},
    net::IpAddr,
    process::{Child, Stdio},
};

use anyhow::{Context, Result, bail, ensure};
use aya::programs::XdpMode;

use crate::{
    daemon::Daemon,
    lab::{Namespace, Role},
    programs::{Programs, Sources},
};

use super::{
    site::NETWORK,
    tool::{NFT, Tool, XDP_FILTER},
};

/// The limit of each source, for filters that have one: far above what the visitor sends.
const LIMIT_PER_S: u64 = 200_000;

/// Sources that nft has room for, as many as the LRU reference.
const METER_SIZE: u64 = 1 << 20;

/// What guards the server.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Guard {
    /// Nothing: the network stack takes the flood.
    Nothing,
    /// Floodgate with a limit and the attackers' network blocked.
    Floodgate,
    /// Floodgate with a configuration, under a name.
    Configured(&'static str, &'static str),
    /// A bare `XDP_DROP`, which keeps the visitor out, too.
    XdpDrop,
    /// A program that passes the visitor and drops the rest: no filter can be better.
    Ideal,
    /// xdp-filter, which knows no networks: it denies everybody but the visitor.
    XdpFilter,
    /// nftables, the attackers' network dropped at ingress.
    NftDrop,
    /// nftables with a limit of each source in a dynamic set, then the attackers' network dropped.
    NftMeter,
}

impl Guard {
    /// Those that are compared.
    pub const ALL: [Self; 7] = [
        Self::Nothing,
        Self::Floodgate,
        Self::XdpDrop,
        Self::Ideal,
        Self::XdpFilter,
        Self::NftDrop,
        Self::NftMeter,
    ];

    /// The word for it in reports.
    pub fn label(self) -> &'static str {
        match self {
            Self::Nothing => "no filter",
            Self::Floodgate => "floodgate",
            Self::Configured(name, _) => name,
            Self::XdpDrop => "xdp drop",
            Self::Ideal => "ideal",
            Self::XdpFilter => "xdp-filter",
            Self::NftDrop => "nft drop",
            Self::NftMeter => "nft meter",
        }
    }

    /// The program that it needs.
    pub(super) fn tool(self) -> Option<Tool> {
        match self {
            Self::XdpFilter => Some(XDP_FILTER),
            Self::NftDrop | Self::NftMeter => Some(NFT),
            Self::Nothing | Self::Floodgate | Self::Configured(..) | Self::XdpDrop | Self::Ideal => None,
        }
    }

    pub(super) fn admits_visitor(self) -> bool {
        self != Self::XdpDrop
    }

    /// Puts it in front of the server.
    pub(super) fn set_up(self, server: &Namespace) -> Result<Held> {
        match self {
            Self::Nothing => Ok(Held::Nothing),
            Self::Floodgate => {
                let config = format!(
                    "[limit.source]\npackets = \"{LIMIT_PER_S}/s\"\nsyn.packets = \"off\"\n[block]\nentries = [\"{NETWORK}\"]\n"
                );
                Ok(Held::Daemon(Daemon::start(server, &config, "eth0")?))
            }
            Self::Configured(_, config) => {
                Ok(Held::Daemon(Daemon::start(server, &with_cookies(config), "eth0")?))
            }
            Self::XdpDrop => attach(server, "drop"),
            Self::Ideal => attach(server, "pass_one"),
            Self::XdpFilter => xdp_filter(server),
            Self::NftDrop => nft(server, "", ""),
            Self::NftMeter => {
                let set = format!(
                    "set sources {{ type ipv4_addr; size {METER_SIZE}; flags dynamic,timeout; timeout 10s; }}"
                );
                let limit = format!(
                    "update @sources {{ ip saddr limit rate over {LIMIT_PER_S}/second burst {LIMIT_PER_S} packets }} drop"
                );
                nft(server, &set, &limit)
            }
        }
    }
}

/// What has to live for a filter to stay where it is.
pub(super) enum Held {
    /// Nothing, or what goes with its namespace.
    Nothing,
    Daemon(Daemon),
    Program(#[expect(dead_code, reason = "detaches when dropped")] Programs),
    Shell(Child),
}

impl Drop for Held {
    fn drop(&mut self) {
        if let Self::Shell(child) = self {
            drop(child.stdin.take()); // it waits for the end of its input
            let _ = child.wait();
        }
    }
}

/// The configuration, by which SYNs are answered with cookies. That is the default on a network card; on a virtual cable the
/// daemon cannot know whether the other end takes in what the filter sends. In the laboratory it does.
fn with_cookies(config: &str) -> String {
    const SECTION: &str = "[proof]\n";
    const COOKIES: &str = "syn = \"cookie\"\n";

    if config.contains(COOKIES) {
        config.to_owned()
    } else if config.contains(SECTION) {
        config.replacen(SECTION, &[SECTION, COOKIES].concat(), 1)
    } else {
        [config, "\n", SECTION, COOKIES].concat()
    }
}

/// Attaches a program of the laboratory; the one source that it may want to know is the visitor.
fn attach(server: &Namespace, name: &str) -> Result<Held> {
    let IpAddr::V4(visitor) = Role::Visitor.address() else { bail!("the visitor has no IPv4 address") };
    let mut programs = Programs::load()?;
    programs.set_sources(Sources { first: visitor.to_bits().into(), count: 1, adjacent: true })?;
    let index = server.index("eth0")?;
    let program = programs.program(name)?;
    server.within(|| Ok(program.attach_to_if_index(index, XdpMode::Driver)?))?;
    Ok(Held::Program(programs))
}

/// Sets xdp-filter up. It pins its maps by the name of the interface; in a BPF file system of its own that can be no
/// operator's `eth0`, and nothing stays behind.
fn xdp_filter(server: &Namespace) -> Result<Held> {
    let visitor = Role::Visitor.address();
    let script = format!(
        "mount -t bpf bpf /sys/fs/bpf && xdp-filter load eth0 --policy deny --features ipv4 && \
         xdp-filter ip {visitor} --mode src && echo ready && read -r _"
    );
    let mut command = server.command("unshare")?;
    command.args(["--mount", "sh", "-c", &script]).stdin(Stdio::piped()).stdout(Stdio::piped());
    let mut child = command.spawn().context("starting xdp-filter")?;
    let mut lines = BufReader::new(child.stdout.take().context("no standard output")?).lines();
    let held = Held::Shell(child);
    ensure!(lines.any(|line| line.is_ok_and(|line| line == "ready")), "xdp-filter cannot be set up");
    Ok(held)
}

/// Sets nftables up at ingress: perhaps a set and a rule on it, then a drop of the attackers' network.
fn nft(server: &Namespace, set: &str, rule: &str) -> Result<Held> {
    let rules = format!(
        "table netdev flood {{\n{set}\nchain ingress {{\ntype filter hook ingress device \"eth0\" priority 0;\n\
         {rule}\nip saddr {NETWORK} drop\n}}\n}}\n"
    );
    let mut command = server.command("nft")?;
    let mut child = command
        .args(["-f", "-"])
        .stdin(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .context("starting nft")?;
    child.stdin.take().context("nft has no standard input")?.write_all(rules.as_bytes())?;
    let output = child.wait_with_output()?;
    ensure!(output.status.success(), "nft: {}", String::from_utf8_lossy(&output.stderr).trim());
    Ok(Held::Nothing)
}
