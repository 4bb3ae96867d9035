//! What guards a server in the bench: Floodgate, the alternatives, and nothing.

use std::{
    io::{BufRead, BufReader, Write},
    net::IpAddr,
    os::unix::process::CommandExt,
    process::{Child, Command, Stdio},
};

use anyhow::{Context, Result, bail, ensure};
use aya::programs::XdpMode;

use crate::{
    daemon::Daemon,
    lab::{Namespace, Role},
    programs::{Programs, Sources},
};

use super::{
    block_list::{BlockList, Drawn},
    family::{Family, Region},
    reference::{Conforming, Reference, State},
    site::NETWORK,
    tool::{IPSET, IPTABLES, NFT, Tool, XDP_FILTER},
};

/// The limit of each source, for filters that have one: far above what the visitor sends.
const LIMIT_PER_S: u64 = 200_000;

/// Number of sources that nft and iptables have room for, the same as in the references.
const METER_SIZE: u64 = 1 << 20;

/// Prefixes in the trie of the reference.
const TRIE_ENTRIES: usize = 1_000;

/// Name of our rules and sets.
const OURS: &str = "floodgate_bench";

/// What guards the server.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Guard {
    /// No filter: the network stack processes the flood.
    Nothing,
    /// Floodgate with a limit and the attackers' network blocked.
    Floodgate,
    /// Floodgate with a configuration; its name and text.
    Configured(&'static str, &'static str),
    /// A bare `XDP_DROP`, which also keeps the visitor out.
    XdpDrop,
    /// A program that passes the visitor and drops the rest: the upper bound for any filter.
    Ideal,
    /// xdp-filter, which does not support networks: it denies everything but the visitor.
    XdpFilter,
    /// nftables: drops the attackers' network at ingress.
    NftDrop,
    /// nftables: a limit for each source in a dynamic set, then drops the attackers' network.
    NftMeter,
    /// iptables: a limit for each source (hashlimit), then drops the attackers' network before connection tracking.
    Hashlimit,
    /// iptables: a set of networks that contains the attackers', in the same place.
    Ipset,
    /// A reference with a limit for each source, which also drops conforming packets.
    LruReference,
    /// The same with a map for each processor.
    PerCpuLruReference,
    /// The same with locks.
    SpinLockReference,
    /// A reference with a block list, which also drops what is not on it.
    LpmReference,
}

impl Guard {
    /// The filters that are compared.
    pub const ALL: [Self; 13] = [
        Self::Nothing,
        Self::Floodgate,
        Self::XdpDrop,
        Self::Ideal,
        Self::XdpFilter,
        Self::NftDrop,
        Self::NftMeter,
        Self::Hashlimit,
        Self::Ipset,
        Self::LruReference,
        Self::PerCpuLruReference,
        Self::SpinLockReference,
        Self::LpmReference,
    ];

