//! Who takes in what comes to an interface: its kernel threads (threaded NAPI), on a processor of our choice, so that their
//! time is told from everybody else's.
//!
//! The kernel says which threads these are (netdev netlink, Linux 6.8), so that those of another interface of the same name
//! are never taken for them.

use std::time::Duration;

use anyhow::{Context, Result, ensure};
use flood_userspace::bpf::features::receiving_threads;

use crate::{
    processor::{Place, cpu_time, let_go_first, pin_thread},
    sysfs::Device,
};

/// Whether an interface has such threads.
const THREADED: &str = "threaded";

/// What takes packets in, in threads of its own on one processor, for as long as this lives. Then it is as it was.
#[derive(Debug)]
pub struct Receiver {
    device: Device,
    /// Whether it had such threads before.
    before: String,
    /// The threads, and where each ran and when, before.
    threads: Vec<(u32, Place)>,
}

impl Receiver {
    /// Of an interface of this thread's namespace, by name and index.
    ///
    /// # Errors
    /// Where the kernel has no threaded NAPI, or does not say which threads are the interface's.
    pub fn on(interface: &str, index: u32, core: usize) -> Result<Self> {
        let device = Device::here(interface)?;
        let before = device.read(THREADED).with_context(|| format!("{interface} has no threaded NAPI"))?;
        let mut receiver = Self { device, before, threads: Vec::new() };
        receiver.device.write(THREADED, "1").with_context(|| format!("giving {interface} threads"))?;
        let threads =
            receiving_threads(index).context("asking for the threads of an interface (Linux 6.8)")?;
        ensure!(!threads.is_empty(), "{interface} has no threads that take in packets");
        for thread in threads {
            receiver.threads.push((thread, Place::of(thread)?));
            pin_thread(thread, core)?;
        }
        Ok(receiver)
    }

    /// Lets its threads run before all others, as a card's interrupts do: what others do at the same time costs packets nothing but
    /// what is in the caches. Not for long: little else runs on their processor while packets come.
    pub fn go_first(&self) -> Result<()> {
        self.threads.iter().try_for_each(|(thread, _)| let_go_first(*thread))
    }

    /// How long its threads have run so far.
    pub fn busy(&self) -> Result<Duration> {
        self.threads.iter().map(|(thread, _)| cpu_time(*thread)).sum()
    }
}

impl Drop for Receiver {
    fn drop(&mut self) {
        // Where it fails the interface is gone. Some kernels keep the threads.
        for (thread, place) in &self.threads {
            let _ = place.take(*thread);
        }
        let _ = self.device.write(THREADED, &self.before);
    }
}

/// Whether an interface of this thread's namespace has threads of its own.
pub fn is_threaded(interface: &str) -> Result<bool> {
    Ok(Device::here(interface)?.read(THREADED)? != "0")
}
