//! System settings of this process and its threads.

use std::io;

/// Raises the limit of file descriptors as far as possible; returns the limit.
pub fn raise_descriptors() -> io::Result<u64> {
    let mut limit = libc::rlimit { rlim_cur: 0, rlim_max: 0 };
    // SAFETY: the pointer is to a whole rlimit, which the call fills.
    if unsafe { libc::getrlimit(libc::RLIMIT_NOFILE, &raw mut limit) } != 0 {
        return Err(io::Error::last_os_error());
    }
    let most = libc::rlimit { rlim_cur: limit.rlim_max, ..limit };
    // SAFETY: the pointer is to a whole rlimit, which the call reads.
    let is_raised = unsafe { libc::setrlimit(libc::RLIMIT_NOFILE, &raw const most) } == 0;
    Ok(if is_raised { most.rlim_cur } else { limit.rlim_cur })
}

/// Pins this thread to a processor, whose number is less than `CPU_SETSIZE` (1,024).
pub fn pin(processor: usize) -> io::Result<()> {
    // SAFETY: a zeroed set is empty, `CPU_SET` checks that the number is within it, and the call reads no more
    // than its size.
    let result = unsafe {
        let mut set: libc::cpu_set_t = std::mem::zeroed();
        libc::CPU_SET(processor, &mut set);
        libc::sched_setaffinity(0, size_of_val(&set), &raw const set)
    };
    if result == 0 { Ok(()) } else { Err(io::Error::last_os_error()) }
}

/// Pins this thread to the processor that it is running on, and returns its number.
pub fn stay() -> io::Result<usize> {
    // SAFETY: it takes no arguments and has no preconditions.
    let processor = usize::try_from(unsafe { libc::sched_getcpu() }).unwrap_or(0);
    pin(processor).map(|()| processor)
}
