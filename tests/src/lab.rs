//! Network namespaces with real interfaces: an attacker, a server, a visitor, and the switch that joins them.
//!
//! Everything carries this process's number in its name and is removed when the [`Lab`] is dropped.
//! [`Namespace::enter`] moves a thread into a namespace; the process itself stays where it is.

use std::{
    collections::BTreeMap,
    ffi::{CString, OsStr},
    fs::{self, File},
    io::{self, Read, Write},
    net::{IpAddr, SocketAddr, TcpStream, UdpSocket},
    os::{fd::AsRawFd, unix::process::CommandExt},
    process::{Command, Stdio},
    sync::{
        Arc, Mutex,
        atomic::{AtomicU32, Ordering},
    },
    thread,
    time::{Duration, Instant},
};

use anyhow::{Context, Result, bail, ensure};
use aya::programs::{XdpMode, xdp::XdpLinkId};
use ipnet::IpNet;

use crate::{jitter::Jitter, programs::Programs, wire::Wire};

/// Runs a command that must succeed.
pub fn command(line: &str) -> Result<String> {
    let mut words = line.split_whitespace();
    let program = words.next().context("an empty command")?;
    let output = Command::new(program)
        .args(words)
        .stdin(Stdio::null())
        .output()
        .with_context(|| format!("starting `{line}`"))?;
    ensure!(output.status.success(), "`{line}`: {}", String::from_utf8_lossy(&output.stderr).trim());
    Ok(String::from_utf8_lossy(&output.stdout).into_owned())
}

/// How much slower than a real processor this one is. `cargo xtask vm` reports when it has to emulate one.
pub fn slowness() -> u32 {
    if std::env::var_os("FLOODGATE_VM").is_some_and(|value| value == "emulated") { 6 } else { 1 }
}

/// Polls until the answer is yes, or fails after ten seconds (of a real processor).
pub fn eventually(what: &str, answer: impl FnMut() -> bool) -> Result<()> {
    eventually_within(Duration::from_secs(10), what, answer)
}

/// Polls until the answer is yes, or fails after this time (of a real processor).
pub fn eventually_within(limit: Duration, what: &str, mut answer: impl FnMut() -> bool) -> Result<()> {
    let limit = limit * slowness();
    let end = Instant::now() + limit;
    while !answer() {
        ensure!(Instant::now() < end, "not within {} seconds: {what}", limit.as_secs());
        // Polling takes time, too, on a slow processor.
        thread::sleep(Duration::from_millis(20) * slowness());
    }
    Ok(())
}

/// A network namespace.
#[derive(Debug)]
pub struct Namespace {
    /// Empty for the namespace of this process.
    name: String,
}

impl Namespace {
    /// Creates a namespace whose loopback interface is up.
    pub fn new(role: &str) -> Result<Self> {
        static NUMBER: AtomicU32 = AtomicU32::new(0);
        let number = NUMBER.fetch_add(1, Ordering::Relaxed);
        let name = format!("flood-{}-{number}-{role}", std::process::id());
        command(&format!("ip netns add {name}"))?;
        let namespace = Self { name };
        // No link-local addresses, so that only tests and demonstrations send. Set as the default, because an
        // interface that is brought up right after the mode is set may get its address before the mode applies.
        namespace.within(|| Ok(fs::write("/proc/sys/net/ipv6/conf/default/addr_gen_mode", "1")?))?;
        namespace.ip("link set lo up")?;
        Ok(namespace)
    }

    /// The namespace of this process, which is not removed.
    pub fn here() -> Self {
        Self { name: String::new() }
    }

    /// Its name, as `ip netns` shows it.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// Runs `ip` in the namespace.
    pub fn ip(&self, arguments: &str) -> Result<String> {
        command(&format!("ip -n {} {arguments}", self.name))
    }

    /// Runs many `ip` commands in the namespace as one process, because starting a process takes longer than the
    /// commands.
    pub fn ip_all(&self, lines: &[String]) -> Result<()> {
        let mut child = Command::new("ip")
            .args(["-n", &self.name, "-batch", "-"])
            .stdin(Stdio::piped())
            .stdout(Stdio::null())
            .stderr(Stdio::piped())
            .spawn()
            .context("starting ip")?;
        let mut stdin = child.stdin.take().context("ip has no standard input")?;
        stdin.write_all((lines.join("\n") + "\n").as_bytes())?;
        drop(stdin);
        let output = child.wait_with_output()?;
        ensure!(output.status.success(), "ip: {}", String::from_utf8_lossy(&output.stderr).trim());
        Ok(())
    }

