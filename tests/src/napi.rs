//! The threads that receive an interface's packets: its kernel threads (threaded NAPI), on a processor of our choice,
//! so that their time can be measured separately.
//!
//! The kernel reports which threads these are (netdev netlink, Linux 6.8), so that those of another interface of the
//! same name are never mistaken for them.

use std::time::Duration;

use anyhow::{Context, Result, ensure};
use flood_userspace::bpf::features::receiving_threads;

use crate::{
    processor::{Place, cpu_time, let_go_first, pin_thread},
    sysfs::Device,
};

/// The file that says whether an interface has such threads.
const THREADED: &str = "threaded";

/// Receives packets in dedicated threads on one processor, until dropped. Then everything is restored.
#[derive(Debug)]
pub struct Receiver {
    device: Device,
    /// Whether the interface had such threads before.
    before: String,
    /// The threads, with their previous affinity and scheduling.
    threads: Vec<(u32, Place)>,
}

impl Receiver {
    /// Sets up the threads of an interface of this thread's namespace, by name and index.
    ///
    /// # Errors
    /// If the kernel has no threaded NAPI, or does not report which threads are the interface's.
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

    /// Gives its threads priority over all others, like a card's interrupts: other work at the same time affects
    /// packets only through the caches. Not for long: little else runs on their processor while packets arrive.
    pub fn go_first(&self) -> Result<()> {
        self.threads.iter().try_for_each(|(thread, _)| let_go_first(*thread))
    }

    /// Returns how long its threads have run so far.
    pub fn busy(&self) -> Result<Duration> {
        self.threads.iter().map(|(thread, _)| cpu_time(*thread)).sum()
    }
}

impl Drop for Receiver {
    fn drop(&mut self) {
        // An error means that the interface is gone. Some kernels keep the threads.
        for (thread, place) in &self.threads {
            let _ = place.take(*thread);
        }
        let _ = self.device.write(THREADED, &self.before);
    }
}

/// Returns whether an interface of this thread's namespace has dedicated threads.
pub fn is_threaded(interface: &str) -> Result<bool> {
    Ok(Device::here(interface)?.read(THREADED)? != "0")
}
