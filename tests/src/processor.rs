//! Which processor a thread runs on, and with which priority.

use std::{
    fs, hint, io,
    os::fd::{AsFd, AsRawFd},
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering::Relaxed},
        mpsc,
    },
    thread::{self, JoinHandle},
    time::Duration,
};

use anyhow::{Context, Result, bail, ensure};
use flood_userspace::process;

/// Pins this thread to a processor.
pub fn pin(core: usize) -> Result<()> {
    process::pin(core).with_context(|| format!("pinning to processor {core}"))
}

/// Pins another thread, which may be a kernel thread, to a processor, by its number.
pub fn pin_thread(thread: u32, core: usize) -> Result<()> {
    let thread = libc::pid_t::try_from(thread)?;
    // SAFETY: a zeroed set is empty, `CPU_SET` checks that the number is within it, and the call reads no more than
    // its size.
    let result = unsafe {
        let mut set: libc::cpu_set_t = std::mem::zeroed();
        libc::CPU_SET(core, &mut set);
        libc::sched_setaffinity(thread, size_of_val(&set), &raw const set)
    };
    ensure!(result == 0, "pinning {thread} to processor {core}: {}", io::Error::last_os_error());
    Ok(())
}

/// Affinity and scheduling policy of a thread.
#[derive(Clone, Copy, Debug)]
pub struct Place {
    processors: libc::cpu_set_t,
    policy: libc::c_int,
    parameter: libc::sched_param,
}

impl Place {
    /// Reads those of a thread, which may be a kernel thread.
    pub fn of(thread: u32) -> Result<Self> {
        let thread = libc::pid_t::try_from(thread)?;
        let mut parameter = libc::sched_param { sched_priority: 0 };
        // SAFETY: a zeroed set is empty, and the calls write no more than the sizes of what they are given.
        unsafe {
            let mut processors: libc::cpu_set_t = std::mem::zeroed();
            let policy = libc::sched_getscheduler(thread);
            let results = [
                policy,
                libc::sched_getparam(thread, &raw mut parameter),
                libc::sched_getaffinity(thread, size_of_val(&processors), &raw mut processors),
            ];
            let are_known = results.iter().all(|result| *result >= 0);
            ensure!(are_known, "asking where {thread} runs: {}", io::Error::last_os_error());
            Ok(Self { processors, policy, parameter })
        }
    }

    /// Applies them to a thread.
    pub fn take(&self, thread: u32) -> Result<()> {
        let thread = libc::pid_t::try_from(thread)?;
        let Self { processors, policy, parameter } = self;
        // SAFETY: the calls read no more than the sizes of what they are given.
        let results = unsafe {
            [
                libc::sched_setscheduler(thread, *policy, parameter),
                libc::sched_setaffinity(thread, size_of_val(processors), processors),
            ]
        };
        ensure!(results == [0, 0], "putting {thread} back: {}", io::Error::last_os_error());
        Ok(())
    }
}

/// Returns how long a thread has run so far.
pub fn cpu_time(thread: u32) -> Result<Duration> {
    let path = format!("/proc/{thread}/schedstat");
    let text = fs::read_to_string(&path).with_context(|| format!("reading {path}"))?;
    parse_schedstat(&text).with_context(|| format!("{path}: {text:?}"))
}

/// Parses a thread's run time from its `schedstat` (Documentation/scheduler/sched-stats.rst): nanoseconds on a
/// processor, nanoseconds waiting for one, time slices.
pub fn parse_schedstat(text: &str) -> Option<Duration> {
    text.split_whitespace().next()?.parse().ok().map(Duration::from_nanos)
}

/// Returns the kernel thread of this name.
pub fn kernel_thread(name: &str) -> Result<u32> {
    for entry in fs::read_dir("/proc")? {
        let file_name = entry?.file_name();
        let Some(number) = file_name.to_str().and_then(|number| number.parse().ok()) else { continue };
        // A thread that has ended meanwhile has no name.
        let named = fs::read_to_string(format!("/proc/{number}/comm")).unwrap_or_default();
        if named.trim_end() == name {
            return Ok(number);
        }
    }
    bail!("no thread {name}")
}

/// Gives this thread priority over all others, as a network card's interrupts have priority over a processor's other
/// work. The thread must not have much to do.
pub fn go_first() -> Result<()> {
    let_go_first(0)
}

/// The same for another thread; 0 is the current one.
pub fn let_go_first(thread: u32) -> Result<()> {
    let lowest_of_these = libc::sched_param { sched_priority: 1 };
    let thread = libc::pid_t::try_from(thread)?;
    // SAFETY: the kernel reads the parameter, and no more than its length.
    let result = unsafe { libc::sched_setscheduler(thread, libc::SCHED_FIFO, &raw const lowest_of_these) };
    ensure!(result == 0, "setting the turn of a thread: {}", io::Error::last_os_error());
    Ok(())
}

/// Gives a thread, and the threads that it starts from now on, the largest share of a processor that the kernel gives
/// to anything except threads that [go first](go_first); 0 is the current one. Threads with this priority share the
/// processor.
pub fn favour(thread: u32) -> Result<()> {
    const MOST: libc::c_int = -20;

    // SAFETY: no pointers.
    let result = unsafe { libc::setpriority(libc::PRIO_PROCESS, thread, MOST) };
    ensure!(result == 0, "favouring a thread: {}", io::Error::last_os_error());
    Ok(())
}

/// Waits for input, or until the time is up. It does not use a socket timeout, which ends on a clock tick: a thread
/// that continues then is in step with everything else that runs on ticks.
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

/// Keeps a processor from going idle until dropped, so that a thread that wakes up there finds its caches still warm.
/// Its own thread yields to everything else.
pub struct Awake {
    over: Arc<AtomicBool>,
    spinning: Option<JoinHandle<()>>,
}

impl Awake {
    /// Starts on this processor.
    pub fn on(core: usize) -> Result<Self> {
        let over = Arc::new(AtomicBool::new(false));
        let (ends, (ready, is_ready)) = (Arc::clone(&over), mpsc::channel());
        let spinning = thread::spawn(move || {
            let prepared = pin(core).and_then(|()| give_way());
            let goes_on = prepared.is_ok();
            if ready.send(prepared).is_ok() && goes_on {
                while !ends.load(Relaxed) {
                    hint::spin_loop();
                }
            }
        });
        let awake = Self { over, spinning: Some(spinning) };
        is_ready.recv()??;
        Ok(awake)
    }
}

impl Drop for Awake {
    fn drop(&mut self) {
        self.over.store(true, Relaxed);
        if let Some(spinning) = self.spinning.take() {
            let _ = spinning.join(); // it has nothing to say
        }
    }
}

/// Lets this thread run only when the processor would otherwise be idle.
fn give_way() -> Result<()> {
    let none = libc::sched_param { sched_priority: 0 };
    // SAFETY: the kernel reads the parameter, and no more than its length.
    let result = unsafe { libc::sched_setscheduler(0, libc::SCHED_IDLE, &raw const none) };
    ensure!(result == 0, "giving way: {}", io::Error::last_os_error());
    Ok(())
}
