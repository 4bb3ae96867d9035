//! Attaching and detaching: what is reported, and that nothing stays behind.

use std::collections::{BTreeMap, BTreeSet};

use anyhow::{Context, Result, ensure};
use aya::programs::{loaded_links, loaded_programs};
use flood_userspace::{
    control::protocol::{Attached, Stats, Status},
    doctor::{Finding, Verdict},
};
use floodgate_tests::{
    daemon::{Daemon, Said, binary, run},
    lab::{Namespace, command, eventually, send_frames},
    needs_root,
    packet::{VISITOR, from},
    programs::Programs,
    same_on_every_kernel,
    skip::{kernel_series, test_name, wired_cards},
};

/// Two namespaces with two veth pairs between them: `eth0` and `eth1` here, `far0` and `far1` there.
pub(crate) struct Cables {
    pub(crate) here: Namespace,
    pub(crate) there: Namespace,
}

impl Cables {
    pub(crate) fn new() -> Result<Self> {
        let (here, there) = (Namespace::new("here")?, Namespace::new("there")?);
        for (near, far) in [("eth0", "far0"), ("eth1", "far1")] {
            here.ip(&format!("link add {near} type veth peer name {far} netns {}", there.name()))?;
            here.ip(&format!("link set {near} up"))?;
            there.ip(&format!("link set {far} up"))?;
        }
        Ok(Self { here, there })
    }

    pub(crate) fn send(&self, interface: &str, frames: usize) -> Result<()> {
        let index = self.there.index(interface)?;
        let frame = from(VISITOR).syn(80).bytes();
        self.there.within(|| send_frames(index, std::iter::repeat_n(frame.as_slice(), frames)))
    }
}

/// The XDP program on an interface, as `ip` shows it.
pub(crate) fn program_on(namespace: &Namespace, interface: &str) -> Result<Option<u32>> {
    let text = namespace.ip(&format!("-j -d link show dev {interface}"))?;
    let links: serde_json::Value = serde_json::from_str(&text)?;
    let id = links[0]["xdp"]["prog"]["id"].as_u64();
    Ok(id.map(u32::try_from).transpose()?)
}

/// Everything in the kernel that belongs to a floodgate instance which runs this program.
struct Belongings {
    programs: Vec<u32>,
    maps: Vec<u32>,
}

impl Belongings {
    /// Collects the objects of a filter by its attached program: that program, the programs that share maps with it,
    /// and all their maps.
    fn of(program: u32) -> Result<Self> {
        let loaded = loaded_programs().filter_map(std::result::Result::ok);
        let maps_of: BTreeMap<u32, Vec<u32>> =
            loaded.filter_map(|info| Some((info.id(), info.map_ids().ok()??))).collect();
        let of_the_first = maps_of.get(&program).context("no such program")?;
        let is_ours = |maps: &[u32]| maps.iter().any(|map| of_the_first.contains(map));
        let ours = || maps_of.iter().filter(|(_, maps)| is_ours(maps));
        let programs: Vec<u32> = ours().map(|(program, _)| *program).collect();
        let maps: BTreeSet<u32> = ours().flat_map(|(_, maps)| maps.iter().copied()).collect();
        ensure!(programs.len() > 3 && maps.len() > 20, "floodgate has more than {programs:?}, {maps:?}");
        Ok(Self { programs, maps: maps.into_iter().collect() })
    }

    /// Returns the objects that still exist.
    fn left(&self) -> Vec<String> {
        let mut left = Vec::new();
        for program in &self.programs {
            if loaded_programs().any(|info| info.is_ok_and(|info| info.id() == *program)) {
                left.push(format!("program {program}"));
            }
            if loaded_links().any(|link| link.is_ok_and(|link| link.program_id() == *program)) {
                left.push(format!("a link of program {program}"));
            }
        }
        left.extend(self.maps.iter().filter(|id| is_map(**id)).map(|id| format!("map {id}")));
        left
    }

