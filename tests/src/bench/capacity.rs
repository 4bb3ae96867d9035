//! What one processor takes in, behind a filter: one that does nothing else, and one that sends the flood as well; and what a
//! visitor gets meanwhile.
//!
//! The server's end of the cable has threads of its own (threaded NAPI) on one processor, and the flood comes from the other.
//! How long these threads have run, over the packets that they took in, is what a packet costs: the driver, the filter, and
//! giving the memory back. Where the other processor cannot send as much as they take in, they take in smaller batches, and the
//! capacity is what the time for a packet extrapolates to.

use std::{
    sync::atomic::{AtomicBool, Ordering::Relaxed},
    thread,
    time::{Duration, Instant},
};

use anyhow::{Context, Result, bail, ensure};

use crate::{
    flood::Flood,
    lab::Role,
    napi::Receiver,
    processor::{Awake, cpu_time, favour, go_first, kernel_thread, pin},
    programs::Programs,
    visitor::{Visits, visit},
};

use super::{
    measure::thread_time_ns,
    site::{FLOOD_CORE, Site, dropped},
};

/// The processor that takes a flood in and serves pages, but for where one does everything.
pub(super) const RECEIVING_CORE: usize = 1;

/// Up to this share of the flood may reach the network stack of a server whose filter drops all.
pub(super) const LEAK: f64 = 0.001;

/// What is on its way when a flood ends is taken in within this time.
const DRAINING: Duration = Duration::from_millis(2);

/// A flood sends for this share of its time before it is looked at: caches and tables are as in its midst.
const LEAD: f64 = 0.2;

/// A pause between two bursts has room for this many times as long as the last one takes, and for waking up.
const ROOM: f64 = 1.2;
const WAKING: Duration = Duration::from_micros(15);

/// Packets a second that a core sends, about, and how many of them may wait on the cable, which has room for 256: whoever sends
/// something else in between, as the visitor, finds room.
const SENT_PER_S: f64 = 5e6;
const WAITING: f64 = 128.0;

/// How many packets come at once, so that no more of them wait when they are taken in at this rate meanwhile.
fn at_once(taken_in_per_s: f64) -> u64 {
    let left = (1.0 - taken_in_per_s / SENT_PER_S).max(0.1);
    (WAITING / left) as u64
}

/// What was sent and taken in, how long the threads that took it in have run, and how long it lasted.
struct Counted {
    sent: u64,
    received: u64,
    busy: Duration,
    elapsed: Duration,
}

impl Counted {
    /// For so many packets, the threads have run so long.
    fn time_for(&self, packets: f64) -> Duration {
        self.busy.mul_f64(packets / self.received as f64)
    }
}

/// What a core takes in of as much as another one can send.
pub(super) struct Capacity {
    /// Its time for a packet, nanoseconds.
    pub(super) ns: f64,
    /// Million packets a second that were sent,
    pub(super) offered_mpps: f64,
    /// and taken in.
    pub(super) received_mpps: f64,
}

/// What one core has made and taken in.
pub(super) struct Made {
    /// CPU time for each packet taken in, nanoseconds.
    pub(super) ns: f64,
    sent: u64,
    received: u64,
}

/// What a visitor gets during a flood of a fixed rate.
pub(super) struct Visited {
    pub(super) visits: Visits,
    pub(super) offered_mpps: f64,
    pub(super) received_mpps: f64,
}

impl Site {
    /// Gives the server's interface threads on one processor, for as long as what it returns lives.
    pub(super) fn receiver(&self) -> Result<Receiver> {
        let server = self.lab().host(Role::Server);
        let index = server.index("eth0")?;
        server.within(|| Receiver::on("eth0", index, RECEIVING_CORE))
    }

    /// What one core takes in of as many packets as another one can send.
    pub(super) fn capacity(
        &self,
        generator: &mut Programs,
        sources: u64,
        duration: Duration,
    ) -> Result<Capacity> {
        let receiver = self.receiver()?;
        receiver.go_first()?;
        let _awake = Awake::on(RECEIVING_CORE)?;
        let counted = |send: &mut dyn FnMut() -> Result<u64>| -> Result<Counted> {
            let (before, busy, begin) = (self.received()?, receiver.busy()?, Instant::now());
            let sent = send()?;
            let elapsed = begin.elapsed();
            thread::sleep(DRAINING);
            let (received, busy) = (self.received()? - before, receiver.busy()? - busy);
            ensure!(received > 0, "nothing of the flood arrived");
            Ok(Counted { sent, received, busy, elapsed })
        };
        let mut both = None;
        self.take_in(sources, |flood| {
            let flood = flood.duration_of(duration);
            let at_once = counted(&mut || flood.send(generator, || false))?;
            let pause = at_once.time_for(f64::from(Flood::burst()) * ROOM) + WAKING;
            let bursts = counted(&mut || flood.send_in_bursts(generator, pause))?;
            let sums = (at_once.sent + bursts.sent, at_once.received + bursts.received);
            both = Some((at_once, bursts));
            Ok(sums)
        })?;
        let (at_once, bursts) = both.context("nothing was sent")?;
        Ok(Capacity {
            ns: bursts.time_for(1.0).as_secs_f64() * 1e9,
            offered_mpps: at_once.sent as f64 / at_once.elapsed.as_secs_f64() / 1e6,
            received_mpps: at_once.received as f64 / at_once.elapsed.as_secs_f64() / 1e6,
        })
    }

