//! Checks whether this host is fit for the filter: everything that can be checked without attaching it.

mod offloads;

use std::{fs, thread, time::Instant};

use serde::{Deserialize, Serialize};

use crate::{
    bpf::{
        BpfError, Filter, FilterOptions,
        features::{XdpFeatures, xdp_features},
        interface::{self, Interface},
        occupied, tables_of_others,
    },
    config::{AttachMode, Config, HostSays, InterfaceName, SynProof, SyncookieControl},
    daemon::why_answers_harm,
    host::{Facts, setting},
    lists::{Guard, ListKind, configured::configured},
};

/// The largest MTU at which a frame fits in one page, with the headroom and tailroom that drivers need, bytes.
const MTU_OF_ONE_BUFFER: u32 = 3_498;

/// Why the driver of a virtual card refuses native XDP.
const MERGED_BY_HOST: &str = "the host of this virtual card (virtio_net) merges packets or leaves out checksums, and offers no way \
                              to stop that (CTRL_GUEST_OFFLOADS): the driver refuses native XDP. Switch it off on the host \
                              (QEMU: `guest_csum=off,guest_tso4=off,guest_tso6=off,guest_ecn=off,guest_ufo=off,guest_uso4=off,\
                              guest_uso6=off`); `--attach generic` works without, but late and slowly";

/// Severity of a finding.
#[derive(Serialize, Deserialize, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
#[serde(rename_all = "snake_case")]
pub enum Verdict {
    /// As it should be.
    Good,
    /// The filter works, but the operator should know about this.
    Note,
    /// With this, `floodgate run` fails or does harm.
    Fault,
}

/// A finding about one subject.
#[derive(Serialize, Deserialize, Clone, PartialEq, Eq, Debug)]
pub struct Finding {
    /// The subject.
    pub subject: String,
    /// Severity.
    pub verdict: Verdict,
    /// What was found, and what to do about it.
    pub text: String,
}

/// Checks everything that a daemon with this configuration would need.
pub fn examine(config: &Config) -> Vec<Finding> {
    let mut findings = vec![filter(config), jit()];
    findings.extend(interfaces(config));
    let facts = Facts::read().unwrap_or_default();
    findings.extend(syncookies(config, &facts));
    findings.extend(sockets(config, &facts));
    findings.extend(lists(config, &Guard::new(facts.lifelines)));
    findings
}

fn finding(subject: &str, verdict: Verdict, text: impl Into<String>) -> Finding {
    Finding { subject: subject.into(), verdict, text: text.into() }
}

/// Loads the filter with all its tables, and unloads it.
fn filter(config: &Config) -> Finding {
    let release = fs::read_to_string("/proc/sys/kernel/osrelease").unwrap_or_default();
    let begin = Instant::now();
    let loaded = Filter::load(&FilterOptions::from(config)).and_then(|mut filter| {
        filter.load_prover()?;
        Ok(filter.egress_error().map(str::to_owned))
    });
    let took = begin.elapsed().as_secs_f64();
    let (verdict, text) = match loaded {
        Ok(None) => {
            (Verdict::Good, format!("Linux {} takes it, with its tables, in {took:.1} s", release.trim()))
        }
        Ok(Some(why)) => (
            Verdict::Note,
            format!("the kernel takes it, but not the part that notes what this host asks for: {why}"),
        ),
        Err(error) => without_filter(&error, tables_of_others()),
    };
    finding("filter", verdict, text)
}

/// Judges why the filter could not be loaded here. A running floodgate holds tables of `held` bytes already, and a
/// daemon that replaces it gets that memory.
fn without_filter(error: &BpfError, held: Option<u64>) -> (Verdict, String) {
    const MIB: u64 = 1 << 20;
    match (error, held.map(|held| held / MIB)) {
        (BpfError::TooLarge { needed_mib, available_mib, .. }, Some(held))
            if *needed_mib <= available_mib + held / 2 =>
        {
            (
                Verdict::Note,
                format!(
                    "not tried: a floodgate runs, whose tables take {held} MiB, and there is no room for {needed_mib} MiB beside \
                 them. When it ends there is"
                ),
            )
        }
        _ => (Verdict::Fault, error.to_string()),
    }
}

