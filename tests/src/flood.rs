//! The generator: the kernel itself sends frames with random sources (live frames of a BPF test run).

use std::{
    hint,
    net::IpAddr,
    sync::atomic::{AtomicBool, Ordering},
    thread,
    time::{Duration, Instant},
};

use anyhow::{Context, Result, bail, ensure};
use aya::programs::{TestRun, TestRunAttrs, TestRunOptions};

use crate::{
    lab::{Lab, Namespace, Role},
    packet::{ATTACKER, Build, Varied},
    programs::{Programs, Sources},
};

/// Frames per call into the kernel. A call takes some milliseconds; the clock is read between calls.
const FRAMES_PER_CALL: u32 = 65_536;

/// Frames that the kernel prepares at once.
const BATCH: u32 = 64;

/// The same for a flood that another processor receives: as many as fit into the veth queue, and the maximum that the
/// kernel allows. The kernel keeps memory for this number (`pool_size`, net/bpf/test_run.c, Linux 6.18), so that
/// frames are reused when they come back. With fewer, the other processor frees pages, and reads frames while their
/// neighbours are written: at 64 a bare `XDP_DROP` takes 143 ns there and a program that reads one address 249; at
/// 256 they take 54 and 69. On a single processor it makes no difference.
const FAR_BATCH: u32 = 256;

/// The program that sends in bursts, and the bursts per call into the kernel.
const IN_BURSTS: &str = "flood_in_bursts";
const BURSTS_PER_CALL: u32 = 64;

/// Pause between two calls of a flood of a fixed rate, so that it is even: at 200,000 frames a second, a hundred at
/// once. Longer pauses, of a clock tick or more, would let the filter's limits refill in between, and would overflow
/// the veth queue, which holds 256 frames.
pub const PAUSE: Duration = Duration::from_micros(500);

/// What to send.
#[derive(Clone, Debug)]
pub struct Flood {
    /// Index of the interface in this thread's namespace.
    pub interface: u32,
    /// The frame; its source is overwritten.
    pub frame: Vec<u8>,
    /// Other fields that vary in the frame.
    pub varied: Vec<Varied>,
    /// The sources of the frames.
    pub sources: Sources,
    /// Frames per second; otherwise as many as possible.
    pub rate: Option<u64>,
    /// Stops after this many frames,
    pub count: u64,
    /// or after this time.
    pub duration: Duration,
}

impl Flood {
    /// Returns a flood of a frame from a lab's attacker to its server, from the attacker's own address: without a
    /// rate, for a minute.
    pub fn of_attacker(lab: &Lab, build: &Build) -> Result<Self> {
        let IpAddr::V4(source) = ATTACKER else { bail!("{ATTACKER} is no IPv4 address") };
        let mut frame = build.bytes();
        frame[..6].copy_from_slice(&Role::Server.mac());
        Ok(Self {
            interface: lab.host(Role::Attacker).index("eth0")?,
            frame,
            varied: Vec::new(),
            sources: Sources { first: u32::from(source).into(), count: 1, adjacent: true },
            rate: None,
            count: u64::MAX,
            duration: Duration::from_secs(60),
        })
    }

    /// Sends from a host while `work` runs. Returns the result of `work`, and how many frames were sent.
    pub fn during<T>(&self, host: &Namespace, work: impl FnOnce() -> Result<T>) -> Result<(T, u64)> {
        let done = AtomicBool::new(false);
        thread::scope(|scope| {
            let flood = scope.spawn(|| host.within(|| self.run(|| done.load(Ordering::Relaxed))));
            let outcome = work();
            done.store(true, Ordering::Relaxed);
            let sent = flood.join().expect("the flood does not panic");
            Ok((outcome?, sent?))
        })
    }

    /// Sends until the count or duration is reached, or `stop` returns true. Returns how many frames were sent.
    pub fn run(&self, stop: impl Fn() -> bool) -> Result<u64> {
        self.send(&mut self.load()?, stop)
    }

    /// Loads the sending program, for callers that measure time from the first frame on.
    pub fn load(&self) -> Result<Programs> {
        let mut programs = Programs::load()?;
        programs.set_sources(self.sources)?;
        programs.set_frame(&self.frame, &self.varied)?;
        programs.attach_nowhere("flood")?;
        Ok(programs)
    }

    /// The same, also for [`send_in_bursts`](Self::send_in_bursts).
    pub fn load_with_bursts(&self) -> Result<Programs> {
        let mut programs = self.load()?;
        programs.attach_nowhere(IN_BURSTS)?;
        Ok(programs)
    }

