//! Clients that send at their own pace, whatever happens to their packets, with the patience of real ones; and the
//! share of their attempts that succeeds.
//!
//! The pace is random, so that no client is in step with the clock ticks.

use std::{
    io::Read,
    net::{IpAddr, SocketAddr, TcpStream},
    ops::AddAssign,
    thread,
    time::{Duration, Instant},
};

use anyhow::{Context, Result, bail};
use socket2::{Domain, Protocol, Socket, Type};

use crate::{
    dns,
    lab::{Namespace, ask_for_page, fetch},
    processor::await_input,
};

/// How long a browser user waits for a page (a lost SYN is retransmitted after one second, RFC 6298), a resolver for
/// an answer, a player for the world, and an NTP client for the time.
const FOR_PAGE: Duration = Duration::from_secs(3);
const FOR_ANSWER: Duration = Duration::from_secs(2);
const FOR_MOVE: Duration = Duration::from_millis(500);
const FOR_TIME: Duration = Duration::from_secs(1);

/// Attempts a second of clients whose attempts are independent of each other.
const ATTEMPTS_PER_S: f64 = 40.0;

/// Number of open connections, players, or QUIC sessions; and what each does in a second.
const CONNECTIONS: usize = 8;
const REQUESTS_PER_S: f64 = 6.0;
const PLAYERS: usize = 4;
const MOVES_PER_S: f64 = 20.0;

/// NTP requests, and fragmented datagrams, a second.
const TIMES_PER_S: f64 = 20.0;

/// Mean time that a player stays.
const STAY: Duration = Duration::from_secs(2);

/// Bytes that make a datagram longer than the Ethernet MTU.
const LONG: usize = 1_800;

/// How often to check whether everything has come back.
const LOOK_EVERY: Duration = Duration::from_millis(20);

/// The port that NTP uses as source and destination.
const NTP: u16 = 123;

/// Attempts that began within the window, and those of them that succeeded.
#[derive(Clone, Copy, PartialEq, Eq, Default, Debug)]
pub struct Tally {
    /// All attempts.
    pub tried: u64,
    /// Those that succeeded.
    pub succeeded: u64,
}

impl Tally {
    /// Returns the share that succeeded; 0 without attempts.
    pub fn share(self) -> f64 {
        self.succeeded as f64 / self.tried.max(1) as f64
    }

    fn note(&mut self, succeeded: bool) {
        *self += Self { tried: 1, succeeded: succeeded.into() };
    }
}

impl AddAssign for Tally {
    fn add_assign(&mut self, other: Self) {
        self.tried += other.tried;
        self.succeeded += other.succeeded;
    }
}

/// When attempts count.
#[derive(Clone, Copy, Debug)]
pub struct Window {
    /// From this time,
    pub begin: Instant,
    /// until this time.
    pub end: Instant,
}

impl Window {
    fn counts(&self, when: Instant) -> bool {
        (self.begin..self.end).contains(&when)
    }
}

/// A kind of client. If it uses connections, they are already open.
pub struct Client {
    /// The name in reports.
    pub name: &'static str,
    run: Box<dyn FnOnce(Window) -> Result<Tally> + Send>,
}

impl Client {
    fn new(name: &'static str, run: impl FnOnce(Window) -> Result<Tally> + Send + 'static) -> Self {
        Self { name, run: Box::new(run) }
    }

    /// Fetches pages, each over a new connection.
    pub fn of_pages(name: &'static str, server: IpAddr) -> Self {
        Self::new(name, move |window| Ok(try_often(window, || fetch((server, 80).into(), FOR_PAGE).is_ok())))
    }

    /// Fetches pages over connections that stay open.
    pub fn of_connections(name: &'static str, server: IpAddr) -> Result<Self> {
        let connect = || Ok(TcpStream::connect_timeout(&(server, 80).into(), FOR_PAGE)?);
        let streams = (0..CONNECTIONS).map(|_| connect()).collect::<Result<Vec<_>>>()?;
        Ok(Self::new(name, move |window| {
            at_once(streams.into_iter().map(|stream| move || Ok(ask_over(stream, window))))
        }))
    }

