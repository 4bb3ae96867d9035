//! The path of a visitor's packets through the Internet: each is delayed for a random time.
//!
//! Without it, a visitor on the same machine has an advantage. Its kernel retransmits a segment when a timer fires,
//! on a clock tick, and the filter refills its limits by the same clock. So retransmissions would always arrive at
//! the one moment when the limits have room.
//!
//! The kernel's own facility for this, netem, is not in every kernel.

use std::{
    collections::{BTreeMap, HashMap},
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering::Relaxed},
    },
    thread::{self, JoinHandle},
    time::{Duration, Instant},
};

use anyhow::Result;
use flood_common::{
    address::Address,
    packet::{Packet, Parsed, Part, parse},
    wire::Frame,
};

use crate::{
    lab::Namespace,
    processor::{await_input, go_first},
    wire::Wire,
};

/// Maximum delay of a packet: as long as the longest clock tick of a kernel (100 a second).
pub const LONGEST: Duration = Duration::from_millis(10);

/// How often to check whether to end.
const LOOK_EVERY: Duration = Duration::from_millis(50);

/// Number of flows at which those without delayed packets are forgotten.
const FLOWS: usize = 1_024;

/// Forwards frames until it is dropped.
#[derive(Debug)]
pub struct Jitter {
    over: Arc<AtomicBool>,
    carrying: Option<JoinHandle<()>>,
}

impl Jitter {
    /// Forwards what arrives on one interface of a namespace to others: `ports` maps the last bytes of destination
    /// MAC addresses to the interfaces behind which they are.
    pub fn new(namespace: &Namespace, from: u32, ports: BTreeMap<u8, u32>) -> Result<Self> {
        let wire = namespace.within(|| Wire::to(from))?;
        wire.wait_for_nothing()?;
        let over = Arc::new(AtomicBool::new(false));
        let ends = Arc::clone(&over);
        let carrying = thread::spawn(move || {
            let carried = go_first().and_then(|()| Carrier::new(wire, ports).carry(&ends));
            if let Err(error) = carried {
                eprintln!("the visitor's packets are lost: {error:#}");
            }
        });
        Ok(Self { over, carrying: Some(carrying) })
    }
}

impl Drop for Jitter {
    fn drop(&mut self) {
        self.over.store(true, Relaxed);
        if let Some(carrying) = self.carrying.take() {
            let _ = carrying.join(); // it has said what it had to say
        }
    }
}

/// Packets that do not overtake each other in a real network: those with the same addresses and ports, and fragments
/// with the same addresses.
type Flow = (Address, Address, [u16; 2]);

struct Carrier {
    wire: Wire,
    ports: BTreeMap<u8, u32>,
    /// Frames by departure time, and by number for the same time.
    held: BTreeMap<(Instant, u64), Vec<u8>>,
    number: u64,
    /// Departure time of a flow's last packet.
    last: HashMap<Flow, Instant>,
}

impl Carrier {
    fn new(wire: Wire, ports: BTreeMap<u8, u32>) -> Self {
        Self { wire, ports, held: BTreeMap::new(), number: 0, last: HashMap::new() }
    }

    fn carry(mut self, over: &AtomicBool) -> Result<()> {
        let mut buffer = [0; 2_048];
        while !over.load(Relaxed) {
            let next = self.held.first_key_value().map(|((leaves, _), _)| *leaves);
            let patience = next.map_or(LOOK_EVERY, |leaves| leaves.saturating_duration_since(Instant::now()));
            await_input(&self.wire, patience)?;
            let now = Instant::now();
            while let Ok(frame) = self.wire.receive(&mut buffer) {
                let leaves = leaves(&mut self.last, frame, now);
                self.number += 1;
                self.held.insert((leaves, self.number), frame.to_vec());
            }
            while let Some(first) = self.held.first_entry().filter(|first| first.key().0 <= now) {
                let frame = first.remove();
                if let Some(interface) = frame.get(5).and_then(|byte| self.ports.get(byte)) {
                    let _ = self.wire.send(*interface, &frame); // a cable that is full loses it
                }
            }
        }
        Ok(())
    }
}

/// Returns the departure time of a frame that arrives now: random, but not before the last frame of its flow.
fn leaves(last: &mut HashMap<Flow, Instant>, frame: &[u8], now: Instant) -> Instant {
    let leaves = now + LONGEST.mul_f64(fastrand::f64());
    let Parsed::Packet(Packet { source, destination, ports, part, .. }) = parse(Frame(frame)) else {
        return leaves;
    };
    // Only the first fragment of a datagram has ports.
    let ports = ports.filter(|_| part == Part::Whole);
    if last.len() >= FLOWS {
        last.retain(|_, leaves| *leaves > now);
    }
    let ports = ports.map_or([0; 2], |ports| [ports.source, ports.destination]);
    let last = last.entry((source, destination, ports)).or_insert(leaves);
    *last = leaves.max(*last);
    *last
}