    /// Waits until nothing is left. The kernel frees maps after a grace period.
    fn gone(&self) -> Result<()> {
        eventually("nothing is left", || self.left().is_empty())
            .with_context(|| format!("left are {:?}", self.left()))
    }
}

/// Whether a map with this number exists. The map is not opened: a program array that is opened and closed again
/// while the kernel empties it is never freed (`prog_array_map_clear` takes a reference for a work item that is
/// already queued).
fn is_map(id: u32) -> bool {
    /// From linux/bpf.h.
    const BPF_MAP_GET_NEXT_ID: libc::c_long = 12;

    let mut start_next_flags = [id.wrapping_sub(1), 0_u32, 0];
    // SAFETY: the kernel reads and writes no more than the three numbers.
    let result = unsafe {
        libc::syscall(
            libc::SYS_bpf,
            BPF_MAP_GET_NEXT_ID,
            start_next_flags.as_mut_ptr(),
            size_of_val(&start_next_flags),
        )
    };
    result == 0 && start_next_flags[1] == id
}

#[test]
fn however_it_ends_nothing_is_left_in_the_kernel() -> Result<()> {
    needs_root!();
    let cables = Cables::new()?;
    for (why, signal) in [("Ctrl-C", Some(libc::SIGINT)), ("SIGTERM", Some(libc::SIGTERM)), ("detach", None)]
    {
        let mut daemon = Daemon::start(&cables.here, "", "eth0 eth1")?;
        let socket = daemon.socket();
        let program = program_on(&cables.here, "eth0")?.context("nothing is attached")?;
        ensure!(program_on(&cables.here, "eth1")? == Some(program), "one program for both");
        let belongings = Belongings::of(program)?;
        ensure!(belongings.left().len() > 5, "while it runs, all of it is there");
        let status = match signal {
            Some(signal) => daemon.end(signal)?.0,
            None => {
                let said = daemon.tell("detach")?;
                ensure!(said == "let go: eth0, eth1; nothing is left, and the daemon ends\n", "{said}");
                daemon.wait()?
            }
        };
        ensure!(status.success(), "{why}: {status}");
        for interface in ["eth0", "eth1"] {
            ensure!(program_on(&cables.here, interface)?.is_none(), "{why}: {interface} has a program");
        }
        belongings.gone().with_context(|| why.to_owned())?;
        ensure!(!socket.exists(), "{why}: the socket is left");
    }
    Ok(())
}

#[test]
fn each_interface_has_its_own_counters_and_can_be_let_go_alone() -> Result<()> {
    needs_root!();
    let cables = Cables::new()?;
    let daemon = Daemon::start(&cables.here, "", "eth0 eth1")?;
    cables.send("far0", 10)?;
    cables.send("far1", 25)?;
    let packets = |name: &str| -> Result<u64> {
        let stats: Stats = daemon.read("stats")?;
        let passed = &stats.interfaces.get(name).context("not guarded")?.passed;
        Ok(passed.get("conforming").map_or(0, |volume| volume.packets))
    };
    eventually("both have counted", || {
        packets("eth0").is_ok_and(|n| n == 10) && packets("eth1").is_ok_and(|n| n == 25)
    })?;

    let said = daemon.ask("detach eth2")?;
    ensure!(said.code == 1, "{said:?}");
    ensure!(said.stderr.contains("eth2 is not guarded by this daemon, which guards eth0, eth1"), "{said:?}");
    daemon.tell("detach eth1")?;
    ensure!(program_on(&cables.here, "eth1")?.is_none());
    let status: Status = daemon.read("status")?;
    ensure!(status.interfaces.len() == 1 && status.interfaces[0].name == "eth0", "{status:?}");
    cables.send("far0", 5)?;
    eventually("the other goes on", || packets("eth0").is_ok_and(|n| n == 15))?;
    Ok(())
}

