//! Finds the addresses from which people are logged in over SSH.

use std::{
    fs::{self, File},
    io::Read,
    net::IpAddr,
    path::Path,
    sync::{Mutex, OnceLock, PoisonError},
    time::{Duration, Instant},
};

use crate::file;

/// Where systemd-logind records sessions, one file for each.
const SESSIONS: &str = "/run/systemd/sessions";

/// The control group of systemd-logind while it runs, with a single cgroup hierarchy and with several.
const LOGIND: [&str; 2] = [
    "/sys/fs/cgroup/system.slice/systemd-logind.service",
    "/sys/fs/cgroup/systemd/system.slice/systemd-logind.service",
];

/// Where login programs record sessions.
const UTMP: &str = "/run/utmp";

/// Size of a record in that file, bytes: `struct utmp` (utmp(5)), the same on all 64-bit architectures that Floodgate
/// runs on.
const RECORD: usize = 384;

/// Offset of its `ut_type`: 2 bytes.
const RECORD_TYPE: usize = 0;

/// `USER_PROCESS`: a user is logged in.
const USER_PROCESS: u16 = 7;

/// Offset of its `ut_addr_v6`: 16 bytes, of which an IPv4 address has the first four.
const RECORD_ADDRESS: usize = 348;

/// The port of SSH.
const SSH_PORT: u16 = 22;

/// The state of an established connection in `/proc/net/tcp` (net/tcp_states.h).
const ESTABLISHED: &str = "01";

/// How much is read of the kernel's table of connections, bytes: some 27,000 connections; and of a file that records
/// sessions.
const MOST_READ: u64 = 4 << 20;

/// How many addresses with connections to the port of SSH are taken for sessions.
const MOST_CONNECTED: usize = 256;

/// Reading that table may take one part in this many of the time.
const READING: u32 = 100;

/// How far up [`login_address`] looks. A shell below tmux below sudo below sshd is ten deep.
const MAX_ANCESTORS: usize = 32;

/// Returns the addresses from which people are logged in according to logind or utmp, which know who has been
/// authenticated, and the address from which this process was started.
pub(super) fn peers() -> Vec<IpAddr> {
    static STARTED_FROM: OnceLock<Option<IpAddr>> = OnceLock::new();

    let mut peers = noted();
    peers.extend(*STARTED_FROM.get_or_init(login_address));
    peers
}

/// Returns the addresses with a connection to the port of SSH if neither logind nor utmp records sessions, as in a
/// container. Anybody can open such a connection, so none counts as a session where sessions are recorded.
pub(super) fn possible_peers() -> Vec<IpAddr> {
    let is_noted = [UTMP].iter().chain(&LOGIND).any(|path| Path::new(path).exists());
    if is_noted { Vec::new() } else { connected_now() }
}

/// Returns the addresses with a connection to the port of SSH. On a host with very many connections the result may be
/// some seconds old.
fn connected_now() -> Vec<IpAddr> {
    /// The last result, and until when it is valid.
    static LAST: Mutex<Option<(Vec<IpAddr>, Instant)>> = Mutex::new(None);

    let mut last = LAST.lock().unwrap_or_else(PoisonError::into_inner);
    let begin = Instant::now();
    if let Some((peers, until)) = &*last
        && begin < *until
    {
        return peers.clone();
    }
    let mut peers: Vec<IpAddr> = ["tcp", "tcp6"]
        .iter()
        .filter_map(|name| {
            let mut table = String::new();
            let file = File::open(format!("/proc/thread-self/net/{name}")).ok()?;
            file.take(MOST_READ).read_to_string(&mut table).ok()?;
            Some(connected(&table, SSH_PORT))
        })
        .flatten()
        .collect();
    peers.sort_unstable();
    peers.dedup();
    peers.truncate(MOST_CONNECTED);
    let took: Duration = begin.elapsed();
    *last = Some((peers.clone(), begin + took * READING));
    peers
}

fn noted() -> Vec<IpAddr> {
    let files = fs::read_dir(SESSIONS).into_iter().flatten().flatten();
    let sessions = files.filter_map(|file| file::read_to_string(&file.path(), MOST_READ).ok());
    let mut noted: Vec<IpAddr> = sessions.filter_map(|session| remote_host(&session)).collect();
    noted.extend(in_utmp(&file::read(Path::new(UTMP), MOST_READ).unwrap_or_default()));
    noted
}

