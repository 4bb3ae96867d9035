//! Programs of real hosts, each in a network namespace, until dropped: a web server, name servers, resolvers.
//!
//! They keep everything in a folder of their own and touch nothing of the system.

use std::{
    fs::{self, File},
    net::{IpAddr, SocketAddr, TcpStream, UdpSocket},
    path::PathBuf,
    process::{Command, Stdio},
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering::Relaxed},
    },
    thread::{self, JoinHandle},
    time::Duration,
};

use anyhow::{Context, Result, bail};
use tempfile::TempDir;

use crate::{
    dns,
    lab::{Namespace, eventually},
    process::Process,
};

/// How long a program may take to reply to a probe.
const PATIENCE: Duration = Duration::from_millis(500);

/// How often an echo checks whether to end.
const LOOK_EVERY: Duration = Duration::from_millis(50);

/// A program, and its folder.
#[derive(Debug)]
pub struct Service {
    _process: Process,
    _folder: TempDir,
}

impl Service {
    /// Starts nginx with the page of [`serve_http`](crate::lab::serve_http) at port 80.
    pub fn web_server(namespace: &Namespace, addresses: &[IpAddr]) -> Result<Self> {
        let listen = addresses.iter().map(|address| format!("listen {};", SocketAddr::new(*address, 80)));
        let listen: String = listen.collect();
        let folder = tempfile::tempdir()?;
        let path = folder.path().display();
        let temporary = ["client_body", "proxy", "fastcgi", "uwsgi", "scgi"]
            .map(|what| format!("{what}_temp_path {path}/{what};"))
            .concat();
        let config = format!(
            "user root; worker_processes 1; worker_rlimit_nofile 16384; daemon off;
             pid {path}/pid; error_log {path}/log;
             events {{ worker_connections 8192; }}
             http {{
                 access_log off; keepalive_timeout 1h; keepalive_requests 1000000; {temporary}
                 server {{ {listen} location / {{ return 200 \"hello\\n\"; }} }}
             }}"
        );
        let mut command = namespace.command("nginx")?;
        command.arg("-e").arg(folder.path().join("log")).arg("-c").arg(write(&folder, &config)?);
        let page = SocketAddr::new(*addresses.first().context("a web server has an address")?, 80);
        Self::start(command, folder, || namespace.within(|| Ok(TcpStream::connect_timeout(&page, PATIENCE)?)))
    }

    /// Starts Unbound as the name server for all names below [`dns::DOMAIN`].
    pub fn name_server(namespace: &Namespace, addresses: &[IpAddr]) -> Result<Self> {
        let domain = dns::DOMAIN;
        let listen: String = addresses.iter().map(|address| format!("    interface: {address}\n")).collect();
        let first = *addresses.first().context("a name server has an address")?;
        let zone =
            format!("    local-zone: {domain}. redirect\n    local-data: \"{domain}. 300 IN A 192.0.2.1\"\n");
        Self::unbound(namespace, (first, 53).into(), &format!("{listen}{zone}"))
    }

    /// Starts Unbound on a port of the loopback interface. It forwards to another name server, from random ports,
    /// with connected sockets.
    pub fn resolver(namespace: &Namespace, address: SocketAddr, upstream: IpAddr) -> Result<Self> {
        // An unresponsive name server is avoided for a while. The effect of one flood must not extend to the next.
        let config = format!(
            "    interface: {}@{}
    infra-host-ttl: 1
    infra-keep-probing: yes
    infra-cache-max-rtt: 1000
    do-not-query-localhost: no
forward-zone:
    name: .
    forward-addr: {upstream}
",
            address.ip(),
            address.port()
        );
        Self::unbound(namespace, address, &config)
    }

    fn unbound(namespace: &Namespace, address: SocketAddr, config: &str) -> Result<Self> {
        let folder = tempfile::tempdir()?;
        let path = folder.path().display();
        let config = format!(
            "server:
    do-daemonize: no
    chroot: \"\"
    username: \"\"
    directory: \"{path}\"
    pidfile: \"{path}/pid\"
    use-syslog: no
    module-config: iterator
    access-control: 0.0.0.0/0 allow
    access-control: ::/0 allow
{config}
remote-control:
    control-enable: no
"
        );
        let mut command = namespace.command("unbound")?;
        command.arg("-d").arg("-c").arg(write(&folder, &config)?);
        Self::start(command, folder, || namespace.within(|| dns::ask(address, PATIENCE)))
    }

    /// Starts dnsmasq on a port of the loopback interface. It forwards to another name server, from random ports,
    /// with unconnected sockets.
    pub fn forwarder(namespace: &Namespace, address: SocketAddr, upstream: IpAddr) -> Result<Self> {
        let folder = tempfile::tempdir()?;
        let mut command = namespace.command("dnsmasq")?;
        command
            .args([
                "--keep-in-foreground",
                "--conf-file=/dev/null",
                "--no-resolv",
                "--no-hosts",
                "--bind-interfaces",
            ])
            .args([
                "--cache-size=0",
                "--dns-forward-max=1000",
                "--user=root",
                "--group=root",
                "--log-facility=-",
            ])
            .arg(format!("--pid-file={}", folder.path().join("pid").display()))
            .arg(format!("--listen-address={}", address.ip()))
            .arg(format!("--port={}", address.port()))
            .arg(format!("--server={upstream}"));
        Self::start(command, folder, || namespace.within(|| dns::ask(address, PATIENCE)))
    }

    /// Starts a program, and waits until it replies.
    fn start<T>(mut command: Command, folder: TempDir, mut ask: impl FnMut() -> Result<T>) -> Result<Self> {
        let log = folder.path().join("log");
        command.stdout(Stdio::null()).stderr(File::create(&log)?);
        let mut process = Process::start(&mut command)?;
        let answers = eventually("it answers", || process.has_ended() || ask().is_ok());
        if answers.is_err() || process.has_ended() {
            bail!("{command:?} does not start: {}", fs::read_to_string(&log)?);
        }
        Ok(Self { _process: process, _folder: folder })
    }
}

fn write(folder: &TempDir, config: &str) -> Result<PathBuf> {
    let path = folder.path().join("config");
    fs::write(&path, config)?;
    Ok(path)
}

/// Echoes every datagram that arrives at an address, until dropped: a game, an NTP server, anything with sessions.
#[derive(Debug)]
pub struct Echo {
    over: Arc<AtomicBool>,
    echoing: Option<JoinHandle<()>>,
}

impl Echo {
    /// Starts it.
    pub fn start(namespace: &Namespace, address: SocketAddr) -> Result<Self> {
        let socket = namespace.within(|| Ok(UdpSocket::bind(address)?))?;
        socket.set_read_timeout(Some(LOOK_EVERY))?;
        let over = Arc::new(AtomicBool::new(false));
        let ends = Arc::clone(&over);
        let echoing = thread::spawn(move || {
            let mut buffer = [0; 2_048];
            while !ends.load(Relaxed) {
                if let Ok((length, from)) = socket.recv_from(&mut buffer) {
                    let _ = socket.send_to(&buffer[..length], from); // nobody is there
                }
            }
        });
        Ok(Self { over, echoing: Some(echoing) })
    }
}

impl Drop for Echo {
    fn drop(&mut self) {
        self.over.store(true, Relaxed);
        if let Some(echoing) = self.echoing.take() {
            let _ = echoing.join(); // it has nothing to say
        }
    }
}
