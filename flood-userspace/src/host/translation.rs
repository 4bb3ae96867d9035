//! Finds what translates packets on this host, or gives them to sockets on other ports or to other hosts: netfilter
//! rules of nftables or iptables, IPVS, transparent proxies, programs that select sockets, and tc filters.

use std::{
    fs::{self, File},
    io,
    os::fd::AsRawFd,
};

use netlink_packet_route::link::LinkMessage;

use super::{nftables, tc};

/// Describes the first translation found. If it cannot be determined, there is one.
pub(super) fn find(links: &[LinkMessage]) -> Option<String> {
    let by_tc = || by_tc(links);
    by_nftables().or_else(by_iptables).or_else(by_ipvs).or_else(by_proxy).or_else(by_program).or_else(by_tc)
}

/// An ingress filter of tc.
fn by_tc(links: &[LinkMessage]) -> Option<String> {
    tc::find(links).unwrap_or_else(|error| Some(format!("the filters of tc cannot be read: {error}")))
}

/// A translation chain of nftables that has a rule, or another chain with a rule that translates.
fn by_nftables() -> Option<String> {
    match nftables::ruleset() {
        Ok(ruleset) => Some(format!("nftables: {}", ruleset.translates?)),
        Err(error) => Some(format!("the rules of nftables cannot be read: {error}")),
    }
}

/// The table `nat` of legacy iptables, which exists from its first use, even if only to list it.
fn by_iptables() -> Option<String> {
    table_of_old_iptables(&["nat"])
}

/// Describes the first of these tables that legacy iptables has. If it cannot be determined, there is one.
pub(super) fn table_of_old_iptables(tables: &[&str]) -> Option<String> {
    ["ip_tables_names", "ip6_tables_names"].into_iter().find_map(|file| {
        match fs::read_to_string(format!("/proc/thread-self/net/{file}")) {
            Ok(names) => {
                let table = names.lines().find(|name| tables.contains(name))?;
                Some(format!("iptables: table {table}, {file}"))
            }
            // Not in this kernel, or not in use.
            Err(error) if error.kind() == io::ErrorKind::NotFound => None,
            Err(error) => Some(format!("the tables of iptables cannot be read: {file}: {error}")),
        }
    })
}

/// An IPVS service: a line after the three of the header.
fn by_ipvs() -> Option<String> {
    let services = fs::read_to_string("/proc/thread-self/net/ip_vs").ok()?;
    (services.lines().count() > 3).then(|| "IPVS".to_owned())
}

/// A rule that hands packets to a transparent proxy: its module is in use. (It cannot be determined whether in this
/// namespace or another.)
fn by_proxy() -> Option<String> {
    let modules = fs::read_to_string("/proc/modules").ok()?;
    modules.lines().find_map(|line| {
        let mut words = line.split_whitespace();
        let (name, users) = (words.next()?, words.nth(1)?);
        (["xt_TPROXY", "nft_tproxy"].contains(&name) && users != "0")
            .then(|| format!("a transparent proxy, module {name}"))
    })
}

/// A BPF program that selects the sockets of this network namespace. If it cannot be determined (kernels before 5.9),
/// there is none.
fn by_program() -> Option<String> {
    match sk_lookup_programs() {
        Ok(0) | Err(_) => None,
        Ok(_) => Some("a BPF program of type sk_lookup".to_owned()),
    }
}

/// Returns how many programs of type `sk_lookup` are attached to the network namespace of this thread (bpf(2),
/// `BPF_PROG_QUERY`).
fn sk_lookup_programs() -> io::Result<u32> {
    const PROG_QUERY: i32 = 16;
    const SK_LOOKUP: u32 = 36;
    /// The member `query` of `union bpf_attr` (linux/bpf.h).
    #[repr(C)]
    #[derive(Default)]
    struct Query {
        target: u32,
        attach_type: u32,
        query_flags: u32,
        attach_flags: u32,
        ids: u64,
        count: u32,
        _padding: u32,
    }
    let namespace = File::open("/proc/thread-self/ns/net")?;
    let target = u32::try_from(namespace.as_raw_fd()).map_err(io::Error::other)?;
    let mut query = Query { target, attach_type: SK_LOOKUP, ..Query::default() };
    // SAFETY: the kernel reads and writes the structure, and no more than its length; it has room for no ids and writes none.
    let result = unsafe { libc::syscall(libc::SYS_bpf, PROG_QUERY, &raw mut query, size_of::<Query>()) };
    if result < 0 { Err(io::Error::last_os_error()) } else { Ok(query.count) }
}
