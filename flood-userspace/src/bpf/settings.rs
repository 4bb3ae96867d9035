//! Publishes settings: writes the inactive slot, then switches the index.

use std::{
    ptr,
    sync::atomic::{AtomicU32, Ordering},
    thread,
    time::Duration,
};

use aya::maps::Map;
use flood_common::abi::{self, Settings};

use super::{error::BpfError, mapped::MappedArray};

/// Longer than any packet can spend in the filter; used where the kernel offers no better wait.
const GRACE: Duration = Duration::from_millis(20);

/// The settings map.
pub struct SettingsPage {
    memory: MappedArray,
}

impl SettingsPage {
    pub(super) fn new(map: Map) -> Result<Self, BpfError> {
        Ok(Self { memory: MappedArray::new(abi::map::SETTINGS, map, size_of::<abi::SettingsPage>())? })
    }

    fn page(&self) -> *mut abi::SettingsPage {
        self.memory.start().cast()
    }

    fn active(&self) -> &AtomicU32 {
        // SAFETY: the field lies in the mapping, is aligned, and is only accessed atomically.
        unsafe { AtomicU32::from_ptr(&raw mut (*self.page()).active) }
    }

    /// The settings in force.
    pub fn read(&self) -> Settings {
        let slot = (self.active().load(Ordering::Acquire) & 1) as usize;
        // SAFETY: only `publish` writes slots, and it needs `&mut self`.
        unsafe { ptr::read_volatile(&raw const (*self.page()).slots[slot]) }
    }

    /// Puts `settings` in force as a whole: each packet sees either all of the old or all of the new.
    pub fn publish(&mut self, settings: &Settings) {
        let next = (self.active().load(Ordering::Acquire) & 1) ^ 1;
        // A packet that began before the last publication may still be reading the slot that is written now.
        wait_for_packets_under_way();
        // SAFETY: no packet reads this slot until the index is changed.
        unsafe { ptr::write_volatile(&raw mut (*self.page()).slots[next as usize], *settings) };
        self.active().store(next, Ordering::Release);
    }

    /// Returns what the clock program wrote, or the virtual clock; nanoseconds.
    pub(super) fn clock_ns(&self) -> u64 {
        // SAFETY: the field lies in the mapping and is aligned.
        unsafe { ptr::read_volatile(&raw const (*self.page()).clock_ns) }
    }

    /// Sets the clock of a filter that was loaded with a virtual clock.
    pub(super) fn set_virtual_now_ns(&self, now_ns: u64) {
        // SAFETY: the field lies in the mapping and is aligned; the kernel only reads it.
        unsafe { ptr::write_volatile(&raw mut (*self.page()).clock_ns, now_ns) };
    }
}

/// Waits for an RCU grace period, after which every run of the program that had begun is over (XDP programs run under
/// RCU). `MEMBARRIER_CMD_GLOBAL` waits for one from user space (membarrier(2)).
fn wait_for_packets_under_way() {
    const MEMBARRIER_CMD_GLOBAL: libc::c_long = 1;
    // SAFETY: the command takes no pointers.
    let waited = unsafe { libc::syscall(libc::SYS_membarrier, MEMBARRIER_CMD_GLOBAL, 0, 0) } == 0;
    if !waited {
        thread::sleep(GRACE);
    }
}
