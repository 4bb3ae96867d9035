//! Tracing: passes the lines that the kernel logs to the one client that requested them.

use std::sync::{Arc, Mutex, PoisonError};

use aya_log::EbpfLogger;
use bytes::Bytes;
use flood_common::reason::Reason;
use tokio::sync::mpsc;

use crate::{
    bpf::{BpfError, Filter},
    config::CellName,
};

/// Maximum lines queued for a slow client; further ones are dropped, and counted.
const WAITING_LINES: usize = 1_024;

/// Lines logged by the kernel.
#[derive(Clone, Default)]
struct Sink(Arc<Mutex<Vec<String>>>);

impl Sink {
    fn take(&self) -> Vec<String> {
        std::mem::take(&mut *self.0.lock().unwrap_or_else(PoisonError::into_inner))
    }
}

impl log::Log for Sink {
    fn enabled(&self, _: &log::Metadata<'_>) -> bool {
        true
    }

    fn log(&self, record: &log::Record<'_>) {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).push(record.args().to_string());
    }

    fn flush(&self) {}
}

/// The trace log and its reader.
pub(super) struct Trace {
    logger: EbpfLogger<Sink>,
    sink: Sink,
    reader: Option<Reader>,
    /// Counts readers, so that one that leaves late does not end the trace of the next.
    readers: u64,
}

struct Reader {
    number: u64,
    lines: mpsc::Sender<Bytes>,
    /// Lines that were not written, here or in the kernel, when last reported.
    suppressed: u64,
    not_sent: u64,
}

impl Trace {
    pub(super) fn new(filter: &mut Filter) -> Result<Self, BpfError> {
        let sink = Sink::default();
        Ok(Self { logger: filter.take_trace(sink.clone())?, sink, reader: None, readers: 0 })
    }

    /// Returns whether there is a reader.
    pub(super) fn is_on(&self) -> bool {
        self.reader.is_some()
    }

    /// Starts sending lines. `suppressed` is how many the kernel has suppressed so far.
    pub(super) fn start(&mut self, suppressed: u64) -> (u64, mpsc::Receiver<Bytes>) {
        self.logger.flush();
        self.sink.take(); // leftovers of the last reader
        let (sender, lines) = mpsc::channel(WAITING_LINES);
        self.readers += 1;
        self.reader = Some(Reader { number: self.readers, lines: sender, suppressed, not_sent: 0 });
        (self.readers, lines)
    }

    /// Stops sending to this reader; returns false if it is not the current one.
    pub(super) fn stop(&mut self, number: u64) -> bool {
        self.reader.take_if(|reader| reader.number == number).is_some()
    }

    /// Sends the lines logged since the last call.
    pub(super) fn forward(&mut self, monitor: bool, suppressed: u64) {
        self.logger.flush();
        let lines = self.sink.take();
        let Some(reader) = &mut self.reader else { return };
        for line in lines {
            if reader.lines.try_send(readable(&line, monitor).into()).is_err() {
                reader.not_sent += 1;
            }
        }
        let missing = suppressed - reader.suppressed + reader.not_sent;
        if missing > 0 && reader.lines.try_send(format!("({missing} lines left out)\n").into()).is_ok() {
            reader.suppressed = suppressed;
            reader.not_sent = 0;
        }
    }
}

/// Replaces the numbers of the reason and of the cell by verdict, label and limit.
fn readable(line: &str, monitor: bool) -> String {
    let mut words = line.splitn(3, ' ');
    let mut number = || words.next()?.parse().ok();
    let (Some(reason), Some(cell)) = (number().and_then(Reason::from_number), number()) else {
        return format!("{line}\n");
    };
    let rest = words.next().unwrap_or_default();
    let limit = CellName::exceeded(reason, cell).map_or(String::new(), |name| format!(" (limit.{name})"));
    let would = if monitor && reason.verdict() != "pass" { "would " } else { "" };
    format!("{would}{} {}{limit} {rest}\n", reason.verdict(), reason.label())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_line_gets_verdict_and_label() {
        let line = "15 5 198.51.100.2 protocol 1 ports 0 0 length 98";
        let rest = "blocked 198.51.100.2 protocol 1 ports 0 0 length 98\n";
        assert_eq!(readable(line, false), format!("drop {rest}"));
        assert_eq!(readable(line, true), format!("would drop {rest}"));
        let over = "16 5 198.51.100.2 protocol 17 ports 53 40000 length 98";
        assert_eq!(
            readable(over, false),
            "drop source_packets (limit.source.amplification) 198.51.100.2 protocol 17 ports 53 40000 length 98\n"
        );
        assert_eq!(readable("0 0 2001:db8::1 and so on", true), "pass conforming 2001:db8::1 and so on\n");
        assert_eq!(readable("something else", false), "something else\n");
    }
}