    /// Returns a command that will run in the namespace. It does not use `ip netns exec`, which hides the BPF file
    /// system.
    pub fn command(&self, program: impl AsRef<OsStr>) -> Result<Command> {
        let file = self.open()?;
        let mut command = Command::new(program);
        command.stdin(Stdio::null());
        // SAFETY: one system call and no memory access, which is allowed between fork and exec.
        unsafe { command.pre_exec(move || enter(&file)) };
        Ok(command)
    }

    /// Moves this thread into the namespace.
    pub fn enter(&self) -> Result<()> {
        enter(&self.open()?).with_context(|| format!("entering {}", self.name))
    }

    fn open(&self) -> Result<File> {
        let path = if self.name.is_empty() {
            "/proc/self/ns/net".into()
        } else {
            format!("/run/netns/{}", self.name)
        };
        File::open(&path).with_context(|| path.clone())
    }

    /// Runs a closure on a thread of its own in the namespace.
    pub fn within<T: Send>(&self, work: impl FnOnce() -> Result<T> + Send) -> Result<T> {
        thread::scope(|scope| {
            let thread = scope.spawn(|| {
                self.enter()?;
                work()
            });
            thread.join().unwrap_or_else(|_| bail!("the thread in {} panicked", self.name))
        })
    }

    /// Returns how many IPv4 UDP datagrams to closed ports have reached its network stack.
    pub fn datagrams_without_port(&self) -> Result<u64> {
        self.snmp("Udp", "NoPorts")
    }

    /// Returns how many IPv4 packets have reached its network stack.
    pub fn packets_for_stack(&self) -> Result<u64> {
        self.snmp("Ip", "InReceives")
    }

    fn snmp(&self, protocol: &str, counter: &str) -> Result<u64> {
        let snmp = self.within(|| Ok(fs::read_to_string("/proc/thread-self/net/snmp")?))?;
        let mut lines = snmp.lines().filter_map(|line| line.strip_prefix(protocol)?.strip_prefix(": "));
        let names = lines.next().unwrap_or_default().split(' ');
        let mut values = lines.next().unwrap_or_default().split(' ');
        let count = names.zip(&mut values).find_map(|(name, value)| (name == counter).then_some(value));
        Ok(count.with_context(|| format!("/proc/net/snmp names no {counter}"))?.parse()?)
    }

    /// Returns how many packets an interface has received, including those that a filter dropped.
    pub fn packets_received(&self, interface: &str) -> Result<u64> {
        self.packets(interface, 1) // after the bytes
    }

    /// Returns how many packets an interface has sent.
    pub fn packets_sent(&self, interface: &str) -> Result<u64> {
        self.packets(interface, 9) // behind all that is about receiving, and the bytes
    }

    fn packets(&self, interface: &str, column: usize) -> Result<u64> {
        let text = self.within(|| Ok(fs::read_to_string("/proc/thread-self/net/dev")?))?;
        let mut lines = text.lines();
        let counts = lines.find_map(|line| line.trim_start().strip_prefix(interface)?.strip_prefix(':'));
        let packets = counts.and_then(|counts| counts.split_whitespace().nth(column));
        Ok(packets.with_context(|| format!("/proc/net/dev names no {interface}"))?.parse()?)
    }

    /// Returns the index of an interface in the namespace.
    pub fn index(&self, interface: &str) -> Result<u32> {
        let name = CString::new(interface)?;
        self.within(|| {
            // SAFETY: the string ends with a NUL.
            let index = unsafe { libc::if_nametoindex(name.as_ptr()) };
            ensure!(index != 0, "{interface}: {}", io::Error::last_os_error());
            Ok(index)
        })
    }
}

fn enter(namespace: &File) -> io::Result<()> {
    // SAFETY: the descriptor is open, and only this thread is moved, which relies on no other namespace.
    let moved = unsafe { libc::setns(namespace.as_raw_fd(), libc::CLONE_NEWNET) } == 0;
    if moved { Ok(()) } else { Err(io::Error::last_os_error()) }
}

impl Drop for Namespace {
    fn drop(&mut self) {
        if !self.name.is_empty() {
            let _ = command(&format!("ip netns del {}", self.name)); // whoever deleted it was faster
        }
    }
}

