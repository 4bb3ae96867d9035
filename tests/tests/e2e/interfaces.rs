//! Interfaces that appear, disappear and change under a daemon that guards them, and interference with its programs:
//! `status` agrees with the kernel, and what should be guarded is guarded again.

use std::{
    fs, io,
    os::fd::{AsFd, AsRawFd, FromRawFd, OwnedFd},
};

use anyhow::{Context, Result, ensure};
use aya::programs::{
    XdpMode, loaded_links,
    tc::{TcAttachType, qdisc_detach_program},
    xdp::XdpLinkId,
};
use flood_userspace::{
    bpf::{
        Filter, FilterOptions, Found, Hook, Noting,
        interface::{XdpProgram, break_link, interfaces},
        remove_left_behind,
    },
    config::AttachMode,
    control::protocol::{AnswersBy, Attached, InterfaceStatus, Stats, Status},
};
use floodgate_tests::{
    daemon::{Daemon, run},
    lab::{Namespace, command, eventually},
    needs_root,
    packet::VISITOR,
    programs::Programs,
    skip::{kernel_series, skip, test_name},
};

use super::attached::{Cables, program_on, start_error};

/// Blocks what `send` of [`Cables`] sends.
fn block() -> String {
    format!("[block]\nentries = [\"{VISITOR}\"]\n")
}

/// Runs a command of bpf(2) whose attributes are numbers.
fn bpf(command: libc::c_long, mut attributes: [u32; 3]) -> io::Result<i32> {
    let size = size_of_val(&attributes);
    // SAFETY: the kernel reads no more than the three numbers.
    let result = unsafe { libc::syscall(libc::SYS_bpf, command, attributes.as_mut_ptr(), size) };
    if result < 0 { Err(io::Error::last_os_error()) } else { i32::try_from(result).map_err(io::Error::other) }
}

/// Returns the links of this kind that a process holds, by number.
fn links_of(process: u32, kind: &str) -> Result<Vec<u32>> {
    let mut links = Vec::new();
    for entry in fs::read_dir(format!("/proc/{process}/fdinfo"))? {
        let text = fs::read_to_string(entry?.path()).unwrap_or_default(); // closed in between
        let value = |key: &str| text.lines().find_map(|line| Some(line.strip_prefix(key)?.trim()));
        if value("link_type:") == Some(kind) {
            links.push(value("link_id:").context("a link without a number")?.parse()?);
        }
    }
    links.sort_unstable();
    Ok(links)
}

/// From linux/bpf.h.
const BPF_LINK_DETACH: libc::c_long = 34;

fn open_link(number: u32) -> Result<OwnedFd> {
    /// From linux/bpf.h.
    const BPF_LINK_GET_FD_BY_ID: libc::c_long = 30;

    let descriptor = bpf(BPF_LINK_GET_FD_BY_ID, [number, 0, 0])?;
    // SAFETY: the kernel has just given us this descriptor.
    Ok(unsafe { OwnedFd::from_raw_fd(descriptor) })
}

/// Detaches the links of this kind that a daemon holds, as `bpftool link detach` does.
fn break_links(daemon: &Daemon, kind: &str) -> Result<()> {
    let links = links_of(daemon.read::<Status>("status")?.pid, kind)?;
    ensure!(!links.is_empty(), "the daemon holds no link of kind {kind}");
    for link in links {
        bpf(BPF_LINK_DETACH, [open_link(link)?.as_raw_fd().cast_unsigned(), 0, 0])?;
    }
    Ok(())
}

/// Returns the daemon's status of the interface that has this name, or was configured with it.
fn said(daemon: &Daemon, name: &str) -> Result<InterfaceStatus> {
    let status: Status = daemon.read("status")?;
    let is_it = |one: &InterfaceStatus| one.name == name || one.given.as_deref() == Some(name);
    let found = status.interfaces.iter().find(|interface| is_it(interface)).cloned();
    found.with_context(|| format!("{name} is not in {:?}", status.interfaces))
}

fn is_said(daemon: &Daemon, name: &str, attached: Attached) -> bool {
    said(daemon, name).is_ok_and(|interface| interface.attached == attached)
}

