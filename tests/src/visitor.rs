//! A visitor who fetches page after page, each over a connection of its own, from several threads: a client that is
//! faster than what it visits.

use std::{
    net::SocketAddr,
    thread,
    time::{Duration, Instant},
};

use anyhow::{Result, bail};

use crate::lab::{Namespace, fetch};

/// Pages that are fetched at the same time.
const CLIENTS: usize = 4;

/// Who has no answer after this long gives up. A lost SYN is sent again after one second (RFC 6298).
const PATIENCE: Duration = Duration::from_secs(3);

/// What the visitor got.
#[derive(Clone, Debug)]
pub struct Visits {
    /// Pages.
    pub pages: u64,
    /// How long it lasted.
    pub elapsed: Duration,
    /// How long each page took, or each attempt that failed.
    pub latencies: Vec<Duration>,
}

impl Visits {
    /// Pages a second.
    pub fn rate(&self) -> f64 {
        self.pages as f64 / self.elapsed.as_secs_f64()
    }
}

/// Fetches pages for so long; what has begun by then is still waited for.
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