    /// Sends DNS queries, each from a new port.
    pub fn of_names(name: &'static str, server: SocketAddr) -> Self {
        Self::new(name, move |window| Ok(try_often(window, || dns::ask(server, FOR_ANSWER).is_ok())))
    }

    /// Plays for some seconds each time.
    pub fn of_game(name: &'static str, server: SocketAddr) -> Result<Self> {
        let join = move || Session::open(None, server);
        let first = (0..PLAYERS).map(|_| join()).collect::<Result<Vec<_>>>()?;
        Ok(Self::new(name, move |window| {
            at_once(first.into_iter().map(|first| {
                move || {
                    let mut tally = Tally::default();
                    let mut session = first;
                    loop {
                        let leaves = Instant::now() + at_random(STAY);
                        tally += session.keep_up(MOVES_PER_S, FOR_MOVE, leaves.min(window.end), window);
                        if Instant::now() >= window.end {
                            return Ok(tally);
                        }
                        session = join()?;
                    }
                }
            }))
        }))
    }

    /// Keeps sessions open throughout, like those of QUIC.
    pub fn of_sessions(name: &'static str, server: SocketAddr) -> Result<Self> {
        let open = |_| Session::open(None, server);
        let sessions = (0..PLAYERS).map(open).collect::<Result<Vec<_>>>()?;
        Ok(Self::new(name, move |window| {
            at_once(
                sessions.into_iter().map(|mut session| {
                    move || Ok(session.keep_up(MOVES_PER_S, FOR_MOVE, window.end, window))
                }),
            )
        }))
    }

    /// Sends datagrams that are longer than the MTU of a veth pair, and receives them back.
    pub fn of_fragments(name: &'static str, server: SocketAddr) -> Result<Self> {
        let mut session = Session::open(None, server)?;
        session.padding = LONG;
        Ok(Self::new(name, move |window| Ok(session.keep_up(TIMES_PER_S, FOR_TIME, window.end, window))))
    }

    /// Asks for the time from the NTP port, as NTP peers do (RFC 5905).
    pub fn of_time(name: &'static str, server: IpAddr) -> Result<Self> {
        let mut session = Session::open(Some(NTP), (server, NTP).into())?;
        Ok(Self::new(name, move |window| Ok(session.keep_up(TIMES_PER_S, FOR_TIME, window.end, window))))
    }
}

/// Runs clients from a namespace, all at once. Returns the tally of each.
pub fn run(host: &Namespace, clients: Vec<Client>, window: Window) -> Result<Vec<(&'static str, Tally)>> {
    thread::scope(|scope| {
        let running: Vec<_> = clients
            .into_iter()
            .map(|Client { name, run }| {
                let run = move || host.enter().and_then(|()| run(window)).context(name);
                (name, scope.spawn(run))
            })
            .collect();
        let mut tallies = Vec::new();
        for (name, client) in running {
            tallies.push((name, client.join().unwrap_or_else(|_| bail!("{name} panicked"))?));
        }
        Ok(tallies)
    })
}

/// Sums the tallies of some threads in this thread's namespace.
fn at_once<F: FnOnce() -> Result<Tally> + Send>(clients: impl Iterator<Item = F>) -> Result<Tally> {
    thread::scope(|scope| {
        let running: Vec<_> = clients.map(|client| scope.spawn(client)).collect();
        let mut all = Tally::default();
        for client in running {
            all += client.join().unwrap_or_else(|_| bail!("a client panicked"))?;
        }
        Ok(all)
    })
}