    /// Nanoseconds of CPU time in which a packet is made and taken in by the same core, of as many as it can.
    pub(super) fn shared_core(
        &self,
        generator: &mut Programs,
        sources: u64,
        duration: Duration,
    ) -> Result<f64> {
        let mut ns = 0.0;
        self.take_in(sources, |flood| {
            let made = self.make_and_take_in(generator, &flood.duration_of(duration))?;
            ns = made.ns;
            Ok((made.sent, made.received))
        })?;
        Ok(ns)
    }

    /// The same for this flood, whatever becomes of it. From the switch, on the processor that makes it.
    pub(super) fn make_and_take_in(&self, generator: &mut Programs, flood: &Flood) -> Result<Made> {
        // The kernel has its own thread take in what has been on a processor for too long.
        let helper = kernel_thread(&format!("ksoftirqd/{FLOOD_CORE}"))?;
        flood.duration_of(flood.duration.mul_f64(LEAD)).send(generator, || false)?;
        let (before, helped, counted) = (thread_time_ns(), cpu_time(helper)?, self.received()?);
        let sent = flood.send(generator, || false)?;
        let busy_ns = thread_time_ns() - before;
        thread::sleep(DRAINING);
        let helped = cpu_time(helper)? - helped;
        let received = self.received()? - counted;
        ensure!(received > 0, "nothing of the flood arrived");
        let ns = (busy_ns + helped.as_nanos() as f64) / received as f64;
        Ok(Made { ns, sent, received })
    }

    /// Sends a flood of a number of sources from one processor, as `send` does, which counts what was sent and taken in. A figure
    /// counts only if something was, and nothing of it reached the network stack of a server whose filter drops it.
    fn take_in(
        &self,
        sources: u64,
        send: impl FnOnce(Flood) -> Result<(u64, u64)> + Send,
    ) -> Result<(u64, u64)> {
        let flood = self.flood(&dropped(), sources, None)?;
        let before = self.leaked()?;
        let (sent, received) = self.lab().switch().within(|| {
            pin(FLOOD_CORE)?;
            go_first()?;
            send(flood)
        })?;
        let leaked = (self.leaked()? - before) as f64 / received.max(1) as f64;
        let filter = self.guard().label();
        ensure!(received > 0, "{filter}: nothing of the flood arrived");
        ensure!(leaked <= LEAK, "{filter}: {leaked:.3} of the flood reached the network stack");
        Ok((sent, received))
    }

    /// Packets that the server's interface has taken in, those included that a filter dropped.
    fn received(&self) -> Result<u64> {
        self.lab().host(Role::Server).packets_received("eth0")
    }

    /// Packets that have passed a filter that drops them all, as far as the network stack can tell; 0 where there is none.
    fn leaked(&self) -> Result<u64> {
        let server = self.lab().host(Role::Server);
        match self.guard() {
            super::Guard::Nothing => Ok(0),
            guard if guard.is_in_stack() => server.datagrams_without_port(),
            _ => server.packets_for_stack(),
        }
    }

    /// What the visitor gets, whose server has what the receiving core has left, during a flood of so many packets a second, of so
    /// many that the core can take in, or of none. Visitor and flood share a processor, on which the visitor goes first.
    pub(super) fn visit_during(
        &self,
        generator: &mut Programs,
        sources: u64,
        (rate, capacity): (u64, f64),
        duration: Duration,
    ) -> Result<Visited> {
        let receiver = self.receiver()?;
        receiver.go_first()?;
        let flood = self.flood(&dropped(), sources, Some(rate))?;
        let over = AtomicBool::new(rate == 0);
        let (counted, begin) = (self.received()?, Instant::now());
        let (visits, sent) = thread::scope(|scope| -> Result<(Visits, u64)> {
            let flooding = scope.spawn(|| {
                self.lab().switch().within(|| {
                    pin(FLOOD_CORE)?;
                    favour(0)?;
                    if rate == 0 {
                        Ok(0)
                    } else {
                        flood.send_evenly(generator, at_once(capacity), || over.load(Relaxed))
                    }
                })
            });
            let visiting = scope.spawn(|| {
                // Who visits inherits both.
                pin(FLOOD_CORE)?;
                go_first()?;
                visit(self.lab().host(Role::Visitor), Self::pages(), duration)
            });
            let visits = visiting.join().unwrap_or_else(|_| bail!("the visitor panicked"));
            over.store(true, Relaxed);
            let sent = flooding.join().unwrap_or_else(|_| bail!("the attacker panicked"))?;
            Ok((visits?, sent))
        })?;
        let elapsed = begin.elapsed().as_secs_f64();
        let received = self.received()? - counted;
        let per_s = |packets: u64| packets as f64 / elapsed / 1e6;
        let offered_mpps = per_s(sent);
        // Without a flood, what there is comes from the visitor.
        let received_mpps = if rate == 0 { 0.0 } else { per_s(received) };
        Ok(Visited { visits, offered_mpps, received_mpps })
    }
}
