//! The way of a visitor's packets through the Internet: each is held for a while of random length.
//!
//! Without it a visitor on the same machine is lucky. Its kernel sends a segment again when a timer fires, on a tick of the
//! clock; by the same clock the filter fills up its limits. So what is sent again would always come at the one moment at which
//! the limits have room.
//!
//! The kernel's own means for this, netem, is not in every kernel.

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

/// No packet is held longer: as long as the longest tick of a kernel (100 a second).
pub const LONGEST: Duration = Duration::from_millis(10);

/// How often is looked whether to end.
const LOOK_EVERY: Duration = Duration::from_millis(50);

/// Flows of which the last packet is remembered before those are forgotten that have none left.
const FLOWS: usize = 1_024;

/// Carries frames until it is dropped.
#[derive(Debug)]
pub struct Jitter {
    over: Arc<AtomicBool>,
    carrying: Option<JoinHandle<()>>,
}

impl Jitter {
    /// Carries what comes in on one interface of a namespace to others: `ports` are the last bytes of destination MAC
    /// addresses, and the interfaces behind which these are.
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

/// What packets overtake each other in no real network: those with the same addresses and ports, and fragments with the same
/// addresses.
type Flow = (Address, Address, [u16; 2]);

struct Carrier {
    wire: Wire,
    ports: BTreeMap<u8, u32>,
    /// Frames by when they leave; those that leave at the same time by their number.
    held: BTreeMap<(Instant, u64), Vec<u8>>,
    number: u64,
    /// When the last packet of a flow leaves.
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

/// When a frame that comes now leaves: at random, but not before the last one of its flow.
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
