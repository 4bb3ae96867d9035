//! Devices with different frames: without a link layer, and the loopback.

use std::{
    ffi::CString,
    fs::{File, OpenOptions},
    io::{Read, Write},
    net::IpAddr,
    os::fd::AsRawFd,
    time::{Duration, Instant},
};

use anyhow::{Context, Result, ensure};
use floodgate_tests::{
    daemon::{Daemon, binary, run},
    lab::{Namespace, eventually},
    needs_root,
    packet::{Build, from},
    skip::{skip, test_name},
};

/// Opens the device that creates TUN devices: through a node of our own, because `/dev/net` may have none on a
/// machine where nothing has requested one yet.
fn clone_device() -> Result<File> {
    // linux/miscdevice.h: MISC_MAJOR, TUN_MINOR
    const NUMBER: libc::dev_t = libc::makedev(10, 200);
    let path = format!("/dev/floodgate-tun-{}", std::process::id());
    let name = CString::new(path.as_str())?;
    // SAFETY: the name ends with a NUL.
    let made = unsafe { libc::mknod(name.as_ptr(), libc::S_IFCHR | 0o600, NUMBER) };
    ensure!(made == 0, "making {path}: {}", std::io::Error::last_os_error());
    let device =
        OpenOptions::new().read(true).write(true).open(&path).with_context(|| format!("opening {path}"));
    std::fs::remove_file(&path)?;
    device
}

/// Creates a device of IP packets, `tun0`, in a namespace, with an address at each end.
fn tun(namespace: &Namespace) -> Result<File> {
    // linux/if_tun.h: TUNSETIFF, IFF_TUN, IFF_NO_PI
    const SET: libc::c_ulong = 0x4004_54ca;
    const FLAGS: libc::c_short = 0x0001 | 0x1000;
    let device = namespace.within(|| {
        let device = clone_device()?;
        // SAFETY: zeros are an empty name and no flags.
        let mut request: libc::ifreq = unsafe { std::mem::zeroed() };
        for (to, from) in request.ifr_name.iter_mut().zip(*b"tun0") {
            *to = from.cast_signed();
        }
        request.ifr_ifru.ifru_flags = FLAGS;
        // SAFETY: the kernel reads and writes the structure.
        let made = unsafe { libc::ioctl(device.as_raw_fd(), SET as _, &raw mut request) };
        ensure!(made == 0, "making tun0: {}", std::io::Error::last_os_error());
        Ok(device)
    })?;
    namespace.ip_all(&[
        "address add 10.98.0.1/24 dev tun0".to_owned(),
        "link set tun0 up".to_owned(),
        "link set lo up".to_owned(),
    ])?;
    // SAFETY: the descriptor is ours.
    unsafe { libc::fcntl(device.as_raw_fd(), libc::F_SETFL, libc::O_NONBLOCK) };
    Ok(device)
}

/// The packet in a frame.
fn bare(build: &Build) -> Vec<u8> {
    const ETHERNET: usize = 14;
    build.bytes().split_off(ETHERNET)
}

fn v4(text: &str) -> IpAddr {
    text.parse().expect("an address")
}

#[test]
fn packets_without_a_link_layer_are_judged_as_any_other() -> Result<()> {
    needs_root!();
    // Addresses whose bytes would be an EtherType at its place in a frame: 8.0 is that of IPv4, 134.221 that of IPv6.
    const INNOCENT: [&str; 3] = ["8.0.0.1", "134.221.0.1", "192.0.2.1"];
    let namespace = Namespace::new("tun")?;
    let mut device = tun(&namespace)?;
    for mode in ["generic", "native-or-generic"] {
        let config =
            "[proof]\nsyn = \"cookie\"\n[limit.total.syn]\npackets = \"10/s\"\npackets_burst = \"6\"\n";
        let daemon = Daemon::start(&namespace, config, &format!("tun0 --attach {mode}"))?;
        daemon.tell("block add 198.51.100.66 8.8.8.0/24")?;
        let send = |device: &mut File, source: &str| {
            let packet = bare(&from(v4(source)).to(v4("10.98.0.1")).udp(1_000, 53));
            device.write_all(&packet).with_context(|| format!("from {source}"))
        };
        for source in ["198.51.100.66", "8.8.8.8"].into_iter().chain(INNOCENT) {
            send(&mut device, source)?;
        }
        eventually("all are counted", || {
            let stats = daemon.tell("stats --json").unwrap_or_default();
            let stats: serde_json::Value = serde_json::from_str(&stats).unwrap_or_default();
            let tun = &stats["interfaces"]["tun0"];
            let packets = |verdict: &str, reason: &str| tun[verdict][reason]["packets"].as_u64().unwrap_or(0);
            packets("dropped", "blocked") == 2
                && packets("passed", "conforming") >= INNOCENT.len() as u64
                && packets("passed", "not_ip") == 0
        })
        .with_context(|| daemon.tell("stats").unwrap_or_default())?;
        answers(&namespace, &mut device, &daemon).with_context(|| mode.to_owned())?;
    }
    Ok(())
}