fn jit() -> Finding {
    match setting("core/bpf_jit_enable").as_deref() {
        Some("0") => finding(
            "compiler",
            Verdict::Note,
            "net.core.bpf_jit_enable is 0: the filter is interpreted, and each packet costs many times as much. \
             `sysctl net.core.bpf_jit_enable=1`",
        ),
        // Not all kernels allow it to be read, and some have nothing but the compiler.
        _ => finding("compiler", Verdict::Good, "the filter is compiled to machine code"),
    }
}

/// Checks the interfaces that are to be guarded. If none is named, checks all but the loopback; then none of them
/// need be fit.
fn interfaces(config: &Config) -> Vec<Finding> {
    let all = match interface::interfaces() {
        Ok(all) => all,
        Err(error) => return vec![finding("interfaces", Verdict::Fault, error.to_string())],
    };
    // Empty for a driver that does not tell, and for all before Linux 6.3.
    let features = xdp_features().unwrap_or_default();
    let examine =
        |interface: &Interface| examine_interface(interface, features.get(&interface.index).copied(), config);
    if config.interfaces.is_empty() {
        return all
            .iter()
            .filter(|interface| interface.name != "lo")
            .flat_map(examine)
            .map(|finding| Finding { verdict: finding.verdict.min(Verdict::Note), ..finding })
            .collect();
    }
    let names = config.interfaces.iter().map(InterfaceName::as_str);
    let is_any_there = names.clone().any(|name| interface::find(&all, name).is_some());
    names
        .flat_map(|name| match interface::named(&all, name) {
            Ok(interface) => examine(interface),
            // The daemon waits for it and guards the others.
            Err(error) if is_any_there => vec![finding(name, Verdict::Note, error.to_string())],
            Err(error) => vec![finding(name, Verdict::Fault, error.to_string())],
        })
        .collect()
}

fn examine_interface(interface: &Interface, features: Option<XdpFeatures>, config: &Config) -> Vec<Finding> {
    let mut findings = Vec::new();
    let mut find = |verdict, text: String| findings.push(finding(&interface.name, verdict, text));
    match occupied(interface) {
        Some(error @ BpfError::AlreadyGuarded { .. }) => find(Verdict::Note, error.to_string()),
        Some(error) => find(Verdict::Fault, error.to_string()),
        None => {}
    }
    if let Err(error) = interface.can_be_guarded(config.force) {
        find(Verdict::Fault, error.to_string());
        return findings;
    }
    let host_merges = offloads::virtio_host_merges(interface);
    let (verdict, text) = match config.attach {
        AttachMode::Native if host_merges => (Verdict::Fault, MERGED_BY_HOST.to_owned()),
        AttachMode::NativeOrGeneric if host_merges => (
            Verdict::Note,
            format!("{MERGED_BY_HOST}. So the filter will work behind the driver, late and slowly"),
        ),
        _ => driver(interface, config.attach, features),
    };
    find(verdict, text);
    // The driver of a virtual card tells its host to stop merging, if the host supports that.
    let merging = match interface.driver().as_str() {
        "virtio_net" => Vec::new(),
        _ => offloads::merging(&interface.name).unwrap_or_default(),
    };
    if config.attach != AttachMode::Generic && !merging.is_empty() {
        let switches: Vec<String> = merging.iter().map(|switch| format!("{switch} off")).collect();
        find(
            Verdict::Note,
            format!(
                "the card merges received packets, with which most drivers refuse native XDP: `ethtool -K {} {}`",
                interface.name,
                switches.join(" ")
            ),
        );
    }
    let is_card = interface.kind.is_none() && features.is_none_or(|features| features.native);
    if is_card
        && let Some(queues) = receive_queues(interface)
        && let Ok(processors) = thread::available_parallelism()
        && queues < processors.get()
    {
        find(
            Verdict::Note,
            format!(
                "{queues} of {processors} processors take packets in, as there are so many receive queues: \
                 `ethtool -l {name}` tells how many it can have, `ethtool -L {name} combined {processors}` sets it",
                name = interface.name
            ),
        );
    }
    findings
}