/// Waits until a daemon reports that an interface is guarded. The kernel must agree, and blocked packets must be
/// dropped.
fn is_guarded(daemon: &Daemon, cables: &Cables, [near, far]: [&str; 2]) -> Result<()> {
    // The status is at most a second old.
    let has_program = || {
        let name = said(daemon, near)?.name;
        Ok::<_, anyhow::Error>(program_on(&cables.here, &name)?.is_some())
    };
    eventually(&format!("{near} is guarded"), || {
        is_said(daemon, near, Attached::Native) && has_program().is_ok_and(|has| has)
    })?;
    let name = said(daemon, near)?.name;
    let blocked = || -> Result<u64> {
        let stats: Stats = daemon.read("stats")?;
        let counted = stats.interfaces.get(&name).and_then(|stats| stats.dropped.get("blocked"));
        Ok(counted.map_or(0, |volume| volume.packets))
    };
    let before = blocked()?;
    eventually("what comes in by it is judged", || {
        cables.send(far, 1).is_ok() && blocked().is_ok_and(|now| now > before)
    })
}

/// Attaches another program to an interface of this namespace.
fn occupy(namespace: &Namespace, name: &str, programs: &mut Programs) -> Result<XdpLinkId> {
    let index = namespace.index(name)?;
    let program = programs.program("pass")?;
    namespace.within(|| Ok(program.attach_to_if_index(index, XdpMode::Driver)?))
}

#[test]
fn what_another_tool_takes_off_is_put_back_and_counted() -> Result<()> {
    needs_root!();
    let cables = Cables::new()?;
    let daemon = Daemon::start(&cables.here, &block(), "eth0")?;
    is_guarded(&daemon, &cables, ["eth0", "far0"])?;
    ensure!(said(&daemon, "eth0")?.reattached == 0);
    for times in 1..=2 {
        break_links(&daemon, "xdp")?;
        eventually("it is attached again", || said(&daemon, "eth0").is_ok_and(|i| i.reattached == times))?;
        is_guarded(&daemon, &cables, ["eth0", "far0"])?;
    }
    ensure!(
        daemon.log().contains("the filter was taken off it, though not by this daemon"),
        "{}",
        daemon.log()
    );
    ensure!(daemon.log().contains("guarding eth0 again"), "{}", daemon.log());
    ensure!(daemon.tell("status")?.contains("attached again 2 times"));
    let mut curl = std::process::Command::new("curl");
    curl.args(["--silent", "--unix-socket"]).arg(daemon.socket()).arg("http://floodgate/metrics");
    let metrics = run(&mut curl)?.stdout;
    ensure!(metrics.contains("floodgate_interface_reattached_total{interface=\"eth0\"} 2\n"), "{metrics}");
    Ok(())
}

#[test]
fn another_program_in_its_place_is_named_and_not_fought() -> Result<()> {
    needs_root!();
    let cables = Cables::new()?;
    let daemon = Daemon::start(&cables.here, &block(), "eth0 eth1")?;
    let mut programs = Programs::load()?;
    break_links(&daemon, "xdp")?;
    // The daemon may have been faster.
    let mut theirs = occupy(&cables.here, "eth0", &mut programs);
    for _ in 0..20 {
        if theirs.is_ok() {
            break;
        }
        break_links(&daemon, "xdp")?;
        theirs = occupy(&cables.here, "eth0", &mut programs);
    }
    let theirs = theirs?;
    let id = program_on(&cables.here, "eth0")?.context("nothing is there")?;
    let whose = format!("the XDP program pass (id {id}) has the place of the filter");
    eventually("it is said whose program is there", || {
        said(&daemon, "eth0").is_ok_and(|eth0| eth0.unguarded.is_some_and(|why| why.contains(&whose)))
    })?;
    let eth0 = said(&daemon, "eth0")?;
    ensure!(eth0.attached == Attached::Nowhere && eth0.present, "{eth0:?}");
    let status = daemon.tell("status")?;
    ensure!(status.contains("eth0            NOT GUARDED") && status.contains(&whose), "{status}");
    is_guarded(&daemon, &cables, ["eth1", "far1"])?;
    let uptime = || Ok::<_, anyhow::Error>(daemon.read::<Status>("status")?.uptime_s);
    let since = uptime()?;
    eventually("it has looked twice", || uptime().is_ok_and(|now| now >= since + 3))?;
    ensure!(program_on(&cables.here, "eth0")? == Some(id), "it was fought");
    ensure!(daemon.log().matches(&whose).count() == 1, "said once: {}", daemon.log());
    programs.program("pass")?.detach(theirs)?;
    is_guarded(&daemon, &cables, ["eth0", "far0"])
}