/// Checks that what is sent back has no link layer either.
fn answers(namespace: &Namespace, device: &mut File, daemon: &Daemon) -> Result<()> {
    const SYN: u8 = 0x02;
    const SYN_ACK: u8 = 0x12;
    namespace.within(|| Ok(std::fs::write("/proc/sys/net/ipv4/tcp_syncookies", "2")?))?;
    let _listener = namespace.within(|| Ok(std::net::TcpListener::bind("10.98.0.1:80")?))?;
    let client = v4("192.0.2.7");
    for port in 0..100 {
        device.write_all(&bare(&from(client).to(v4("10.98.0.1")).tcp(20_000 + port, 80, SYN)))?;
    }
    let mut buffer = [0; 2_048];
    let end = Instant::now() + Duration::from_secs(5);
    let mut seen = 0;
    while Instant::now() < end && seen == 0 {
        let Ok(length) = device.read(&mut buffer) else {
            std::thread::sleep(Duration::from_millis(5));
            continue;
        };
        let packet = &buffer[..length];
        let is_answer = length >= 40 && packet[0] == 0x45 && packet[9] == 6 && packet[33] == SYN_ACK;
        seen += u32::from(is_answer && packet[16..20] == [192, 0, 2, 7]);
    }
    let stats = daemon.tell("stats")?;
    ensure!(seen > 0 && stats.contains("answered"), "{stats}");
    Ok(())
}

/// Returns the error of a daemon that refuses to guard an interface.
fn refused(namespace: &Namespace, interface: &str) -> Result<String> {
    let mut command = namespace.command(binary()?)?;
    let said = run(command.args(["run", "--attach", "generic", interface]))?;
    ensure!(said.code != 0, "{said:?}");
    Ok(said.stderr)
}

#[test]
fn a_tunnel_of_another_type_is_refused_with_the_reason() -> Result<()> {
    needs_root!();
    let namespace = Namespace::new("gre")?;
    if let Err(error) = namespace.ip("link add gre9 type gre local 127.0.0.1 remote 127.0.0.2") {
        skip(test_name(|| {}), &format!("needs a kernel with GRE: {error}"));
        return Ok(());
    }
    let said = refused(&namespace, "gre9")?;
    ensure!(said.contains("gre9 is of the type"), "{said}");
    Ok(())
}

#[test]
fn the_loopback_is_refused_unless_it_is_forced() -> Result<()> {
    needs_root!();
    let namespace = Namespace::new("lo")?;
    namespace.ip("link set lo up")?;
    let said = refused(&namespace, "lo")?;
    ensure!(said.contains("lo is the loopback") && said.contains("--force"), "{said}");
    let config = "[sanity]\nland = false\nloopback_source = false\n";
    let daemon = Daemon::start(&namespace, config, "lo --attach generic --force")?;
    namespace.within(|| {
        let listener = std::net::TcpListener::bind("127.0.0.1:0")?;
        std::net::TcpStream::connect_timeout(&listener.local_addr()?, Duration::from_secs(5))
            .with_context(|| daemon.tell("stats").unwrap_or_default())?;
        Ok(())
    })
}