#[test]
fn virtio_net_is_guarded_in_its_driver_and_behind_it() -> Result<()> {
    needs_root!();
    let Some([near, far]) = wired_cards(test_name(|| {}))? else { return Ok(()) };
    let (here, there) = (Namespace::new("here")?, Namespace::new("there")?);
    for (card, namespace) in [(&near, &here), (&far, &there)] {
        command(&format!("ip link set {card} netns {}", namespace.name()))?;
        namespace.ip(&format!("link set {card} up"))?;
    }
    for (arguments, attached) in [("", Attached::Native), ("--attach generic", Attached::Generic)] {
        let daemon = Daemon::start(&here, "", &format!("{arguments} {near}"))?;
        let status: Status = daemon.read("status")?;
        ensure!(status.interfaces[0].attached == attached, "{arguments}: {status:?}");
        let counted = |verdict: &str, reason: &str| -> Result<u64> {
            let stats = serde_json::to_value(daemon.read::<Stats>("stats")?)?;
            Ok(stats["interfaces"][&near][verdict][reason]["packets"].as_u64().unwrap_or(0))
        };
        let send = || {
            let (index, mut frame) = (there.index(&far)?, from(VISITOR).syn(80).bytes());
            frame[..6].fill(0xff); // the card takes in what is for it, or for all
            there.within(|| send_frames(index, std::iter::repeat_n(frame.as_slice(), 50)))
        };
        // Attaching may take the link down for a moment, and what is sent then is lost.
        eventually("a frame gets through", || {
            send().is_ok() && counted("passed", "conforming").is_ok_and(|n| n > 0)
        })?;
        daemon.tell(&format!("block add {VISITOR}"))?;
        send()?;
        eventually("all are dropped", || counted("dropped", "blocked").is_ok_and(|n| n == 50))?;
    }
    Ok(())
}

#[test]
fn an_interface_that_disappears_is_noticed_and_said() -> Result<()> {
    needs_root!();
    let cables = Cables::new()?;
    let mut daemon = Daemon::start(&cables.here, "", "eth0 eth1")?;
    cables.here.ip("link del eth1")?;
    let status = || daemon.read::<Status>("status");
    eventually("it is noticed", || {
        status().is_ok_and(|status| status.interfaces.iter().any(|i| i.name == "eth1" && !i.present))
    })?;
    let text = daemon.tell("status")?;
    ensure!(text.contains("eth1            NOT GUARDED: it is not there"), "{text}");
    ensure!(text.contains("warning: eth1 has disappeared, and the filter with it"), "{text}");
    ensure!(daemon.log().contains("eth1 has disappeared"), "{}", daemon.log());
    daemon.tell("detach")?;
    ensure!(daemon.wait()?.success());
    Ok(())
}

#[test]
fn generic_mode_is_taken_only_when_asked_for_and_always_said() -> Result<()> {
    needs_root!();
    let cables = Cables::new()?;
    let daemon = Daemon::start(&cables.here, "", "--attach generic eth0")?;
    let status: Status = daemon.read("status")?;
    ensure!(status.interfaces[0].attached == Attached::Generic, "{status:?}");
    let text = daemon.tell("status")?;
    ensure!(text.contains("generic (behind the driver)") && text.contains("warning: eth0"), "{text}");
    ensure!(daemon.log().contains("eth0 is guarded in generic mode"), "{}", daemon.log());
    cables.send("far0", 10)?;
    eventually("it counts", || {
        let stats: Result<Stats> = daemon.read("stats");
        stats.is_ok_and(|stats| stats.interfaces["eth0"].passed.contains_key("conforming"))
    })?;
    drop(daemon);

    // The loopback interface has no native XDP.
    let refused = start_error(&cables.here, "", "lo --force")?;
    ensure!(refused.contains("of lo has no native XDP") && refused.contains("--attach generic"), "{refused}");
    let daemon = Daemon::start(&cables.here, "attach = \"native-or-generic\"\n", "lo eth0 --force")?;
    let status: Status = daemon.read("status")?;
    let attached: Vec<Attached> = status.interfaces.iter().map(|interface| interface.attached).collect();
    ensure!(attached == [Attached::Generic, Attached::Native], "{status:?}");
    Ok(())
}