#[test]
fn another_program_in_the_link_of_the_filter_is_named() -> Result<()> {
    /// From linux/bpf.h.
    const BPF_LINK_UPDATE: libc::c_long = 29;

    needs_root!();
    let cables = Cables::new()?;
    let daemon = Daemon::start(&cables.here, &block(), "eth0")?;
    let mut programs = Programs::load()?;
    let theirs = programs.program("pass")?.fd()?.as_fd().as_raw_fd().cast_unsigned();
    let link = open_link(links_of(daemon.read::<Status>("status")?.pid, "xdp")?[0])?;
    bpf(BPF_LINK_UPDATE, [link.as_raw_fd().cast_unsigned(), theirs, 0])?;
    eventually("it is said whose program is there", || {
        let is_named = |why: String| why.contains("the XDP program pass (id ");
        said(&daemon, "eth0")
            .is_ok_and(|eth0| eth0.attached == Attached::Nowhere && eth0.unguarded.is_some_and(is_named))
    })?;
    break_links(&daemon, "xdp")?;
    is_guarded(&daemon, &cables, ["eth0", "far0"])
}

#[test]
fn an_interface_that_is_made_anew_is_guarded_again() -> Result<()> {
    needs_root!();
    let cables = Cables::new()?;
    let (here, there) = (&cables.here, cables.there.name());
    let daemon = Daemon::start(here, &block(), "eth0 eth1")?;
    let index = here.index("eth0")?;
    let wait_until_gone = || {
        eventually("it is noticed", || {
            said(&daemon, "eth0").is_ok_and(|eth0| !eth0.present && eth0.attached == Attached::Nowhere)
        })
    };
    for (why, number, is_noticed) in [
        ("under the same number at once", format!("index {index}"), false),
        ("under the same number", format!("index {index}"), true),
        ("under another number", format!("index {}", index + 100), false),
        ("under another number, later", format!("index {}", index + 200), true),
    ] {
        here.ip("link del eth0")?;
        if is_noticed {
            wait_until_gone().context(why)?;
            ensure!(daemon.tell("status")?.contains("warning: eth0 has disappeared, and the filter with it"));
        }
        here.ip(&format!("link add eth0 {number} type veth peer name far0 netns {there}"))?;
        here.ip("link set eth0 up")?;
        cables.there.ip("link set far0 up")?;
        is_guarded(&daemon, &cables, ["eth0", "far0"]).context(why)?;
    }
    let eth0 = said(&daemon, "eth0")?;
    ensure!(eth0.reattached == 4 && eth0.index == index + 200, "{eth0:?}");
    ensure!(said(&daemon, "eth1")?.reattached == 0, "the other was left alone");
    let (status, _) = daemon.end(libc::SIGTERM)?;
    ensure!(status.success() && program_on(here, "eth0")?.is_none());
    Ok(())
}

#[test]
fn an_interface_in_another_namespace_is_let_go_and_guarded_when_it_is_back() -> Result<()> {
    needs_root!();
    let cables = Cables::new()?;
    let away = Namespace::new("away")?;
    let daemon = Daemon::start(&cables.here, &block(), "eth0 eth1")?;
    for times in 1..=2 {
        cables.here.ip(&format!("link set eth0 netns {}", away.name()))?;
        eventually("it is noticed", || {
            said(&daemon, "eth0").is_ok_and(|eth0| !eth0.present && eth0.attached == Attached::Nowhere)
        })?;
        let status = daemon.tell("status")?;
        ensure!(status.contains("eth0 has moved to another network namespace"), "{status}");
        ensure!(program_on(&away, "eth0")?.is_none(), "it takes no program along");
        away.ip(&format!("link set eth0 netns {}", cables.here.name()))?;
        cables.here.ip("link set eth0 up")?;
        is_guarded(&daemon, &cables, ["eth0", "far0"])?;
        ensure!(said(&daemon, "eth0")?.reattached == times);
    }
    // Away and back between two checks, which leaves the link in place, but not the egress program.
    cables.here.ip(&format!("link set eth0 netns {}", away.name()))?;
    away.ip(&format!("link set eth0 netns {}", cables.here.name()))?;
    cables.here.ip("link set eth0 up")?;
    is_guarded(&daemon, &cables, ["eth0", "far0"])?;
    ensure!(said(&daemon, "eth1")?.reattached == 0);
    Ok(())
}

