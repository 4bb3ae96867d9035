//! Who takes in what comes to an interface: its kernel threads (threaded NAPI), on a processor of our choice, so that their
//! time is told from everybody else's.
//!
//! The kernel says which threads these are (netdev netlink, Linux 6.8), so that those of another interface of the same name
//! are never taken for them.

use std::{
    fs, io,
    os::fd::{AsRawFd, FromRawFd, OwnedFd},
    path::PathBuf,
    ptr,
    time::Duration,
};

use anyhow::{Context, Result, ensure};
use flood_userspace::bpf::features::receiving_threads;

use crate::processor::{Policy, cpu_time, pin_thread, set_policy};

/// What takes packets in, in threads of its own on one processor, for as long as this lives. Then it is as it was.
#[derive(Debug)]
pub struct Receiver {
    /// Whether the interface has such threads, in the file system of its namespace, which has to stay.
    threaded: PathBuf,
    _sysfs: OwnedFd,
    /// What it said before.
    before: String,
    threads: Vec<u32>,
}

impl Receiver {
    /// Of an interface of this thread's namespace, by name and index.
    ///
    /// # Errors
    /// Where the kernel has no threaded NAPI, or does not say which threads are the interface's.
    pub fn on(interface: &str, index: u32, core: usize) -> Result<Self> {
        let (sysfs, threaded) = threaded(interface)?;
        let before =
            fs::read_to_string(&threaded).with_context(|| format!("{interface} has no threaded NAPI"))?;
        let mut receiver = Self { threaded, _sysfs: sysfs, before, threads: Vec::new() };
        fs::write(&receiver.threaded, "1").with_context(|| format!("giving {interface} threads"))?;
        receiver.threads =
            receiving_threads(index).context("asking for the threads of an interface (Linux 6.8)")?;
        ensure!(!receiver.threads.is_empty(), "{interface} has no threads that take in packets");
        for thread in &receiver.threads {
            pin_thread(*thread, core)?;
        }
        Ok(receiver)
    }

    /// Lets its threads run before all others, as a card's interrupts do: what others do at the same time costs packets nothing but
    /// what is in the caches. Not for long: little else runs on their processor while packets come.
    pub fn go_first(&self) -> Result<()> {
        self.threads.iter().try_for_each(|thread| set_policy(*thread, Policy::First))
    }

    /// How long its threads have run so far.
    pub fn busy(&self) -> Result<Duration> {
        self.threads.iter().map(|thread| cpu_time(*thread)).sum()
    }
}

impl Drop for Receiver {
    fn drop(&mut self) {
        // Where it fails the interface is gone. Some kernels keep the threads.
        for thread in &self.threads {
            let _ = set_policy(*thread, Policy::Usual);
        }
        let _ = fs::write(&self.threaded, self.before.trim());
    }
}

/// Whether an interface of this thread's namespace has threads of its own.
pub fn is_threaded(interface: &str) -> Result<bool> {
    let (_sysfs, threaded) = threaded(interface)?;
    Ok(fs::read_to_string(&threaded)?.trim() != "0")
}

/// The file that says so, for as long as its file system stays.
fn threaded(interface: &str) -> Result<(OwnedFd, PathBuf)> {
    let sysfs = sysfs().context("the file system of this namespace's devices")?;
    let path = format!("/proc/self/fd/{}/class/net/{interface}/threaded", sysfs.as_raw_fd());
    Ok((sysfs, path.into()))
}

/// The file system of the devices of this thread's namespace. What is mounted at `/sys` shows those of who mounted it.
fn sysfs() -> io::Result<OwnedFd> {
    // linux/mount.h.
    const FSOPEN_CLOEXEC: libc::c_uint = 1;
    const FSMOUNT_CLOEXEC: libc::c_uint = 1;
    const FSCONFIG_CMD_CREATE: libc::c_uint = 6;

    let owned = |result: libc::c_long| match libc::c_int::try_from(result) {
        // SAFETY: the kernel has just opened it for us.
        Ok(descriptor) if descriptor >= 0 => Ok(unsafe { OwnedFd::from_raw_fd(descriptor) }),
        _ => Err(io::Error::last_os_error()),
    };
    // SAFETY: a string that ends with a NUL.
    let context = owned(unsafe { libc::syscall(libc::SYS_fsopen, c"sysfs".as_ptr(), FSOPEN_CLOEXEC) })?;
    // SAFETY: this command takes neither key nor value.
    let created = unsafe {
        let none = ptr::null::<libc::c_char>();
        libc::syscall(libc::SYS_fsconfig, context.as_raw_fd(), FSCONFIG_CMD_CREATE, none, none, 0)
    };
    if created != 0 {
        return Err(io::Error::last_os_error());
    }
    // SAFETY: no pointers.
    owned(unsafe { libc::syscall(libc::SYS_fsmount, context.as_raw_fd(), FSMOUNT_CLOEXEC, 0) })
}