    /// The same as [`run`](Self::run), with the programs from [`load`](Self::load).
    pub fn send(&self, programs: &mut Programs, stop: impl Fn() -> bool) -> Result<u64> {
        ensure!(is_veth(self.interface)?, "floods are sent out of veth interfaces only");
        let program = programs.program("flood")?;
        let batch = if self.rate.is_none() { FAR_BATCH } else { BATCH };
        let begin = Instant::now();
        let mut sent = 0;
        while sent < self.count && begin.elapsed() < self.duration && !stop() {
            let mut frames = u64::from(FRAMES_PER_CALL).min(self.count - sent);
            if let Some(rate) = self.rate {
                thread::sleep(PAUSE);
                let due = (begin.elapsed().as_secs_f64() * rate as f64) as u64;
                frames = frames.min(due.saturating_sub(sent));
            }
            if frames > 0 {
                run_live(program, self.interface, &self.frame, u32::try_from(frames)?, batch)?;
            }
            sent += frames;
        }
        Ok(sent)
    }
}

impl Flood {
    /// Returns the same flood with this duration.
    pub fn duration_of(&self, duration: Duration) -> Self {
        Self { duration, ..self.clone() }
    }

    /// Sends like [`send`](Self::send) at a rate, this many frames at once, on a dedicated processor: it does not
    /// sleep. Frames that fall behind schedule are not made up for in a burst.
    pub fn send_evenly(&self, programs: &mut Programs, at_once: u64, stop: impl Fn() -> bool) -> Result<u64> {
        ensure!(is_veth(self.interface)?, "floods are sent out of veth interfaces only");
        let rate = self.rate.context("a flood of a fixed rate")?;
        let program = programs.program("flood")?;
        let begin = Instant::now();
        let (mut sent, mut left_out) = (0, 0);
        while begin.elapsed() < self.duration && !stop() {
            let due = (begin.elapsed().as_secs_f64() * rate as f64) as u64 - left_out;
            let behind = due.saturating_sub(sent);
            if behind < at_once {
                hint::spin_loop();
                continue;
            }
            left_out += behind.saturating_sub(2 * at_once);
            run_live(program, self.interface, &self.frame, u32::try_from(at_once)?, BATCH)?;
            sent += at_once;
        }
        Ok(sent)
    }
}

impl Flood {
    /// Sends like [`send`](Self::send) in bursts, each as large as the veth queue, with a pause before each. If the
    /// pause is long enough for another processor to have received the last burst, every burst meets the same state.
    pub fn send_in_bursts(&self, programs: &mut Programs, pause: Duration) -> Result<u64> {
        ensure!(is_veth(self.interface)?, "floods are sent out of veth interfaces only");
        programs.set_bursts(u64::try_from(pause.as_nanos())?, FAR_BATCH)?;
        let program = programs.program(IN_BURSTS)?;
        let begin = Instant::now();
        let mut sent = 0;
        while begin.elapsed() < self.duration {
            run_live(program, self.interface, &self.frame, BURSTS_PER_CALL * FAR_BATCH, FAR_BATCH)?;
            sent += u64::from(BURSTS_PER_CALL * FAR_BATCH);
        }
        Ok(sent)
    }

    /// Returns the number of frames in such a burst.
    pub fn burst() -> u32 {
        FAR_BATCH
    }
}

fn run_live(
    program: &aya::programs::Xdp,
    interface: u32,
    frame: &[u8],
    repeat: u32,
    batch: u32,
) -> Result<()> {
    // struct xdp_md (linux/bpf.h): data, data_end, data_meta, ingress_ifindex, rx_queue_index, egress_ifindex.
    let length = u32::try_from(frame.len())?;
    let context: Vec<u8> = [0, length, 0, interface, 0, 0].into_iter().flat_map(u32::to_ne_bytes).collect();
    let options = TestRunOptions {
        data_in: Some(frame),
        ctx_in: Some(&context),
        repeat,
        attrs: TestRunAttrs::new().xdp_live_frames(batch),
        ..TestRunOptions::default()
    };
    program.test_run(options).context("sending live frames")?;
    Ok(())
}

/// Returns whether an interface of this namespace is one end of a veth pair.
fn is_veth(index: u32) -> Result<bool> {
    let interfaces = flood_userspace::bpf::interface::interfaces()?;
    let interface = interfaces.into_iter().find(|interface| interface.index == index);
    Ok(interface.context("no such interface")?.kind.as_deref() == Some("veth"))
}
