//! A visitor that fetches page after page, each over a new connection, from several threads: a client that is faster
//! than the server.

use std::{
    net::SocketAddr,
    thread,
    time::{Duration, Instant},
};

use anyhow::{Result, bail};

use crate::lab::{Namespace, fetch};

/// Number of pages fetched concurrently.
const CLIENTS: usize = 4;

/// Timeout of a page. A lost SYN is retransmitted after one second (RFC 6298).
const PATIENCE: Duration = Duration::from_secs(3);

/// The visitor's results.
#[derive(Clone, Debug)]
pub struct Visits {
    /// Pages fetched.
    pub pages: u64,
    /// How long the visit took.
    pub elapsed: Duration,
    /// Time for each page, including failed attempts.
    pub latencies: Vec<Duration>,
}

impl Visits {
    /// Returns pages a second.
    pub fn rate(&self) -> f64 {
        self.pages as f64 / self.elapsed.as_secs_f64()
    }
}

/// Fetches pages for this long. Fetches that have begun by then are completed.
pub fn visit(host: &Namespace, address: SocketAddr, duration: Duration) -> Result<Visits> {
    let begin = Instant::now();
    let clients: Result<Vec<(u64, Vec<Duration>)>> = thread::scope(|scope| {
        let clients: Vec<_> =
            (0..CLIENTS).map(|_| scope.spawn(|| fetch_until(host, address, begin + duration))).collect();
        clients
            .into_iter()
            .map(|client| client.join().unwrap_or_else(|_| bail!("a client panicked")))
            .collect()
    });
    let elapsed = begin.elapsed();
    let (pages, latencies): (Vec<u64>, Vec<Vec<Duration>>) = clients?.into_iter().unzip();
    Ok(Visits { pages: pages.iter().sum(), elapsed, latencies: latencies.concat() })
}

fn fetch_until(host: &Namespace, address: SocketAddr, end: Instant) -> Result<(u64, Vec<Duration>)> {
    host.enter()?;
    let (mut pages, mut latencies) = (0, Vec::new());
    loop {
        let begin = Instant::now();
        if begin >= end {
            return Ok((pages, latencies));
        }
        pages += u64::from(fetch(address, PATIENCE).is_ok());
        latencies.push(begin.elapsed());
    }
}