/// The participants, by the last byte of their MAC addresses. Each has an interface `eth0`.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Role {
    /// Sends the flood.
    Attacker = 1,
    /// Is attacked.
    Server = 2,
    /// Wants to be served.
    Visitor = 3,
}

impl Role {
    const ALL: [Self; 3] = [Self::Attacker, Self::Server, Self::Visitor];

    fn name(self) -> &'static str {
        match self {
            Self::Attacker => "attacker",
            Self::Server => "server",
            Self::Visitor => "visitor",
        }
    }

    /// Returns its IPv4 address.
    pub fn address(self) -> IpAddr {
        match self {
            Self::Attacker => crate::packet::ATTACKER,
            Self::Server => crate::packet::SERVER,
            Self::Visitor => crate::packet::VISITOR,
        }
    }

    /// Returns its IPv6 address.
    pub fn address6(self) -> IpAddr {
        match self {
            Self::Attacker => crate::packet::ATTACKER6,
            Self::Server => crate::packet::SERVER6,
            Self::Visitor => crate::packet::VISITOR6,
        }
    }

    fn addresses(self) -> [IpAddr; 2] {
        [self.address(), self.address6()]
    }

    /// Returns its MAC address.
    pub fn mac(self) -> [u8; 6] {
        [0x02, 0, 0, 0, 0, self as u8]
    }

    /// Returns its MAC address in the notation of `ip`.
    pub fn mac_text(self) -> String {
        format!("02:00:00:00:00:{:02x}", self as u8)
    }
}

/// Queues of a veth pair: one for each processor that sends floods, as on a network card.
const QUEUES: usize = 2;

/// Three hosts, each with an interface `eth0` (veth), joined by a switch that is an XDP program: a kernel bridge
/// would itself be the bottleneck of a flood. [`Jitter`] delays what the visitor sends.
pub struct Lab {
    /// Dropped before the namespaces.
    _jitter: Jitter,
    hosts: [Namespace; 3],
    _links: Vec<XdpLinkId>,
    _switch: Programs,
    middle: Namespace,
}

impl Lab {
    /// Builds the laboratory.
    pub fn new() -> Result<Self> {
        let middle = Namespace::new("switch")?;
        let hosts = [
            Namespace::new(Role::Attacker.name())?,
            Namespace::new(Role::Server.name())?,
            Namespace::new(Role::Visitor.name())?,
        ];
        let cables = Role::ALL.into_iter().zip(&hosts).flat_map(|(role, host)| {
            let port = role.name();
            [
                format!(
                    "link add {port} numtxqueues {QUEUES} numrxqueues {QUEUES} type veth \
                     peer name eth0 numtxqueues {QUEUES} numrxqueues {QUEUES} netns {}",
                    host.name()
                ),
                format!("link set {port} up"),
            ]
        });
        middle.ip_all(&cables.collect::<Vec<_>>())?;
        for (role, host) in Role::ALL.into_iter().zip(&hosts) {
            let port = role.name();
            let mut lines = vec![format!("link set eth0 address {} up", role.mac_text())];
            for address in role.addresses() {
                lines.push(format!("address add {} dev eth0 nodad", IpNet::from(address)));
            }
            for other in Role::ALL.into_iter().filter(|other| *other != role) {
                for address in other.addresses() {
                    lines.push(format!("route add {} dev eth0", IpNet::from(address)));
                    lines.push(format!("neighbour add {address} lladdr {} dev eth0", other.mac_text()));
                }
            }
            host.ip_all(&lines)?;
            // XDP redirect supports neither checksum offload nor segmentation offload.
            let off =
                host.command("ethtool")?.args("-K eth0 tx off tso off gso off gro on".split(' ')).output()?;
            ensure!(off.status.success(), "ethtool: {}", String::from_utf8_lossy(&off.stderr));
            // With GRO on, a port without an XDP program would merge several segments into one.
            let gro = if role == Role::Visitor { "off" } else { "on" };
            let off = middle.command("ethtool")?.args(["-K", port, "gro", gro]).output()?;
            ensure!(off.status.success(), "ethtool: {}", String::from_utf8_lossy(&off.stderr));
        }
        let mut switch = Programs::load()?;
        let mut ports = BTreeMap::new();
        for role in Role::ALL {
            let index = middle.index(role.name())?;
            switch.set_port(role as u8, index)?;
            ports.insert(role as u8, index);
        }
        let program = switch.program("switch")?;
        let mut links = Vec::new();
        for role in [Role::Attacker, Role::Server] {
            let index = ports[&(role as u8)];
            links.push(middle.within(|| Ok(program.attach_to_if_index(index, XdpMode::Driver)?))?);
        }
        let jitter = Jitter::new(&middle, ports[&(Role::Visitor as u8)], ports)?;
        Ok(Self { _jitter: jitter, hosts, _links: links, _switch: switch, middle })
    }

