//! The daemon's log: a dedicated thread writes lines to standard error.
//!
//! Logging only puts a line into a queue. So a reader that has stopped (Ctrl-S) or gone away, or a full disk,
//! neither blocks nor ends anything else. Lines that do not fit into the queue, or cannot be written, are counted,
//! and the count is logged as soon as writing works again. The text of lines is made [`printable`].
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

/// Maximum number of queued lines.
const WAITING: usize = 1024;

/// The longest line, in bytes. A verifier report has a few thousand.
const LONGEST: usize = 16 << 10;

/// How often lost lines are checked for when nothing is logged.
const LOOK: Duration = Duration::from_secs(1);

/// How long the process waits at its end for the queue to be written.
const LAST_LINES: Duration = Duration::from_millis(500);

/// Lines lost since the start.
static LOST: AtomicU64 = AtomicU64::new(0);

/// Queue to the writing thread.
static QUEUE: OnceLock<SyncSender<Order>> = OnceLock::new();

enum Order {
    Line(Box<[u8]>),
    /// Reports when all lines before this have been written.
    Flush(SyncSender<()>),
}

/// Starts the log; `FLOODGATE_LOG=debug` makes it more verbose. Panics are logged as well, because the standard
/// library would write them to standard error itself, and block on that.
pub fn start() {
    let filter = EnvFilter::try_from_env("FLOODGATE_LOG").unwrap_or_else(|_| EnvFilter::new("info"));
    let (queue, orders) = sync_channel(WAITING);
    if QUEUE.set(queue).is_err() {
        return; // already started
    }
    let is_written = thread::Builder::new().name("log".into()).spawn(move || write(&orders, io::stderr()));
    if is_written.is_err() {
        return; // lines fill the queue and count as lost
    }
    // SAFETY: nobody else handles this signal. If the log reaches the file size limit (setrlimit(2)), the write
    // should fail, not end the process.
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

/// Returns how many lines were lost since the start.
pub fn lost() -> u64 {
    LOST.load(Ordering::Relaxed)
}

/// Waits until everything logged so far is written, but not for a reader that has stopped.
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

/// The sink of log lines. Each call of `write` is one line.
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

/// Returns the line, truncated if it is very long.
fn cut(line: &[u8]) -> Vec<u8> {
    let mut line = line.to_vec();
    if line.len() > LONGEST {
        line.truncate(LONGEST);
        line.extend("…\n".as_bytes());
    }
    line
}

/// Writes queued lines until nobody can send any more.
fn write(orders: &Receiver<Order>, mut to: impl Write) {
    let mut said = 0;
    loop {
        let order = orders.recv_timeout(LOOK);
        let missing = lost() - said;
        if missing > 0 && !matches!(order, Err(RecvTimeoutError::Disconnected)) {
            // If this notice cannot be written, it does not count as another lost line.
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
                let _ = done.try_send(()); // the caller may have given up
            }
            Err(RecvTimeoutError::Timeout) => {}
            Err(RecvTimeoutError::Disconnected) => return,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A standard error that fails until told to work.
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