#[test]
fn an_interface_that_is_missing_is_waited_for_and_the_others_are_guarded() -> Result<()> {
    needs_root!();
    let cables = Cables::new()?;
    let (here, there) = (&cables.here, cables.there.name());
    let mut daemon = Daemon::start(here, &block(), "eth0 late0 never0")?;
    ensure!(daemon.log().contains("there is no interface late0"), "{}", daemon.log());
    is_guarded(&daemon, &cables, ["eth0", "far0"])?;
    let status = daemon.tell("status")?;
    ensure!(status.contains("late0           NOT GUARDED: it is not there"), "{status}");
    ensure!(status.contains("warning: there is no interface never0; it is guarded as soon"), "{status}");
    here.ip(&format!("link add late0 type veth peer name far2 netns {there}"))?;
    here.ip("link set late0 up")?;
    cables.there.ip("link set far2 up")?;
    is_guarded(&daemon, &cables, ["late0", "far2"])?;
    ensure!(said(&daemon, "late0")?.reattached == 0, "it was attached for the first time");

    daemon.tell("detach eth0 late0")?;
    ensure!(!daemon.has_ended(), "one is still waited for");
    ensure!(daemon.tell("detach never0")?.contains("nothing is left, and the daemon ends"));
    ensure!(daemon.wait()?.success());

    // A nonexistent interface on the command line is a mistake; a configuration may be read before a modem is up.
    let refused = start_error(here, "", "typo0")?;
    ensure!(refused.contains("there is no interface typo0. There are: "), "{refused}");
    let daemon = Daemon::start(here, "interfaces = [\"ppp0\"]\n", "")?;
    ensure!(daemon.log().contains("nothing is guarded so far"), "{}", daemon.log());
    here.ip("link set late0 down")?;
    here.ip("link set late0 name ppp0")?;
    eventually("it is guarded", || is_said(&daemon, "ppp0", Attached::Native))?;
    Ok(())
}

#[test]
fn a_renamed_interface_stays_guarded_and_goes_by_either_name() -> Result<()> {
    needs_root!();
    let cables = Cables::new()?;
    let here = &cables.here;
    let rename = |from: &str, to: &str| -> Result<()> {
        here.ip_all(&[
            format!("link set {from} down"),
            format!("link set {from} name {to}"),
            format!("link set {to} up"),
        ])
    };
    for by in ["wan0", "eth0"] {
        let daemon = Daemon::start(here, &block(), "eth0 eth1")?;
        rename("eth0", "wan0")?;
        eventually("it is noticed", || {
            said(&daemon, "wan0").is_ok_and(|wan0| wan0.given.as_deref() == Some("eth0"))
        })?;
        is_guarded(&daemon, &cables, ["wan0", "far0"])?;
        ensure!(said(&daemon, "wan0")?.reattached == 0);
        ensure!(daemon.tell("status")?.contains("given as eth0"));
        // It remains the same interface even if the filter is detached.
        break_links(&daemon, "xdp")?;
        eventually("it is attached again", || said(&daemon, "wan0").is_ok_and(|wan0| wan0.reattached == 1))?;
        is_guarded(&daemon, &cables, ["wan0", "far0"])?;
        // Another interface may have its name by now.
        here.ip("link add eth0 type veth peer name peer0")?;
        eventually("it is said", || {
            daemon
                .tell("status")
                .is_ok_and(|text| text.contains("eth0 is another interface by now, and not guarded"))
        })?;
        ensure!(program_on(here, "eth0")?.is_none());
        ensure!(daemon.tell(&format!("detach {by}"))? == "let go: wan0\n");
        ensure!(program_on(here, "wan0")?.is_none());
        drop(daemon);
        here.ip("link del eth0")?;
        rename("wan0", "eth0")?;
    }
    Ok(())
}

#[test]
fn an_alternative_name_is_a_name() -> Result<()> {
    needs_root!();
    let cables = Cables::new()?;
    let long = "uplink-to-the-provider-in-rack-7";
    cables.here.ip(&format!("link property add dev eth0 altname {long}"))?;
    let daemon = Daemon::start(&cables.here, &block(), long)?;
    is_guarded(&daemon, &cables, [long, "far0"])?;
    let eth0 = said(&daemon, "eth0")?;
    ensure!(eth0.name == "eth0" && eth0.given.as_deref() == Some(long), "{eth0:?}");
    daemon.tell(&format!("detach {long}"))?;
    drop(daemon);

    // Both names together refer to one interface.
    let daemon = Daemon::start(&cables.here, &block(), &format!("eth0 {long}"))?;
    is_guarded(&daemon, &cables, ["eth0", "far0"])?;
    let status = daemon.tell("status")?;
    ensure!(status.contains(&format!("{long} is eth0, which is guarded already")), "{status}");
    Ok(())
}

