//! The generator: frames with random sources, sent by the kernel itself (live frames of a BPF test run).

use std::{
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

/// Frames per call into the kernel: a call lasts some milliseconds, and then the clock is looked at.
const FRAMES_PER_CALL: u32 = 65_536;

/// Frames that the kernel prepares at once.
const BATCH: u32 = 64;

/// Between two calls of a flood of a fixed rate, so that it comes evenly: at 200,000 frames a second, a hundred at once. Longer
/// pauses would leave the filter's limits time to fill up in between, a tick of the clock or more, and would lose what a cable
/// has no room for, 256 frames.
pub const PAUSE: Duration = Duration::from_micros(500);

/// What to send.
#[derive(Clone, Debug)]
pub struct Flood {
    /// Index of the interface, in the namespace of this thread.
    pub interface: u32,
    /// The frame; its source is overwritten.
    pub frame: Vec<u8>,
    /// What else varies in it.
    pub varied: Vec<Varied>,
    /// Where sources come from.
    pub sources: Sources,
    /// Frames per second, if not as many as possible.
    pub rate: Option<u64>,
    /// When to stop: after this many frames,
    pub count: u64,
    /// or after this long.
    pub duration: Duration,
}

impl Flood {
    /// A frame from the attacker of a lab to its server, from the attacker's own address: without a rate, for a minute.
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

    /// Sends from a host for as long as something is done. Returns what comes of that, and how many frames were sent.
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

    /// Sends until count or duration is reached, or `stop` says so. Returns how many frames were sent.
    pub fn run(&self, stop: impl Fn() -> bool) -> Result<u64> {
        self.send(&mut self.load()?, stop)
    }

    /// Loads what sends, for those who look at the clock from the first frame on.
    pub fn load(&self) -> Result<Programs> {
        let mut programs = Programs::load()?;
        programs.set_sources(self.sources)?;
        programs.set_frame(&self.frame, &self.varied)?;
        programs.attach_nowhere("flood")?;
        Ok(programs)
    }

    /// [`run`](Self::run), with what [`load`](Self::load) gave.
    pub fn send(&self, programs: &mut Programs, stop: impl Fn() -> bool) -> Result<u64> {
        ensure!(is_veth(self.interface)?, "floods are sent out of veth interfaces only");
        let program = programs.program("flood")?;
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
                run_live(program, self.interface, &self.frame, u32::try_from(frames)?)?;
            }
            sent += frames;
        }
        Ok(sent)
    }
}

fn run_live(program: &aya::programs::Xdp, interface: u32, frame: &[u8], repeat: u32) -> Result<()> {
    // struct xdp_md (linux/bpf.h): data, data_end, data_meta, ingress_ifindex, rx_queue_index, egress_ifindex.
    let length = u32::try_from(frame.len())?;
    let context: Vec<u8> = [0, length, 0, interface, 0, 0].into_iter().flat_map(u32::to_ne_bytes).collect();
    let options = TestRunOptions {
        data_in: Some(frame),
        ctx_in: Some(&context),
        repeat,
        attrs: TestRunAttrs::new().xdp_live_frames(BATCH),
        ..TestRunOptions::default()
    };
    program.test_run(options).context("sending live frames")?;
    Ok(())
}

/// Whether an interface of this namespace is one end of a veth pair.
fn is_veth(index: u32) -> Result<bool> {
    let interfaces = flood_userspace::bpf::interface::interfaces()?;
    let interface = interfaces.into_iter().find(|interface| interface.index == index);
    Ok(interface.context("no such interface")?.kind.as_deref() == Some("veth"))
}