/// Judges what the driver of an interface can do for the filter.
fn driver(interface: &Interface, attach: AttachMode, features: Option<XdpFeatures>) -> (Verdict, String) {
    let driver = interface.driver();
    let is_jumbo = interface.mtu > MTU_OF_ONE_BUFFER;
    match (features, attach) {
        (_, AttachMode::Generic) => (
            Verdict::Note,
            "`attach` is generic: the filter works behind the driver, late and slowly".to_owned(),
        ),
        (None, _) => (
            Verdict::Note,
            format!("driver {driver}; this kernel does not tell whether it has native XDP: attaching will show it"),
        ),
        (Some(XdpFeatures { native: false, .. }), AttachMode::Native) => (
            Verdict::Fault,
            format!("the driver {driver} has no native XDP. `--attach generic` works on any driver, but late and slowly"),
        ),
        (Some(XdpFeatures { native: false, .. }), AttachMode::NativeOrGeneric) => (
            Verdict::Note,
            format!("the driver {driver} has no native XDP: the filter will work behind it, late and slowly"),
        ),
        (Some(XdpFeatures { jumbo: false, .. }), _) if is_jumbo => (
            Verdict::Fault,
            format!(
                "the driver {driver} has native XDP, but not for frames that fill more than a page, and the MTU is {}. \
                 `ip link set {} mtu 1500`",
                interface.mtu, interface.name
            ),
        ),
        (Some(_), _) if interface.kind.as_deref() == Some("veth") => (
            Verdict::Note,
            "driver veth: native XDP, but what the filter sends by itself is lost unless the peer has an XDP program, \
             too. So SYNs over a limit have to come twice"
                .to_owned(),
        ),
        (Some(_), _) => (Verdict::Good, format!("driver {driver}: native XDP, MTU {}", interface.mtu)),
    }
}

fn receive_queues(interface: &Interface) -> Option<usize> {
    let queues = fs::read_dir(interface.sysfs("queues")?).ok()?;
    let names = queues.filter_map(Result::ok).map(|queue| queue.file_name());
    Some(names.filter(|name| name.to_string_lossy().starts_with("rx-")).count()).filter(|queues| *queues > 0)
}

/// Checks what SYN cookies need of the kernel.
fn syncookies(config: &Config, facts: &Facts) -> Option<Finding> {
    let may_answer =
        config.proof.host != HostSays::No && matches!(config.proof.syn, SynProof::Auto | SynProof::Cookie);
    if !may_answer {
        return None;
    }
    let all = interface::interfaces().unwrap_or_default();
    let names = config.interfaces.iter().map(InterfaceName::as_str);
    let guarded = names.filter_map(|name| interface::find(&all, name));
    if let Some(why) = why_answers_harm(&config.proof, guarded, facts) {
        let text =
            format!("a SYN over a limit has to come twice, as who is answered might not get through: {why}");
        return Some(finding("SYN cookies", Verdict::Note, text));
    }
    let value = setting("ipv4/tcp_syncookies")?;
    let (verdict, text) = match (value.as_str(), config.proof.syncookies) {
        ("2", _) => {
            (Verdict::Good, "net.ipv4.tcp_syncookies is 2: cookies are made for every SYN over a limit")
        }
        (_, SyncookieControl::Raise) => (
            Verdict::Good,
            "net.ipv4.tcp_syncookies becomes 2 while SYNs exceed a limit, as `proof.syncookies` allows",
        ),
        ("0", _) => (
            Verdict::Note,
            "net.ipv4.tcp_syncookies is 0, so no SYN is answered: `sysctl net.ipv4.tcp_syncookies=2`, or \
             `proof.syncookies = \"raise\"`",
        ),
        _ => (
            Verdict::Note,
            "net.ipv4.tcp_syncookies is 1, so a flood of SYNs fills the queue of a listener before they are answered: \
             `sysctl net.ipv4.tcp_syncookies=2`, or `proof.syncookies = \"raise\"`",
        ),
    };
    Some(finding("SYN cookies", verdict, text))
}

/// Checks whether this host translates or forwards packets, so that its sockets do not tell everything.
fn sockets(config: &Config, facts: &Facts) -> Option<Finding> {
    if config.proof.host != HostSays::Auto {
        return None;
    }
    let why = facts.why_absence_says_nothing()?;
    Some(finding(
        "sockets",
        Verdict::Note,
        format!(
            "{why}: a packet may be for another host or a container, so nothing is dropped for want of a socket, and the \
             totals that hold by default where sockets tell do not"
        ),
    ))
}