/// Tries repeatedly, whether or not it has succeeded.
fn try_often(window: Window, attempt: impl Fn() -> bool + Sync) -> Tally {
    thread::scope(|scope| {
        let mut attempts = Vec::new();
        let mut next = window.begin;
        while next < window.end {
            thread::sleep(next.saturating_duration_since(Instant::now()));
            attempts.push(scope.spawn(&attempt));
            next += pause(ATTEMPTS_PER_S);
        }
        let mut tally = Tally::default();
        for attempt in attempts {
            tally.note(attempt.join().unwrap_or(false));
        }
        tally
    })
}

/// Fetches pages over a connection. If one does not arrive in time, the connection and all further pages are given
/// up.
fn ask_over(mut stream: TcpStream, window: Window) -> Tally {
    let mut tally = Tally::default();
    let mut alive = true;
    loop {
        thread::sleep(pause(REQUESTS_PER_S));
        let now = Instant::now();
        if now >= window.end {
            return tally;
        }
        alive = alive && ask_for_page(&mut stream, "keep-alive", now + FOR_PAGE).is_ok();
        if window.counts(now) {
            tally.note(alive);
        }
    }
}

/// A socket that is connected to an echo service.
struct Session {
    socket: Socket,
    /// Bytes behind the number in each message.
    padding: usize,
}

impl Session {
    fn open(port: Option<u16>, server: SocketAddr) -> Result<Self> {
        let socket = Socket::new(Domain::for_address(server), Type::DGRAM, Some(Protocol::UDP))?;
        if let Some(port) = port {
            let any = if server.is_ipv4() { IpAddr::from([0; 4]) } else { IpAddr::from([0_u16; 8]) };
            socket.bind(&SocketAddr::new(any, port).into())?;
        }
        socket.connect(&server.into())?;
        socket.set_nonblocking(true)?;
        Ok(Self { socket, padding: 0 })
    }

    /// Sends numbers until the end, and waits for each to come back, without delaying the next one.
    fn keep_up(&mut self, per_s: f64, patience: Duration, end: Instant, window: Window) -> Tally {
        // When each was sent, and whether it came back in time.
        let mut messages: Vec<(Instant, bool)> = Vec::new();
        let mut next = Instant::now();
        while next < end {
            self.listen(next, patience, &mut messages);
            let mut message = (messages.len() as u64).to_be_bytes().to_vec();
            message.resize(message.len() + self.padding, 0);
            messages.push((Instant::now(), false));
            let _ = self.socket.send(&message); // lost, then
            next += pause(per_s);
        }
        let last = Instant::now() + patience;
        while messages.iter().any(|(_, came_back)| !came_back) && Instant::now() < last {
            self.listen(last.min(Instant::now() + LOOK_EVERY), patience, &mut messages);
        }
        let mut tally = Tally::default();
        for (_, came_back) in messages.into_iter().filter(|(sent, _)| window.counts(*sent)) {
            tally.note(came_back);
        }
        tally
    }

    /// Records what comes back until a time.
    fn listen(&self, until: Instant, patience: Duration, messages: &mut [(Instant, bool)]) {
        let mut buffer = [0; 2_048];
        loop {
            let left = until.saturating_duration_since(Instant::now());
            if left.is_zero() || await_input(&self.socket, left).is_err() {
                return;
            }
            // An error results from an ICMP packet.
            while let Ok(length) = (&self.socket).read(&mut buffer) {
                let number = buffer[..length].first_chunk().map(|number| u64::from_be_bytes(*number));
                if let Some((sent, came_back)) = number.and_then(|number| messages.get_mut(number as usize)) {
                    *came_back |= sent.elapsed() <= patience;
                }
            }
        }
    }
}

/// A random interval at this many events a second: from half to one and a half of the mean.
fn pause(per_s: f64) -> Duration {
    at_random(Duration::from_secs_f64(1.0 / per_s))
}

/// A random time, from half to one and a half of this.
fn at_random(mean: Duration) -> Duration {
    mean.mul_f64(0.5 + fastrand::f64())
}
