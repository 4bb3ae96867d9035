//! The daemon's log: lines to standard error, by a thread of its own.
//!
//! Whoever logs only puts a line into a queue, so neither a reader who has stopped (Ctrl-S) nor one who is gone, nor a
//! full disk, holds up or ends anything else. Lines that the queue has no room for, or that cannot be written, are
//! counted, and the count is logged as soon as lines can be written again. What lines say is made [`printable`].
//!
//! [`printable`]: crate::printable

use std::{
    io::{self, IsTerminal, Write},
    panic,
    sync::{
        OnceLock,
        atomic::{AtomicU64, Ordering},
        mpsc::{Receiver, RecvTimeoutError, SyncSender, sync_channel},
    },
    thread,
    time::{Duration, Instant},
};

use tracing::error;
use tracing_subscriber::{EnvFilter, fmt::format};

use crate::printable::Lines;

/// How many lines may wait.
const WAITING: usize = 1024;

/// The longest line, in bytes. A verifier's report has a few thousand.
const LONGEST: usize = 16 << 10;

/// How often lost lines are looked for, when nothing is logged.
const LOOK: Duration = Duration::from_secs(1);

/// How long the end of the process waits for what is in the queue.
const LAST_LINES: Duration = Duration::from_millis(500);

/// Lines that were lost since the start.
static LOST: AtomicU64 = AtomicU64::new(0);

/// The way to the thread that writes.
static QUEUE: OnceLock<SyncSender<Order>> = OnceLock::new();

enum Order {
    Line(Box<[u8]>),
    /// Tell when all lines before this have been written.
    Flush(SyncSender<()>),
}

/// Starts the log; `FLOODGATE_LOG=debug` makes it say more. A panic is logged, too, for the standard library would write
/// it to standard error itself and wait for that.
pub fn start() {
    let filter = EnvFilter::try_from_env("FLOODGATE_LOG").unwrap_or_else(|_| EnvFilter::new("info"));
    let (queue, orders) = sync_channel(WAITING);
    if QUEUE.set(queue).is_err() {
        return; // it has been started before
    }
    let is_written = thread::Builder::new().name("log".into()).spawn(move || write(&orders, io::stderr()));
    if is_written.is_err() {
        return; // lines fill the queue and are counted as lost
    }
    // SAFETY: nobody else handles this signal. A log that has reached the limit of a file's size (setrlimit(2)) is a write
    // that fails, and not the end of the process.
    unsafe { libc::signal(libc::SIGXFSZ, libc::SIG_IGN) };
    let fields = format::debug_fn(|to, field, value| match field.name() {
        "message" => write!(to, "{}", Lines { text: format_args!("{value:?}"), indent: "    " }),
        name => write!(to, "{name}={}", Lines { text: format_args!("{value:?}"), indent: "    " }),
    });
    tracing_subscriber::fmt()
        .with_env_filter(filter)
        .with_writer(|| Line)
        .with_ansi(io::stderr().is_terminal())
        .with_target(false)
        .fmt_fields(fields)
        .init();
    panic::set_hook(Box::new(|panic| error!("this should not have happened, please report it: {panic}")));
}

/// How many lines were lost since the start.
pub fn lost() -> u64 {
    LOST.load(Ordering::Relaxed)
}

/// Waits until what has been logged is written, but not for a reader who has stopped.
pub fn flush() {
    let Some(queue) = QUEUE.get() else { return };
    let (done, is_done) = sync_channel(1);
    let end = Instant::now() + LAST_LINES;
    while queue.try_send(Order::Flush(done.clone())).is_err() {
        if Instant::now() >= end {
            return;
        }
        thread::sleep(Duration::from_millis(10));
    }
    let _ = is_done.recv_timeout(end.saturating_duration_since(Instant::now()));
}

/// What a line is written to. Each call of `write` is one line.
struct Line;

impl Write for Line {
    fn write(&mut self, line: &[u8]) -> io::Result<usize> {
        let sent = QUEUE.get().is_some_and(|queue| queue.try_send(Order::Line(cut(line).into())).is_ok());
        if !sent {
            LOST.fetch_add(1, Ordering::Relaxed);
        }
        Ok(line.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

/// The line, or the beginning of a very long one.
fn cut(line: &[u8]) -> Vec<u8> {
    let mut line = line.to_vec();
    if line.len() > LONGEST {
        line.truncate(LONGEST);
        line.extend("…\n".as_bytes());
    }
    line
}

/// Writes what comes, until nobody can send any more.
fn write(orders: &Receiver<Order>, mut to: impl Write) {
    let mut said = 0;
    loop {
        let order = orders.recv_timeout(LOOK);
        let missing = lost() - said;
        if missing > 0 && !matches!(order, Err(RecvTimeoutError::Disconnected)) {
            // A line that cannot be written is not lost a second time.
            if to.write_all(format!("({missing} lines of the log are lost)\n").as_bytes()).is_ok() {
                said += missing;
            }
        }
        match order {
            Ok(Order::Line(line)) => {
                if to.write_all(&line).is_err() {
                    LOST.fetch_add(1, Ordering::Relaxed);
                }
            }
            Ok(Order::Flush(done)) => {
                let _ = done.try_send(()); // who asked may have given up
            }
            Err(RecvTimeoutError::Timeout) => {}
            Err(RecvTimeoutError::Disconnected) => return,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Standard error that fails until it is told to work.
    struct Broken<'a> {
        works: bool,
        written: &'a mut String,
    }

    impl Write for Broken<'_> {
        fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
            let text = String::from_utf8_lossy(bytes);
            self.works |= text.contains("works again");
            if !self.works {
                return Err(io::ErrorKind::StorageFull.into());
            }
            self.written.push_str(&text);
            Ok(bytes.len())
        }

        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }

    #[test]
    fn lines_that_cannot_be_written_are_counted_and_the_count_is_said() {
        let (queue, orders) = sync_channel(8);
        for line in ["one\n", "two\n", "it works again\n", "three\n"] {
            queue.send(Order::Line(line.as_bytes().into())).unwrap();
        }
        drop(queue);
        let mut written = String::new();
        write(&orders, Broken { works: false, written: &mut written });
        assert_eq!(written, "it works again\n(2 lines of the log are lost)\nthree\n");
    }

    #[test]
    fn a_very_long_line_is_cut() {
        let line = cut(&[b'x'; 3 * LONGEST]);
        assert!(line.len() < LONGEST + 8 && line.ends_with("…\n".as_bytes()));
    }
}
