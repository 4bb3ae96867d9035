//! What guards a server in the bench: Floodgate, what people would use instead, and nothing.

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

/// Sources that nft and iptables have room for, as many as the references.
const METER_SIZE: u64 = 1 << 20;

/// Prefixes in the trie of the reference.
const TRIE_ENTRIES: usize = 1_000;

/// What rules and sets of ours are called.
const OURS: &str = "floodgate_bench";

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
    /// iptables with a limit of each source (hashlimit), then the attackers' network dropped, before connections are tracked.
    Hashlimit,
    /// iptables with a set of networks that has the attackers', at the same place.
    Ipset,
    /// A reference with a limit of each source, which drops what conforms as well.
    LruReference,
    /// The same with a map for each processor.
    PerCpuLruReference,
    /// The same under locks.
    SpinLockReference,
    /// A reference with a block list, which drops what is not on it as well.
    LpmReference,
}

impl Guard {
    /// Those that are compared.
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
            Self::Hashlimit => "iptables hashlimit",
            Self::Ipset => "iptables ipset",
            Self::LruReference => "lru reference",
            Self::PerCpuLruReference => "per-cpu lru reference",
            Self::SpinLockReference => "spin lock reference",
            Self::LpmReference => "lpm reference",
        }
    }

    /// Whether it can be compared on a network card, whose flood is no visitor's.
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

    /// Whether the network stack has counted a packet before this filter sees it.
    pub(super) fn is_in_stack(self) -> bool {
        matches!(self, Self::Nothing | Self::Hashlimit | Self::Ipset)
    }

    /// Puts it in front of a server, on this interface of its.
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

/// What has to live for a filter to stay where it is.
pub(super) enum Held {
    /// Nothing, or what goes with its namespace.
    Nothing,
    Daemon(Daemon),
    Program(#[expect(dead_code, reason = "detaches when dropped")] Programs),
    Reference(#[expect(dead_code, reason = "detaches when dropped")] Reference),
    Shell(Child),
    /// Rules, which this takes away.
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

/// Sets xdp-filter up. It pins its maps by the name of the interface; in a BPF file system of its own that can be no
/// operator's, and nothing stays behind.
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

/// Sets nftables up at ingress: perhaps a set and a rule on it, then a drop of the attackers' network.
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

/// Sets iptables up, as early as it can be: rules that drop, after something, which is done again at the end.
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
        // What has been done of it.
        shell(&undo, "; ")?.output()?;
        bail!("{}", String::from_utf8_lossy(&output.stderr).trim().replace('\n', "; "));
    }
    Ok(Held::Rules(shell(&undo, " && ")?))
}