/// Returns the remote address of a session from its logind file.
fn remote_host(session: &str) -> Option<IpAddr> {
    let host = session.lines().find_map(|line| line.strip_prefix("REMOTE_HOST="))?;
    parse(host)
}

/// Returns the remote addresses of the sessions in a utmp file.
fn in_utmp(bytes: &[u8]) -> Vec<IpAddr> {
    let address = |record: &[u8; RECORD]| -> Option<IpAddr> {
        let kind = u16::from_ne_bytes([record[RECORD_TYPE], record[RECORD_TYPE + 1]]);
        let bytes: [u8; 16] = record[RECORD_ADDRESS..].first_chunk().copied()?;
        let [v4, rest @ ..] = bytes.as_chunks::<4>().0 else { return None };
        let address = if rest.iter().all(|word| *word == [0; 4]) {
            IpAddr::from(*v4)
        } else {
            IpAddr::from(bytes).to_canonical()
        };
        (kind == USER_PROCESS && !address.is_unspecified()).then_some(address)
    };
    bytes.as_chunks::<RECORD>().0.iter().filter_map(address).collect()
}

/// Returns the remote addresses of established connections to a port, from the text of `/proc/net/tcp` or `tcp6`.
fn connected(table: &str, port: u16) -> Vec<IpAddr> {
    let peer = |line: &str| {
        let mut fields = line.split_whitespace().skip(1);
        let (local, remote, state) = (fields.next()?, fields.next()?, fields.next()?);
        let (_, local_port) = local.split_once(':')?;
        let is_session = state == ESTABLISHED && u16::from_str_radix(local_port, 16).ok()? == port;
        is_session.then(|| address(remote.split_once(':')?.0)).flatten()
    };
    table.lines().skip(1).filter_map(peer).collect()
}

/// Parses an address as the kernel writes it there: words in the host's byte order, in hexadecimal digits.
fn address(digits: &str) -> Option<IpAddr> {
    let words = digits.as_bytes().chunks(8).map(|word| {
        let word = u32::from_str_radix(std::str::from_utf8(word).ok()?, 16).ok()?;
        Some(word.to_ne_bytes())
    });
    let words: Vec<[u8; 4]> = words.collect::<Option<_>>()?;
    match words.as_slice() {
        [v4] => Some(IpAddr::from(*v4)),
        [_, _, _, _] => Some(IpAddr::from(<[u8; 16]>::try_from(words.concat()).ok()?).to_canonical()),
        _ => None,
    }
}

/// Returns the address from which the operator is logged in over SSH, or `None` if it is not known.
///
/// sshd leaves it in the environment of the session, but `sudo` clears the environment, so the environments of the
/// ancestors are read as well. The nearest one wins: below tmux or screen it is the address from which the pane was
/// opened.
pub fn login_address() -> Option<IpAddr> {
    let mut pid = std::process::id();
    for _ in 0..MAX_ANCESTORS {
        let environment = fs::read(format!("/proc/{pid}/environ")).unwrap_or_default();
        if let Some(address) = login_in(&environment) {
            return Some(address);
        }
        pid = parent_in(&fs::read_to_string(format!("/proc/{pid}/status")).ok()?)?;
    }
    None
}

/// Returns the client's address from the environment of a process (`NAME=value`, each followed by a NUL). sshd writes
/// `SSH_CONNECTION=client port server port` and, for older programs, `SSH_CLIENT=client port port` (sshd(8)).
fn login_in(environment: &[u8]) -> Option<IpAddr> {
    ["SSH_CONNECTION=", "SSH_CLIENT="].iter().find_map(|name| {
        let value =
            environment.split(|&b| b == 0).find_map(|variable| variable.strip_prefix(name.as_bytes()))?;
        let client = std::str::from_utf8(value).ok()?.split_ascii_whitespace().next()?;
        parse(client)
    })
}

/// Returns the parent from the text of `/proc/PID/status`; `None` for process 1, whose parent is 0.
fn parent_in(status: &str) -> Option<u32> {
    let parent = status.lines().find_map(|line| line.strip_prefix("PPid:"))?;
    parent.trim().parse().ok().filter(|&pid| pid != 0)
}

