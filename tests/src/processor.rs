//! Where and when a thread runs.

use std::{
    io,
    os::fd::{AsFd, AsRawFd},
    time::Duration,
};

use anyhow::{Context, Result, ensure};
use flood_userspace::process;

/// Keeps this thread on a processor.
pub fn pin(core: usize) -> Result<()> {
    process::pin(core).with_context(|| format!("pinning to processor {core}"))
}

/// Lets this thread run before all others, as the interrupts of a network card come before what a processor has to do
/// otherwise. It must not have much to do.
pub fn go_first() -> Result<()> {
    let lowest_of_these = libc::sched_param { sched_priority: 1 };
    // SAFETY: the kernel reads the parameter, and no more than its length.
    let result = unsafe { libc::sched_setscheduler(0, libc::SCHED_FIFO, &raw const lowest_of_these) };
    ensure!(result == 0, "going first: {}", io::Error::last_os_error());
    Ok(())
}

/// Waits for something to read, or so long. Not by the time limit of a socket, which ends on a tick of the clock: whoever goes
/// on then is in step with all that ticks.
pub fn await_input(input: &impl AsFd, patience: Duration) -> Result<()> {
    let mut poll = libc::pollfd { fd: input.as_fd().as_raw_fd(), events: libc::POLLIN, revents: 0 };
    let patience = libc::timespec {
        tv_sec: patience.as_secs() as libc::time_t,
        tv_nsec: patience.subsec_nanos().into(),
    };
    // SAFETY: one descriptor that is open, and a time that is read.
    let result = unsafe { libc::ppoll(&raw mut poll, 1, &raw const patience, std::ptr::null()) };
    let error = io::Error::last_os_error();
    ensure!(result >= 0 || error.kind() == io::ErrorKind::Interrupted, "waiting for input: {error}");
    Ok(())
}
