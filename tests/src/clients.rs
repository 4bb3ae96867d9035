//! Clients that ask at a pace of their own, whatever becomes of it, with the patience of real ones; and what share of their
//! attempts comes to something.
//!
//! The pace is random, so that none of them is in step with the ticks of the clock.

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

/// So long a browser's user waits for a page (a lost SYN is sent again after one second, RFC 6298), a resolver's for an
/// answer, a player for the world, and a clock for the time.
const FOR_PAGE: Duration = Duration::from_secs(3);
const FOR_ANSWER: Duration = Duration::from_secs(2);
const FOR_MOVE: Duration = Duration::from_millis(500);
const FOR_TIME: Duration = Duration::from_secs(1);

/// Attempts a second of those whose attempts have nothing to do with each other.
const ATTEMPTS_PER_S: f64 = 40.0;

/// Connections that stay open, or players, or sessions of QUIC; and what each does in a second.
const CONNECTIONS: usize = 8;
const REQUESTS_PER_S: f64 = 6.0;
const PLAYERS: usize = 4;
const MOVES_PER_S: f64 = 20.0;

/// Questions for the time, and datagrams in fragments, a second.
const TIMES_PER_S: f64 = 20.0;

/// How long a player stays, in the mean.
const STAY: Duration = Duration::from_secs(2);

/// What makes a datagram longer than the MTU of Ethernet, bytes.
const LONG: usize = 1_800;

/// How often is looked whether all has come back.
const LOOK_EVERY: Duration = Duration::from_millis(20);

/// The port that a clock asks from, and is asked at.
const NTP: u16 = 123;

/// Attempts that began while it counted, and those of them that came to something.
#[derive(Clone, Copy, PartialEq, Eq, Default, Debug)]
pub struct Tally {
    /// All.
    pub tried: u64,
    /// Of these.
    pub succeeded: u64,
}

impl Tally {
    /// The share that came to something; 0 of none.
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
    /// From then,
    pub begin: Instant,
    /// and no longer.
    pub end: Instant,
}

impl Window {
    fn counts(&self, when: Instant) -> bool {
        (self.begin..self.end).contains(&when)
    }
}

/// A kind of client. Where one has connections, they are open already.
pub struct Client {
    /// The word for it in reports.
    pub name: &'static str,
    run: Box<dyn FnOnce(Window) -> Result<Tally> + Send>,
}

impl Client {
    fn new(name: &'static str, run: impl FnOnce(Window) -> Result<Tally> + Send + 'static) -> Self {
        Self { name, run: Box::new(run) }
    }

    /// Fetches pages, each over a connection of its own.
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

    /// Asks for names, each from a port of its own.
    pub fn of_names(name: &'static str, server: SocketAddr) -> Self {
        Self::new(name, move |window| Ok(try_often(window, || dns::ask(server, FOR_ANSWER).is_ok())))
    }

    /// Plays, for some seconds each time.
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

    /// Has sessions that go on and on, as those of QUIC.
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

    /// Sends datagrams that are longer than a cable's MTU, and gets them back.
    pub fn of_fragments(name: &'static str, server: SocketAddr) -> Result<Self> {
        let mut session = Session::open(None, server)?;
        session.padding = LONG;
        Ok(Self::new(name, move |window| Ok(session.keep_up(TIMES_PER_S, FOR_TIME, window.end, window))))
    }

    /// Asks for the time, from the port where others ask (RFC 5905).
    pub fn of_time(name: &'static str, server: IpAddr) -> Result<Self> {
        let mut session = Session::open(Some(NTP), (server, NTP).into())?;
        Ok(Self::new(name, move |window| Ok(session.keep_up(TIMES_PER_S, FOR_TIME, window.end, window))))
    }
}

/// Runs clients, all at once, from a namespace; returns what share of the attempts of each succeeded.
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

/// Adds up what some threads come to that are in the namespace of this one.
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

/// Tries again and again, whether or not it has succeeded.
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

/// Fetches pages over a connection. When one does not come in time, it is given up, and all others with it.
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

/// A socket that is connected to a service that sends back what it is sent.
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

    /// Sends numbers until the end, and waits for each to come back, without waiting to send the next.
    fn keep_up(&mut self, per_s: f64, patience: Duration, end: Instant, window: Window) -> Tally {
        // When each was sent, and whether it has come back in time.
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

    /// Takes note of what comes back, until then.
    fn listen(&self, until: Instant, patience: Duration, messages: &mut [(Instant, bool)]) {
        let mut buffer = [0; 2_048];
        loop {
            let left = until.saturating_duration_since(Instant::now());
            if left.is_zero() || await_input(&self.socket, left).is_err() {
                return;
            }
            // An error is one that an ICMP packet has made.
            while let Ok(length) = (&self.socket).read(&mut buffer) {
                let number = buffer[..length].first_chunk().map(|number| u64::from_be_bytes(*number));
                if let Some((sent, came_back)) = number.and_then(|number| messages.get_mut(number as usize)) {
                    *came_back |= sent.elapsed() <= patience;
                }
            }
        }
    }
}

/// A random time to the next of so many a second: from half to one and a half of the mean.
fn pause(per_s: f64) -> Duration {
    at_random(Duration::from_secs_f64(1.0 / per_s))
}

/// A random time, from half to one and a half of this.
fn at_random(mean: Duration) -> Duration {
    mean.mul_f64(0.5 + fastrand::f64())
}
