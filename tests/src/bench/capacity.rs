//! What one processor receives behind a filter, if it does nothing else and if it also sends the flood; and what a
//! visitor gets meanwhile.
//!
//! The server's end of the veth pair has threads of its own (threaded NAPI) on one processor, and the flood comes
//! from the other. The run time of these threads, divided by the packets that they received, is the cost of a packet:
//! the driver, the filter, and freeing the memory. If the other processor cannot send as much as they can receive,
//! they receive smaller batches, and the capacity is extrapolated from the time per packet.

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

/// The processor that receives a flood and serves pages, unless one processor does everything.
pub(super) const RECEIVING_CORE: usize = 1;

/// Up to this share of the flood may reach the network stack of a server whose filter drops everything.
pub(super) const LEAK: f64 = 0.001;

/// Packets in flight when a flood ends are received within this time.
const DRAINING: Duration = Duration::from_millis(2);

/// A flood sends for this share of its time before measuring starts, so that caches and tables are in their steady
/// state.
const LEAD: f64 = 0.2;

/// A pause between two bursts is this many times as long as the last burst takes, plus the time to wake up.
const ROOM: f64 = 1.2;
const WAKING: Duration = Duration::from_micros(15);

/// Packets a second that a core sends, approximately, and how many of them may wait in the veth queue, which holds
/// 256: so other senders, such as the visitor, find room.
const SENT_PER_S: f64 = 5e6;
const WAITING: f64 = 128.0;

/// Returns how many packets to send at once, so that no more than that wait while they are received at this rate.
fn at_once(taken_in_per_s: f64) -> u64 {
    let left = (1.0 - taken_in_per_s / SENT_PER_S).max(0.1);
    (WAITING / left) as u64
}

/// What was sent and received, how long the receiving threads ran, and how long the flood lasted.
struct Counted {
    sent: u64,
    received: u64,
    busy: Duration,
    elapsed: Duration,
}

impl Counted {
    /// Returns the threads' run time for this many packets.
    fn time_for(&self, packets: f64) -> Duration {
        self.busy.mul_f64(packets / self.received as f64)
    }
}

/// What a core receives when another core sends as much as it can.
pub(super) struct Capacity {
    /// Its time for a packet, nanoseconds.
    pub(super) ns: f64,
    /// Million packets a second that were sent,
    pub(super) offered_mpps: f64,
    /// and received.
    pub(super) received_mpps: f64,
}

/// What one core both sent and received.
pub(super) struct Made {
    /// CPU time for each received packet, nanoseconds.
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
    /// Gives the server's interface threads of its own on one processor, for the lifetime of the result.
    pub(super) fn receiver(&self) -> Result<Receiver> {
        let server = self.lab().host(Role::Server);
        let index = server.index("eth0")?;
        server.within(|| Receiver::on("eth0", index, RECEIVING_CORE))
    }

    /// Measures what one core receives when another core sends as many packets as it can.
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

    /// Measures the CPU time, in nanoseconds, in which one core sends and receives a packet at full load.
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

    /// The same for this flood, whatever the filter does with it. Sent from the switch, on the same processor.
    pub(super) fn make_and_take_in(&self, generator: &mut Programs, flood: &Flood) -> Result<Made> {
        // The kernel's own thread takes over receiving when it has occupied a processor for too long.
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

    /// Sends a flood from a number of sources from one processor, with `send`, and counts what was sent and received.
    /// A figure counts only if packets were received, and none of them reached the network stack of a server whose
    /// filter drops them.
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

    /// Returns the packets that the server's interface has received, including those that a filter dropped.
    fn received(&self) -> Result<u64> {
        self.lab().host(Role::Server).packets_received("eth0")
    }

    /// Returns the packets that passed a filter that drops everything, as seen by the network stack; 0 without such a
    /// filter.
    fn leaked(&self) -> Result<u64> {
        let server = self.lab().host(Role::Server);
        match self.guard() {
            super::Guard::Nothing => Ok(0),
            guard if guard.is_in_stack() => server.datagrams_without_port(),
            _ => server.packets_for_stack(),
        }
    }

    /// Measures what the visitor gets during a flood of this many packets a second, out of the number that the core
    /// can receive, or without a flood. The server uses what the receiving core has left. Visitor and flood share a
    /// processor, on which the visitor has priority.
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
                // The visiting threads inherit both.
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
        // Without a flood, all packets come from the visitor.
        let received_mpps = if rate == 0 { 0.0 } else { per_s(received) };
        Ok(Visited { visits, offered_mpps, received_mpps })
    }
}