/// Returns the error of a daemon that should not start.
pub(crate) fn start_error(namespace: &Namespace, config: &str, arguments: &str) -> Result<String> {
    match Daemon::start(namespace, config, arguments) {
        Ok(_) => anyhow::bail!("`run {arguments}` starts"),
        Err(error) => Ok(error.to_string()),
    }
}

#[test]
fn an_interface_with_jumbo_frames_is_guarded_in_its_driver() -> Result<()> {
    needs_root!();
    let cables = Cables::new()?;
    cables.here.ip("link set eth0 mtu 9000")?;
    cables.there.ip("link set far0 mtu 9000")?;
    let daemon = Daemon::start(&cables.here, "[block]\nentries = [\"203.0.113.7\"]\n", "eth0")?;
    let index = cables.there.index("far0")?;
    let frame = from(VISITOR).udp(1, 2).payload(8_900).bytes();
    cables.there.within(|| send_frames(index, [frame.as_slice()]))?;
    eventually("a frame in several buffers is dropped, and counted with all its bytes", || {
        let stats: Result<Stats> = daemon.read("stats");
        let blocked = stats.ok().and_then(|stats| stats.interfaces["eth0"].dropped.get("blocked").copied());
        blocked.is_some_and(|volume| volume.packets == 1 && volume.bytes == frame.len() as u64)
    })
}

#[test]
fn another_program_is_named_and_replaced_only_on_request() -> Result<()> {
    needs_root!();
    let cables = Cables::new()?;
    let index = cables.here.index("eth0")?;
    let mut programs = Programs::load()?;
    let theirs = programs.program("pass")?;
    let _link =
        cables.here.within(|| Ok(theirs.attach_to_if_index(index, aya::programs::XdpMode::Driver)?))?;
    let id = program_on(&cables.here, "eth0")?.context("nothing is attached")?;

    let refused = start_error(&cables.here, "", "eth0")?;
    let named = format!("eth0 has an XDP program already: pass (id {id})");
    ensure!(refused.contains(&named) && refused.contains("--replace"), "{refused}");
    ensure!(program_on(&cables.here, "eth0")? == Some(id), "it is still there");

    let daemon = Daemon::start(&cables.here, "", "--replace eth0")?;
    ensure!(program_on(&cables.here, "eth0")?.is_some_and(|ours| ours != id), "ours is there");

    let second = start_error(&cables.here, "", "--replace eth0")?;
    ensure!(second.contains("eth0 is already guarded by another floodgate"), "{second}");
    drop(daemon);
    Ok(())
}

/// Returns what the doctor finds in a namespace, and whether there are no obstacles.
fn examine(namespace: &Namespace, interfaces: &str) -> Result<(Vec<Finding>, bool)> {
    let mut command = namespace.command(binary()?)?;
    let said = run(command.args(["doctor", "--json"]).args(interfaces.split_whitespace()))?;
    ensure!([0, 1].contains(&said.code), "{said:?}");
    Ok((serde_json::from_str(&said.stdout).with_context(|| format!("{said:?}"))?, said.code == 0))
}