#[test]
fn replacing_touches_no_interface_but_the_named_one() -> Result<()> {
    needs_root!();
    let cables = Cables::new()?;
    let here = &cables.here;
    let mut programs = Programs::load()?;
    let _links = [occupy(here, "eth0", &mut programs)?, occupy(here, "eth1", &mut programs)?];
    let theirs = program_on(here, "eth1")?.context("nothing is there")?;
    let daemon = Daemon::start(here, "", "--replace eth0")?;
    ensure!(program_on(here, "eth0")?.is_some_and(|ours| ours != theirs), "ours is there");
    ensure!(program_on(here, "eth1")? == Some(theirs), "the other interface keeps its program");
    drop(daemon);
    ensure!(program_on(here, "eth1")? == Some(theirs));
    Ok(())
}

#[test]
fn replacing_touches_no_interface_of_another_namespace() -> Result<()> {
    needs_root!();
    let cables = Cables::new()?;
    let other = Namespace::new("other")?;
    // Interface numbers are unique only within a namespace: the same program is on two interfaces with the same
    // number.
    let index = cables.here.index("eth0")?;
    other.ip(&format!("link add eth7 index {index} type veth peer name far7 index {}", index + 100))?;
    let mut programs = Programs::load()?;
    let here_link = occupy(&cables.here, "eth0", &mut programs)?;
    let _other_link = occupy(&other, "eth7", &mut programs)?;
    let theirs = program_on(&other, "eth7")?.context("nothing is there")?;
    let refused = start_error(&cables.here, "", "--replace eth0")?;
    ensure!(refused.contains("does not tell which link is whose"), "{refused}");
    ensure!(program_on(&other, "eth7")? == Some(theirs), "it was taken off elsewhere");
    ensure!(program_on(&cables.here, "eth0")? == Some(theirs));
    programs.program("pass")?.detach(here_link)?;

    // The program to be replaced may vanish at the last moment, so that only the other is left.
    cables.here.within(|| {
        let all = interfaces()?;
        let eth0 = all.iter().find(|interface| interface.name == "eth0").context("no eth0")?;
        Ok(break_link(eth0, XdpProgram { id: theirs, native: true })?)
    })?;
    ensure!(program_on(&other, "eth7")? == Some(theirs), "it was taken off elsewhere");
    let _daemon = Daemon::start(&cables.here, "", "--replace eth0")?;
    ensure!(program_on(&other, "eth7")? == Some(theirs), "it was taken off elsewhere");
    Ok(())
}

#[test]
fn what_is_taken_off_the_way_out_is_put_back_by_tcx() -> Result<()> {
    needs_root!();
    if kernel_series()? < (6, 6) {
        skip(test_name(|| {}), "needs a kernel from 6.6 on, which has tcx");
        return Ok(());
    }
    let cables = Cables::new()?;
    let daemon = Daemon::start(&cables.here, "", "eth0")?;
    ensure!(said(&daemon, "eth0")?.answers == AnswersBy::Tcx);
    break_links(&daemon, "tcx")?;
    eventually("it is attached again", || said(&daemon, "eth0").is_ok_and(|i| i.reattached == 1))?;
    ensure!(said(&daemon, "eth0")?.answers == AnswersBy::Tcx);
    break_links(&daemon, "tcx").context("it is not there again")?;
    let log = daemon.log();
    ensure!(log.contains("the program on the way out of eth0 was taken off"), "{log}");
    Ok(())
}

