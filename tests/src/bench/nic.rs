//! The same on a real network card, with another machine that sends: what a core receives with each filter in turn.
//!
//! The card's own kernel threads receive its packets, all on one processor. Every change to the interface is undone
//! at the end, also after an error.

use std::{
    fmt::Display,
    thread,
    time::{Duration, Instant},
};

use anyhow::{Context, Result, bail, ensure};
use flood_userspace::host::{Facts, Lifeline, Purpose};
use serde::Deserialize;

use crate::{
    lab::{Namespace, command},
    napi::Receiver,
    sysfs::Device,
};

use super::{
    Guard,
    capacity::{Capacity, LEAK},
    e2e::missing_tool,
    filters,
    report::{Core, EndToEnd, Measured, Report},
    site::NETWORK,
};

/// Number of sources that the other machine should use.
const SOURCES: u64 = 1 << 24;

/// The destination port that it should use, which is assumed to be closed.
const PORT: u16 = 9;

/// A flood has begun when this many packets arrive in a second.
const LEAST_PER_S: f64 = 10_000.0;

/// How often to check whether a flood has begun.
const LOOK_EVERY: Duration = Duration::from_millis(200);

/// Time that a filter is in place before it is measured: cards restart their queues for it.
const SETTLING: Duration = Duration::from_secs(1);

/// Rounds of each filter.
const ROUNDS: u32 = 9;

/// What to measure.
pub struct Card {
    /// The interface, in this process's namespace.
    pub interface: String,
    /// The processor that receives its packets.
    pub core: usize,
    /// How long each filter is measured.
    pub time: Duration,
    /// Whether to measure even if the interface is in use.
    pub anyway: bool,
}

/// Measures the named filters, or all that can be used on a card, one after the other. Reports instructions and
/// results to `progress`; an error from it or from `going_on` ends the run.
pub fn guard_card(
    card: &Card,
    names: &[String],
    mut progress: impl FnMut(&dyn Display) -> Result<()>,
    going_on: impl Fn() -> Result<()>,
) -> Result<Report> {
    // SAFETY: no arguments, no conditions.
    ensure!(unsafe { libc::geteuid() } == 0, "guarding an interface needs root");
    let Card { interface, anyway, .. } = card;
    let here = Namespace::here();
    let index = here.index(interface)?;
    if !anyway {
        let reasons = reasons_against(interface)?;
        ensure!(
            reasons.is_empty(),
            "{interface} {}; a flood and the filters would cut that off (--anyway goes on all the same)",
            reasons.join(", and ")
        );
    }
    let chosen = filters(names)?;
    let guards = Guard::ALL.into_iter().filter(|guard| guard.is_for_cards());
    let guards = guards.filter(|guard| chosen.is_empty() || chosen.contains(&guard.label()));
    progress(&instructions(&here, interface)?)?;
    let mut rows = Vec::new();
    for guard in guards {
        if let Some(reason) = missing_tool(guard) {
            progress(&format!("skipping {}: {reason}", guard.label()))?;
            continue;
        }
        let held = match guard.set_up(&here, interface) {
            Ok(held) => held,
            Err(error) if guard.tools().is_empty() => {
                return Err(error.context(format!("{} cannot guard {interface}", guard.label())));
            }
            // Third-party programs may need kernel features that are missing.
            Err(error) => {
                progress(&format!("skipping {}: {error:#}", guard.label()))?;
                continue;
            }
        };
        progress(&format!("{} guards {interface}", guard.label()))?;
        let row = measure(card, &here, index, guard, &going_on)?;
        drop(held);
        progress(&row)?;
        rows.push(row);
    }
    ensure!(!rows.is_empty(), "nothing was measured: no filter of these could guard {interface}");
    Report::new(Measured { e2e: rows, ..Measured::default() })
}