    /// Returns the namespace of a host.
    pub fn host(&self, role: Role) -> &Namespace {
        &self.hosts[role as usize - 1]
    }

    /// Returns the namespace of the switch.
    pub fn switch(&self) -> &Namespace {
        &self.middle
    }

    /// Returns the index of the switch's end of a host's veth pair: what is sent on it arrives at the host's `eth0`.
    pub fn port(&self, role: Role) -> Result<u32> {
        self.middle.index(role.name())
    }
}

/// The page that the web servers serve.
pub const PAGE: &str = "hello\n";

/// Serves the page over HTTP in a namespace, to any number of visitors, until the process ends.
pub fn serve_http(server: &Namespace, address: SocketAddr) -> Result<()> {
    let length = PAGE.len();
    let answer = format!("HTTP/1.1 200 OK\r\ncontent-length: {length}\r\nconnection: close\r\n\r\n{PAGE}");
    let answer: Arc<str> = answer.into();
    let listener = server.within(|| Ok(std::net::TcpListener::bind(address)?))?;
    thread::spawn(move || {
        for stream in listener.incoming().filter_map(std::result::Result::ok) {
            let answer = Arc::clone(&answer);
            thread::spawn(move || {
                let mut stream = stream;
                let mut request = [0; 1024];
                // An error means that the visitor has left.
                let _ = stream.read(&mut request).and_then(|_| stream.write_all(answer.as_bytes()));
            });
        }
    });
    Ok(())
}

/// Echoes every UDP packet that arrives at an address of a namespace, until the process ends. Returns how many came
/// from each port.
pub fn serve_udp(server: &Namespace, address: SocketAddr) -> Result<Arc<Mutex<BTreeMap<u16, u64>>>> {
    let socket = server.within(|| Ok(UdpSocket::bind(address)?))?;
    let counts = Arc::new(Mutex::new(BTreeMap::new()));
    let counted = Arc::clone(&counts);
    thread::spawn(move || {
        let mut packet = [0; 2_048];
        // Errors are caused by the other side (port unreachable).
        loop {
            if let Ok((length, peer)) = socket.recv_from(&mut packet) {
                *counted.lock().expect("nobody panics with it").entry(peer.port()).or_default() += 1;
                let _ = socket.send_to(&packet[..length], peer);
            }
        }
    });
    Ok(counts)
}

/// Sends frames on an interface of this thread's namespace, unchanged.
pub fn send_frames<'a>(interface: u32, frames: impl IntoIterator<Item = &'a [u8]>) -> Result<()> {
    let wire = Wire::to_send()?;
    frames.into_iter().try_for_each(|frame| wire.send(interface, frame))
}

/// Fetches the page once over a new connection, within this time in all. The thread must be in the visitor's
/// namespace.
pub fn fetch(address: SocketAddr, patience: Duration) -> Result<()> {
    let end = Instant::now() + patience;
    let mut stream = TcpStream::connect_timeout(&address, patience)?;
    ask_for_page(&mut stream, "close", end)
}

/// Requests the page over a connection that is to `close` afterwards, or not (`keep-alive`), and waits for it until
/// `end`.
pub fn ask_for_page(stream: &mut TcpStream, connection: &str, end: Instant) -> Result<()> {
    write!(stream, "GET / HTTP/1.1\r\nhost: server\r\nconnection: {connection}\r\n\r\n")?;
    let mut answer = Vec::new();
    let mut part = [0; 1_024];
    while !answer.ends_with(PAGE.as_bytes()) {
        let left = end.saturating_duration_since(Instant::now());
        ensure!(!left.is_zero(), "no page in time");
        stream.set_read_timeout(Some(left))?;
        let length = stream.read(&mut part)?;
        ensure!(length > 0, "a wrong answer: {:?}", String::from_utf8_lossy(&answer));
        answer.extend(&part[..length]);
    }
    Ok(())
}