    /// The name in reports.
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
            Self::Hashlimit => "iptables hashlimit",
            Self::Ipset => "iptables ipset",
            Self::LruReference => "lru reference",
            Self::PerCpuLruReference => "per-cpu lru reference",
            Self::SpinLockReference => "spin lock reference",
            Self::LpmReference => "lpm reference",
        }
    }

    /// Whether it can be compared on a network card, where the flood is not accompanied by a visitor.
    pub(super) fn is_for_cards(self) -> bool {
        !matches!(self, Self::Nothing | Self::Ideal)
    }

    /// The programs that it needs.
    pub(super) fn tools(self) -> &'static [Tool] {
        match self {
            Self::XdpFilter => &[XDP_FILTER],
            Self::NftDrop | Self::NftMeter => &[NFT],
            Self::Hashlimit => &[IPTABLES],
            Self::Ipset => &[IPTABLES, IPSET],
            _ => &[],
        }
    }

    /// Whether it lets a visitor in.
    pub fn admits_visitor(self) -> bool {
        self != Self::XdpDrop && !self.is_reference()
    }

    fn is_reference(self) -> bool {
        matches!(
            self,
            Self::LruReference | Self::PerCpuLruReference | Self::SpinLockReference | Self::LpmReference
        )
    }

    /// Whether the network stack counts a packet before this filter sees it.
    pub(super) fn is_in_stack(self) -> bool {
        matches!(self, Self::Nothing | Self::Hashlimit | Self::Ipset)
    }

    /// Sets it up in front of a server, on this interface.
    pub(super) fn set_up(self, server: &Namespace, interface: &str) -> Result<Held> {
        match self {
            Self::Nothing => Ok(Held::Nothing),
            Self::Floodgate => {
                let config = format!(
                    "[limit.source]\npackets = \"{LIMIT_PER_S}/s\"\nsyn.packets = \"off\"\n[block]\nentries = [\"{NETWORK}\"]\n"
                );
                Ok(Held::Daemon(Daemon::start(server, &config, interface)?))
            }
            Self::Configured(_, config) => {
                Ok(Held::Daemon(Daemon::start(server, &with_cookies(config), interface)?))
            }
            Self::XdpDrop => attach(server, interface, "drop"),
            Self::Ideal => attach(server, interface, "pass_one"),
            Self::XdpFilter => xdp_filter(server, interface),
            Self::NftDrop => nft(server, interface, "", ""),
            Self::NftMeter => {
                let set = format!(
                    "set sources {{ type ipv4_addr; size {METER_SIZE}; flags dynamic,timeout; timeout 10s; }}"
                );
                let limit = format!(
                    "update @sources {{ ip saddr limit rate over {LIMIT_PER_S}/second burst {LIMIT_PER_S} packets }} drop"
                );
                nft(server, interface, &set, &limit)
            }
            Self::Hashlimit => {
                let limit = format!(
                    "-m hashlimit --hashlimit-name {OURS} --hashlimit-mode srcip --hashlimit-above {LIMIT_PER_S}/sec \
                     --hashlimit-burst {LIMIT_PER_S} --hashlimit-htable-size {METER_SIZE} \
                     --hashlimit-htable-max {METER_SIZE} --hashlimit-htable-expire 10000"
                );
                iptables(server, interface, &[&limit, &format!("-s {NETWORK}")], "", "")
            }
            Self::Ipset => {
                let set = format!("ipset create {OURS} hash:net && ipset add {OURS} {NETWORK}");
                let rule = format!("-m set --match-set {OURS} src");
                iptables(server, interface, &[&rule], &set, &format!("ipset destroy {OURS}"))
            }
            Self::LruReference => reference(server, interface, State::Lru),
            Self::PerCpuLruReference => reference(server, interface, State::PerCpuLru),
            Self::SpinLockReference => reference(server, interface, State::SpinLock),
            Self::LpmReference => reference(server, interface, State::Lpm),
        }
    }
}