/// Waits for a flood, and measures the receiving threads.
fn measure(
    card: &Card,
    here: &Namespace,
    index: u32,
    guard: Guard,
    going_on: &impl Fn() -> Result<()>,
) -> Result<EndToEnd> {
    let Card { interface, core, time, .. } = card;
    let receiver = here.within(|| Receiver::on(interface, index, *core))?;
    let counts = || Counts::of(here, interface, &receiver);
    sleep(SETTLING, going_on)?;
    loop {
        let (before, begin) = (counts()?, Instant::now());
        sleep(LOOK_EVERY, going_on)?;
        if counts()?.since(&before).received as f64 / begin.elapsed().as_secs_f64() > LEAST_PER_S {
            break;
        }
    }
    let filter = guard.label();
    let mut rounds = Vec::new();
    for _ in 0..ROUNDS {
        let (before, begin) = (counts()?, Instant::now());
        sleep(*time / ROUNDS, going_on)?;
        let (Counts { received, missed, reached, busy }, elapsed) =
            (counts()?.since(&before), begin.elapsed().as_secs_f64());
        let per_s = |packets: u64| packets as f64 / elapsed;
        ensure!(per_s(received) > LEAST_PER_S, "{filter}: the flood has ended");
        let leaked = reached as f64 / received as f64;
        ensure!(
            guard == Guard::Nothing || leaked <= LEAK,
            "{filter}: {leaked:.3} of the flood reached the network stack: are its sources in {NETWORK}?"
        );
        rounds.push(Capacity {
            ns: busy.as_nanos() as f64 / received as f64,
            offered_mpps: per_s(received + missed) / 1e6,
            received_mpps: per_s(received) / 1e6,
        });
    }
    let core = Core::of(&rounds);
    Ok(EndToEnd { filter, sources: SOURCES, core: Some(core), shared_core_ns: None, visits: Vec::new() })
}

/// Sleeps for a time, unless an error ends the run meanwhile.
fn sleep(time: Duration, going_on: &impl Fn() -> Result<()>) -> Result<()> {
    let end = Instant::now() + time;
    loop {
        going_on()?;
        let left = end.saturating_duration_since(Instant::now());
        if left.is_zero() {
            return Ok(());
        }
        thread::sleep(left.min(LOOK_EVERY));
    }
}

/// The counters so far.
struct Counts {
    /// Packets that the card's driver has received.
    received: u64,
    /// Packets dropped for lack of buffers.
    missed: u64,
    /// Datagrams that reached the network stack, but no socket.
    reached: u64,
    /// Run time of the receiving threads.
    busy: Duration,
}

impl Counts {
    fn of(here: &Namespace, interface: &str, receiver: &Receiver) -> Result<Self> {
        Ok(Self {
            received: here.packets_received(interface)?,
            missed: here.within(|| Device::here(interface)?.packets_missed())?,
            reached: here.datagrams_without_port()?,
            busy: receiver.busy()?,
        })
    }

    fn since(&self, before: &Self) -> Self {
        Self {
            received: self.received - before.received,
            missed: self.missed - before.missed,
            reached: self.reached - before.reached,
            busy: self.busy.saturating_sub(before.busy),
        }
    }
}

/// Describes what an interface is in use for.
fn reasons_against(interface: &str) -> Result<Vec<String>> {
    let links: Vec<Link> =
        serde_json::from_str(&command("ip -d -j link show")?).context("reading `ip -j`")?;
    let goes_by = |device: &str| beneath(&links, device).contains(&interface);
    let mut reasons = Vec::new();
    for family in ["-4", "-6"] {
        let routes = command(&format!("ip {family} -o route show default table all"))?;
        if devices(&routes).any(goes_by) {
            reasons.push(format!("carries the default route of IPv{}", &family[1..]));
        }
    }
    let lifelines = Facts::read().context("asking who is logged in")?.lifelines;
    let is_login = |purpose| matches!(purpose, Purpose::Login | Purpose::Connection);
    for Lifeline { prefix, .. } in lifelines.iter().filter(|lifeline| is_login(lifeline.purpose)) {
        let from = prefix.addr();
        let route = command(&format!("ip -o route get {from}")).unwrap_or_default();
        if devices(&route).any(goes_by) {
            reasons.push(format!("is the way to {from}, from where somebody is logged in"));
        }
    }
    reasons.dedup();
    Ok(reasons)
}

/// Returns the interfaces in the output of `ip route`.
fn devices(routes: &str) -> impl Iterator<Item = &str> {
    let words = || routes.split_whitespace();
    words().zip(words().skip(1)).filter(|(word, _)| *word == "dev").map(|(_, device)| device)
}

/// An interface in the output of `ip -j link`.
#[derive(Deserialize)]
struct Link {
    ifname: String,
    /// The interface below it, as of a VLAN.
    link: Option<String>,
    /// The interface that it belongs to, as a bond or a bridge.
    master: Option<String>,
}