#[test]
fn the_doctor_says_what_is_in_the_way_and_attaches_nothing() -> Result<()> {
    needs_root!();
    let cables = Cables::new()?;
    let here = &cables.here;
    here.ip("link add br0 type bridge")?;
    here.ip("link set eth1 master br0")?;
    // Drivers report their capabilities since 6.3.
    let drivers_tell = kernel_series()? >= (6, 3);
    let is_told = |findings: &[Finding], subject: &str, verdict: Verdict, text: &str| {
        let told = |finding: &Finding| {
            finding.subject == subject && finding.verdict == verdict && finding.text.contains(text)
        };
        ensure!(findings.iter().any(told), "{subject}, {verdict:?}, {text}: {findings:?}");
        Ok(())
    };

    let (findings, is_fit) = examine(here, "eth0 eth1")?;
    ensure!(is_fit, "{findings:?}");
    is_told(&findings, "filter", Verdict::Good, "with its tables")?;
    is_told(&findings, "eth0", Verdict::Note, "veth")?;
    is_told(&findings, "SYN cookies", Verdict::Note, "net.ipv4.tcp_syncookies is 1")?;
    ensure!(program_on(here, "eth0")?.is_none(), "something is attached");

    let (findings, is_fit) = examine(here, "nowhere0")?;
    ensure!(!is_fit, "{findings:?}");
    is_told(&findings, "nowhere0", Verdict::Fault, "there is no interface nowhere0. There are: ")?;

    let (findings, is_fit) = examine(here, "eth0 nowhere0")?;
    ensure!(is_fit, "one is there, and the other is waited for: {findings:?}");
    is_told(&findings, "nowhere0", Verdict::Note, "there is no interface nowhere0. There are: ")?;

    let (findings, is_fit) = examine(here, "br0")?;
    let (verdict, text) = if drivers_tell {
        (Verdict::Fault, "the driver bridge has no native XDP")
    } else {
        (Verdict::Note, "this kernel does not tell")
    };
    is_told(&findings, "br0", verdict, text)?;
    ensure!(is_fit != drivers_tell, "{findings:?}");
    let (findings, is_fit) = examine(here, "")?;
    ensure!(is_fit, "no interface is named, so none need be fit: {findings:?}");
    is_told(&findings, "eth0", Verdict::Note, "veth")?;

    for (setting, value) in [("ip_forward", "1"), ("tcp_syncookies", "2")] {
        here.within(|| Ok(std::fs::write(format!("/proc/sys/net/ipv4/{setting}"), value)?))?;
    }
    let daemon = Daemon::start(here, "", "eth0")?;
    let (findings, is_fit) = examine(here, "eth0")?;
    ensure!(is_fit, "{findings:?}");
    is_told(&findings, "eth0", Verdict::Note, "eth0 is already guarded by another floodgate")?;
    is_told(&findings, "sockets", Verdict::Note, "this host forwards packets (net.ipv4.ip_forward)")?;
    is_told(&findings, "SYN cookies", Verdict::Good, "net.ipv4.tcp_syncookies is 2")?;
    drop(daemon);

    let mut programs = Programs::load()?;
    let theirs = programs.program("pass")?;
    let index = here.index("eth0")?;
    let _link = here.within(|| Ok(theirs.attach_to_if_index(index, aya::programs::XdpMode::Driver)?))?;
    let (findings, is_fit) = examine(here, "eth0")?;
    ensure!(!is_fit, "{findings:?}");
    is_told(&findings, "eth0", Verdict::Fault, "eth0 has an XDP program already: pass")?;
    Ok(())
}

#[test]
fn a_second_daemon_on_the_same_socket_is_refused_and_the_first_goes_on() -> Result<()> {
    same_on_every_kernel!();
    needs_root!();
    let cables = Cables::new()?;
    let daemon = Daemon::start(&cables.here, "", "eth0")?;
    let socket = daemon.socket();
    let mut run = cables.here.command(binary()?)?;
    let Said { code, stderr, .. } =
        floodgate_tests::daemon::run(run.args(["run", "--socket"]).arg(&socket).arg("eth1"))?;
    ensure!(code == 2 && stderr.contains("another floodgate answers at"), "{code}: {stderr}");
    ensure!(program_on(&cables.here, "eth1")?.is_none(), "eth1 is untouched");
    daemon.tell("status")?;
    Ok(())
}

#[test]
fn without_the_daemon_s_good_bye_the_kernel_lets_go_as_well() -> Result<()> {
    needs_root!();
    let cables = Cables::new()?;
    // Before Linux 6.6 the egress program stays attached, and with it the maps that it shares; see `answers`.
    let stays = kernel_series()? < (6, 6);
    let config = if stays { "[proof]\nsolicited = \"socket\"\n" } else { "" };
    let daemon = Daemon::start(&cables.here, config, "eth0")?;
    let program = program_on(&cables.here, "eth0")?.context("nothing is attached")?;
    let belongings = Belongings::of(program)?;
    let (status, _) = daemon.end(libc::SIGKILL)?;
    ensure!(!status.success());
    belongings.gone()
}