/// Parses an address. A link-local address is followed by its interface: fe80::1%eth0.
fn parse(text: &str) -> Option<IpAddr> {
    let address: IpAddr = text.split('%').next()?.parse().ok()?;
    Some(address.to_canonical())
}

#[cfg(test)]
mod tests {
    use super::*;

    const OPERATOR: &str = "198.51.100.7";

    #[test]
    fn the_login_is_found_in_an_environment() {
        let cases: [(&str, &[u8], Option<&str>); 7] = [
            ("sshd", b"A=b\0SSH_CONNECTION=198.51.100.7 50000 192.0.2.1 22\0", Some(OPERATOR)),
            ("old", b"SSH_CLIENT=198.51.100.7 50000 22\0", Some(OPERATOR)),
            ("mapped", b"SSH_CONNECTION=::ffff:198.51.100.7 1 ::1 22\0", Some(OPERATOR)),
            ("link-local", b"SSH_CONNECTION=fe80::1%eth0 50000 fe80::2%eth0 22\0", Some("fe80::1")),
            ("not over SSH", b"HOME=/root\0", None),
            ("another variable", b"OLD_SSH_CONNECTION=198.51.100.7 1\0", None),
            ("nonsense", b"SSH_CONNECTION=\xff\0SSH_CLIENT=\0", None),
        ];
        for (why, environment, expected) in cases {
            assert_eq!(login_in(environment), expected.and_then(|text| text.parse().ok()), "{why}");
        }
    }

    #[test]
    fn the_first_process_has_no_parent() {
        assert_eq!(parent_in("Name:\tbash\nPPid:\t42\n"), Some(42));
        assert_eq!(parent_in("Name:\tinit\nPPid:\t0\n"), None);
        assert_eq!(parent_in(""), None);
    }

    fn addresses(texts: &[&str]) -> Vec<IpAddr> {
        texts.iter().map(|text| text.parse().unwrap()).collect()
    }

    #[test]
    fn a_session_is_found_where_logind_notes_it() {
        assert_eq!(remote_host("UID=0\nREMOTE=1\nREMOTE_HOST=198.51.100.7\n"), OPERATOR.parse().ok());
        assert_eq!(remote_host("REMOTE_HOST=fe80::7%eth0\n"), "fe80::7".parse().ok());
        assert_eq!(remote_host("UID=0\nREMOTE=0\n"), None);
        assert_eq!(remote_host("REMOTE_HOST=office.example.net\n"), None);
    }

    #[test]
    fn a_session_is_found_in_utmp() {
        let record = |kind: u16, address: &[u8]| {
            let mut record = [0; RECORD];
            record[..2].copy_from_slice(&kind.to_ne_bytes());
            record[RECORD_ADDRESS..][..address.len()].copy_from_slice(address);
            record
        };
        let v6 = "2001:db8::7".parse::<std::net::Ipv6Addr>().unwrap().octets();
        let records = [
            record(USER_PROCESS, &[198, 51, 100, 7]),
            record(USER_PROCESS, &[0; 4]),
            record(8, &[192, 0, 2, 1]),
            record(USER_PROCESS, &v6),
        ];
        assert_eq!(in_utmp(&records.concat()), addresses(&[OPERATOR, "2001:db8::7"]));
        assert_eq!(in_utmp(&[7; 100]), addresses(&[]));
    }

    #[test]
    fn a_connection_to_the_port_of_ssh_is_found_in_the_kernels_table() {
        let v4 = u32::from_ne_bytes([198, 51, 100, 7]);
        let mapped = format!("{:08X}{:08X}{:08X}{v4:08X}", 0, 0, 0xffff_u32.to_be());
        let table = format!(
            "  sl  local_address rem_address   st\n\
             0: 00000000:0016 {v4:08X}:C350 01 0\n\
             1: 00000000:0016 00000000:0000 0A 0\n\
             2: 00000000:0050 {v4:08X}:C351 01 0\n\
             3: {mapped}:0016 {mapped}:C352 01 0\n\
             4: nonsense\n"
        );
        assert_eq!(connected(&table, SSH_PORT), addresses(&[OPERATOR, OPERATOR]));
    }
}