/// Returns an interface and all that its packets may pass through.
fn beneath<'a>(links: &'a [Link], device: &'a str) -> Vec<&'a str> {
    let mut found = vec![device];
    let mut next = 0;
    while let Some(upper) = found.get(next).copied() {
        next += 1;
        let is_beneath = |link: &Link, lower: &str| {
            link.ifname == upper && link.link.as_deref() == Some(lower)
                || link.ifname == lower && link.master.as_deref() == Some(upper)
        };
        for lower in links.iter().map(|link| link.ifname.as_str()) {
            if !found.contains(&lower) && links.iter().any(|link| is_beneath(link, lower)) {
                found.push(lower);
            }
        }
    }
    found
}

/// Describes what the other machine has to send, and how.
fn instructions(here: &Namespace, interface: &str) -> Result<String> {
    let link = here.within(|| command(&format!("ip -o link show dev {interface}")))?;
    let mac = link.split_whitespace().skip_while(|word| *word != "link/ether").nth(1);
    let mac = mac.with_context(|| format!("{interface} is no Ethernet interface"))?;
    let addresses = here.within(|| command(&format!("ip -o -4 address show dev {interface}")))?;
    let address = addresses.split_whitespace().skip_while(|word| *word != "inet").nth(1);
    let Some(address) = address.and_then(|address| address.split('/').next()) else {
        bail!("{interface} has no IPv4 address to send to");
    };
    let [first, last] = ["11.0.0.0", "11.255.255.255"];
    Ok(format!(
        "Have another machine that is wired to {interface} send UDP packets of 64 bytes (with the checksum of Ethernet) from\n\
         random sources in {NETWORK} to {address}, port {PORT}, at {mac}, as many as it can, until this ends. For example:\n\
         \n\
         with pktgen, for each of its threads (Documentation/networking/pktgen.rst), DEVICE being its interface:\n\
         \x20 pgset() {{ echo \"$1\" > /proc/net/pktgen/DEVICE; }}\n\
         \x20 pgset 'count 0'; pgset 'pkt_size 60'; pgset 'clone_skb 0'; pgset 'flag IPSRC_RND'\n\
         \x20 pgset 'src_min {first}'; pgset 'src_max {last}'; pgset 'dst {address}'; pgset 'dst_mac {mac}'\n\
         \x20 pgset 'udp_dst_min {PORT}'; pgset 'udp_dst_max {PORT}'; echo start > /proc/net/pktgen/pgctrl\n\
         with T-Rex: a stream of 64-byte UDP packets with a random variable of four bytes, {first} to {last}, written at IP.src\n\
         with ours, where the other end is a veth:\n\
         \x20 cargo xtask flood DEVICE --mac {mac} --to {address} --port {PORT} --from {first} --sources {SOURCES} --count 100000000000 --duration 10m\n\
         \n\
         Each filter waits until packets come. Ctrl-C ends it, and takes everything off.",
    ))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_route_names_its_interfaces() {
        let cases: [(&str, &[&str]); 4] = [
            ("default via 192.0.2.1 dev eth0 proto dhcp src 192.0.2.7 metric 100", &["eth0"]),
            ("198.51.100.9 dev wg0 src 192.0.2.7 uid 0 \\    cache", &["wg0"]),
            (
                "default \\ nexthop via 192.0.2.1 dev eth0 weight 1 \\ nexthop via 192.0.2.2 dev eth1 weight 1",
                &["eth0", "eth1"],
            ),
            ("blackhole default", &[]),
        ];
        for (route, expected) in cases {
            assert_eq!(devices(route).collect::<Vec<_>>(), expected, "{route}");
        }
    }

    #[test]
    fn a_vlan_on_a_bond_goes_by_its_members() {
        let link = |ifname: &str, link: Option<&str>, master: Option<&str>| Link {
            ifname: ifname.to_owned(),
            link: link.map(str::to_owned),
            master: master.map(str::to_owned),
        };
        let links = [
            link("eth0", None, Some("bond0")),
            link("eth1", None, Some("bond0")),
            link("eth2", None, None),
            link("bond0", None, None),
            link("bond0.5", Some("bond0"), Some("br0")),
            link("br0", None, None),
        ];
        assert_eq!(beneath(&links, "br0"), ["br0", "bond0.5", "bond0", "eth0", "eth1"]);
        assert_eq!(beneath(&links, "eth2"), ["eth2"]);
        assert_eq!(beneath(&links, "wg0"), ["wg0"], "one that nobody has listed");
    }
}