/// What has to stay alive for a filter to remain in place.
pub(super) enum Held {
    /// Nothing, or what is removed along with its namespace.
    Nothing,
    Daemon(Daemon),
    Program(#[expect(dead_code, reason = "detaches when dropped")] Programs),
    Reference(#[expect(dead_code, reason = "detaches when dropped")] Reference),
    Shell(Child),
    /// Rules; this command removes them.
    Rules(Command),
}

impl Drop for Held {
    fn drop(&mut self) {
        match self {
            Self::Shell(child) => {
                drop(child.stdin.take()); // it waits for the end of its input
                let _ = child.wait();
            }
            Self::Rules(undo) => {
                let undone = undo.stderr(Stdio::null()).status();
                if !undone.is_ok_and(|status| status.success()) {
                    eprintln!("rules remain: {undo:?} failed");
                }
            }
            Self::Nothing | Self::Daemon(_) | Self::Program(_) | Self::Reference(_) => {}
        }
    }
}

/// Returns the configuration with cookies enabled as the answer to SYNs. That is the default on a network card. On a
/// veth pair the daemon cannot know whether the other end accepts what the filter sends; in the laboratory it does.
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

/// Attaches a program of the laboratory. The one source that it may need to know is the visitor.
fn attach(server: &Namespace, interface: &str, name: &str) -> Result<Held> {
    let IpAddr::V4(visitor) = Role::Visitor.address() else { bail!("the visitor has no IPv4 address") };
    let mut programs = Programs::load()?;
    programs.set_sources(Sources { first: visitor.to_bits().into(), count: 1, adjacent: true })?;
    let index = server.index(interface)?;
    let program = programs.program(name)?;
    server.within(|| Ok(program.attach_to_if_index(index, XdpMode::Driver)?))?;
    Ok(Held::Program(programs))
}

/// Attaches a reference.
fn reference(server: &Namespace, interface: &str, state: State) -> Result<Held> {
    let mut reference = if state == State::Lpm {
        let list = BlockList::draw(Region::of(Family::Ipv4), Drawn::Random(TRIE_ENTRIES));
        Reference::lpm(&list, Conforming::IsDropped)?
    } else {
        Reference::load(state, Conforming::IsDropped)?
    };
    let index = server.index(interface)?;
    server.within(|| reference.attach(index))?;
    Ok(Held::Reference(reference))
}

/// Sets up xdp-filter. It pins its maps under the name of the interface. In a private BPF file system they cannot
/// collide with an operator's, and nothing stays behind.
fn xdp_filter(server: &Namespace, interface: &str) -> Result<Held> {
    let visitor = Role::Visitor.address();
    let script = format!(
        "mount -t bpf bpf /sys/fs/bpf && xdp-filter load {interface} --policy deny --features ipv4 || exit 1
         xdp-filter ip {visitor} --mode src && echo ready && read -r _
         xdp-filter unload {interface}"
    );
    let mut command = server.command("unshare")?;
    command.args(["--mount", "sh", "-c", &script]).stdin(Stdio::piped()).stdout(Stdio::piped());
    command.process_group(0); // Ctrl-C is for us, who end it
    let mut child = command.spawn().context("starting xdp-filter")?;
    let mut lines = BufReader::new(child.stdout.take().context("no standard output")?).lines();
    let held = Held::Shell(child);
    ensure!(lines.any(|line| line.is_ok_and(|line| line == "ready")), "xdp-filter cannot be set up");
    Ok(held)
}

/// Sets up nftables at ingress: optionally a set and a rule that uses it, then a drop of the attackers' network.
fn nft(server: &Namespace, interface: &str, set: &str, rule: &str) -> Result<Held> {
    let rules = format!(
        "table netdev {OURS} {{\n{set}\nchain ingress {{\ntype filter hook ingress device \"{interface}\" priority 0;\n\
         {rule}\nip saddr {NETWORK} drop\n}}\n}}\n"
    );
    let mut command = server.command("nft")?;
    let mut child = command
        .args(["-f", "-"])
        .process_group(0) // Ctrl-C is for us
        .stdin(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .context("starting nft")?;
    child.stdin.take().context("nft has no standard input")?.write_all(rules.as_bytes())?;
    let output = child.wait_with_output()?;
    ensure!(output.status.success(), "nft: {}", String::from_utf8_lossy(&output.stderr).trim());
    let mut undo = server.command("nft")?;
    undo.args(["delete", "table", "netdev", OURS]).process_group(0);
    Ok(Held::Rules(undo))
}

/// Sets up iptables as early in the path as possible: rules that drop. `before` runs first, and `after` when they are
/// removed.
fn iptables(server: &Namespace, interface: &str, rules: &[&str], before: &str, after: &str) -> Result<Held> {
    let each = |verb: &'static str| {
        rules
            .iter()
            .map(move |rule| format!("iptables -w -t raw {verb} PREROUTING -i {interface} {rule} -j DROP"))
    };
    let undo: Vec<String> = each("-D").chain([after.to_owned()]).filter(|line| !line.is_empty()).collect();
    let begin = [before.to_owned()].into_iter().filter(|line| !line.is_empty());
    let do_it: Vec<String> = begin.chain(each("-A")).collect();
    let shell = |lines: &[String], and: &str| -> Result<Command> {
        let mut command = server.command("sh")?;
        command.args(["-c", &lines.join(and)]).process_group(0); // Ctrl-C is for us
        Ok(command)
    };
    let output = shell(&do_it, " && ")?.output().context("starting iptables")?;
    if !output.status.success() {
        // Undoes what has been set up so far.
        shell(&undo, "; ")?.output()?;
        bail!("{}", String::from_utf8_lossy(&output.stderr).trim().replace('\n', "; "));
    }
    Ok(Held::Rules(shell(&undo, " && ")?))
}