#[test]
fn what_is_taken_off_the_way_out_is_put_back_by_clsact() -> Result<()> {
    needs_root!();
    let cables = Cables::new()?;
    cables.here.within(|| {
        let options = FilterOptions { hook: Some(Hook::Clsact), ..FilterOptions::default() };
        let mut filter = Filter::load(&options)?;
        filter.attach("eth0", AttachMode::Native, false)?;
        let slot = filter.attachments()[0].slot;
        let mut look = || -> Result<Vec<(u32, Found)>> {
            let mut found = Vec::new();
            filter.look(&interfaces()?, &mut found)?;
            Ok(found)
        };
        ensure!(look()?.is_empty());
        qdisc_detach_program("eth0", TcAttachType::Egress, "floodgate_egress")?;
        ensure!(look()? == [(slot, Found::NotingLost)]);
        let name = cables.here.name();
        command(&format!("tc -n {name} qdisc del dev eth0 clsact"))?;
        ensure!(look()? == [(slot, Found::NotingLost)]);
        // The second time it is not restored at once.
        ensure!(look()?.is_empty());
        let back = |look: &mut dyn FnMut() -> Result<Vec<(u32, Found)>>| {
            eventually("it is back", || look().is_ok_and(|found| found == [(slot, Found::NotingBack)]))
        };
        back(&mut look)?;
        let filters = command(&format!("tc -n {name} filter show dev eth0 egress"))?;
        ensure!(filters.contains("floodgate_egress"), "{filters}");
        // If its place is taken, it waits until the place is free.
        command(&format!("tc -n {name} qdisc del dev eth0 clsact"))?;
        command(&format!("tc -n {name} qdisc add dev eth0 ingress"))?;
        ensure!(look()? == [(slot, Found::NotingLost)]);
        ensure!(look()?.is_empty());
        command(&format!("tc -n {name} qdisc del dev eth0 ingress"))?;
        back(&mut look)?;
        ensure!(filter.attachments()[0].noting == Noting::By(Hook::Clsact));
        ensure!(filter.detach("eth0")?);
        let left = command(&format!("tc -n {name} qdisc show dev eth0"))?;
        ensure!(!left.contains("clsact"), "{left}");
        Ok(())
    })
}

#[test]
fn a_filter_of_others_under_the_same_number_is_not_taken_for_ours() -> Result<()> {
    needs_root!();
    let cables = Cables::new()?;
    let (here, name) = (&cables.here, cables.here.name());
    let index = here.index("eth0")?;
    let mut theirs = Programs::load()?;
    here.within(|| {
        let options = FilterOptions { hook: Some(Hook::Clsact), ..FilterOptions::default() };
        let mut filter = Filter::load(&options)?;
        filter.attach("eth0", AttachMode::Native, false)?;
        here.ip("link del eth0")?;
        here.ip(&format!(
            "link add eth0 index {index} type veth peer name far0 netns {}",
            cables.there.name()
        ))?;
        command(&format!("tc -n {name} qdisc add dev eth0 clsact"))?;
        theirs.stand_on_the_way_out("eth0", true)?;
        let mut found = Vec::new();
        filter.look(&interfaces()?, &mut found)?;
        ensure!(matches!(found[..], [(_, Found::Detached)]), "{found:?}");
        drop(filter);
        let filters = command(&format!("tc -n {name} filter show dev eth0 egress"))?;
        ensure!(filters.contains("leave"), "theirs is gone: {filters}");
        Ok(())
    })
}

#[test]
fn what_a_killed_daemon_leaves_on_any_way_out_is_taken_off() -> Result<()> {
    needs_root!();
    let cables = Cables::new()?;
    let (here, name) = (&cables.here, cables.here.name());
    let disciplines = || command(&format!("tc -n {name} qdisc show"));
    let before = disciplines()?;
    here.within(|| {
        let mut filters = Vec::new();
        for interface in ["eth0", "eth1"] {
            let options = FilterOptions { hook: Some(Hook::Clsact), ..FilterOptions::default() };
            let mut filter = Filter::load(&options)?;
            filter.attach(interface, AttachMode::Native, false)?;
            filters.push(filter);
        }
        ensure!(remove_left_behind(&interfaces()?)?.is_empty(), "both are guarded");
        // A killed process does not remove its filter; only its links end.
        let program = program_on(here, "eth0")?.context("nothing is attached")?;
        for info in
            loaded_links().filter_map(std::result::Result::ok).filter(|info| info.program_id() == program)
        {
            bpf(BPF_LINK_DETACH, [open_link(info.id())?.as_raw_fd().cast_unsigned(), 0, 0])?;
        }
        ensure!(remove_left_behind(&interfaces()?)? == ["eth0"]);
        let filters_on = |interface| command(&format!("tc -n {name} filter show dev {interface} egress"));
        ensure!(!filters_on("eth0").unwrap_or_default().contains("floodgate"));
        ensure!(filters_on("eth1")?.contains("floodgate_egress"));
        Ok(())
    })?;
    ensure!(disciplines()? == before, "{}", disciplines()?);
    Ok(())
}