/// Checks whether the lists of the configuration can be used, and which entries would be left out on this host.
fn lists(config: &Config, guard: &Guard) -> Vec<Finding> {
    let lists = match configured(config, guard) {
        Ok(lists) => lists,
        Err(error) => return vec![finding("lists", Verdict::Fault, error.to_string())],
    };
    let left_out = lists.iter().flat_map(|(kind, list)| {
        list.left_out().map(|text| finding("lists", Verdict::Note, format!("{} list: {text}", kind.label())))
    });
    let mut findings: Vec<Finding> = left_out.collect();
    if findings.is_empty() {
        let count =
            |kind: &ListKind, entries: usize| format!("{entries} entries of the {} list", kind.label());
        let counts = lists.iter().map(|(kind, list)| count(kind, list.edit.prefixes().count()));
        findings.push(finding("lists", Verdict::Good, counts.collect::<Vec<_>>().join(", ")));
    }
    findings
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::host::{Lifeline, Purpose};

    fn interface(mtu: u32, kind: &str) -> Interface {
        let (name, kind) = ("if0".into(), Some(kind.into()));
        Interface {
            index: 1,
            name,
            alternative_names: Vec::new(),
            mtu,
            link_layer: interface::LinkLayer::Ethernet,
            kind,
            controller: None,
            xdp: None,
        }
    }

    fn verdict(mtu: u32, attach: AttachMode, native: bool, jumbo: bool) -> Verdict {
        driver(&interface(mtu, "card"), attach, Some(XdpFeatures { native, jumbo })).0
    }

    #[test]
    fn a_driver_is_judged_by_what_is_wanted_of_it() {
        use AttachMode::{Generic, Native, NativeOrGeneric};
        use Verdict::{Fault, Good, Note};
        assert_eq!(verdict(1500, Native, true, false), Good);
        assert_eq!(verdict(9000, Native, true, true), Good);
        assert_eq!(verdict(9000, Native, true, false), Fault);
        assert_eq!(verdict(1500, Native, false, false), Fault);
        assert_eq!(verdict(1500, NativeOrGeneric, false, false), Note);
        assert_eq!(verdict(1500, Generic, false, false), Note);
        assert_eq!(driver(&interface(1500, "card"), Native, None).0, Note);
        assert_eq!(
            driver(&interface(1500, "veth"), Native, Some(XdpFeatures { native: true, jumbo: true })).0,
            Note
        );
    }

    #[test]
    fn tables_that_another_floodgate_holds_are_not_in_the_way_of_the_next() {
        let too_large = BpfError::TooLarge { slots: 1, needed_mib: 512, available_mib: 300 };
        let verdict =
            |error: &BpfError, held_mib: Option<u64>| without_filter(error, held_mib.map(|mib| mib << 20)).0;
        assert_eq!(verdict(&too_large, None), Verdict::Fault, "nobody holds any");
        assert_eq!(verdict(&too_large, Some(512)), Verdict::Note);
        assert_eq!(verdict(&too_large, Some(100)), Verdict::Fault, "what it holds is not enough");
        let other = BpfError::KernelTooOld { release: "5.10".into() };
        assert_eq!(verdict(&other, Some(512)), Verdict::Fault);
    }

    #[test]
    fn what_would_be_left_out_here_is_noted() {
        let parse = |text| Config::parse(text, std::path::Path::new("")).unwrap();
        let login = Lifeline::new("192.0.2.7/32".parse().unwrap(), Purpose::Login);
        let guard = Guard::new(vec![login]);
        let worst = |text| lists(&parse(text), &guard).iter().map(|finding| finding.verdict).max();
        assert_eq!(worst("[block]\nentries = [\"192.0.2.0/24\"]"), Some(Verdict::Note));
        assert_eq!(
            worst("[block]\nentries = [\"192.0.2.0/24\"]\nmay_cover_host = true"),
            Some(Verdict::Good)
        );
        assert_eq!(worst("[block]\nentries = [\"198.51.100.0/24\"]"), Some(Verdict::Good));
        assert_eq!(worst("[block]\nentries = [\"0.0.0.0/0\"]"), Some(Verdict::Fault));
    }
}
