//! Signals. They are caught before anything else is done, because until then each of them ends the process.

use tokio::signal::unix::{Signal, SignalKind, signal};

use super::DaemonError;

/// The signals that the daemon handles.
pub struct Signals {
    /// SIGHUP: read the configuration again.
    pub(super) hangup: Signal,
    pub(super) end: End,
}

/// The signals that end the daemon.
pub(super) struct End {
    interrupt: Signal,
    terminate: Signal,
}

impl Signals {
    /// Starts catching the signals. Needs a runtime.
    pub fn catch() -> Result<Self, DaemonError> {
        let catch =
            |kind| signal(kind).map_err(|source| DaemonError::System { what: "catching signals", source });
        // Whoever sends one of these means another program, or rotates a log; nobody wants the filter to end.
        for other in [SignalKind::user_defined1(), SignalKind::user_defined2()] {
            drop(catch(other)?); // once caught, a signal never ends the process again
        }
        Ok(Self {
            hangup: catch(SignalKind::hangup())?,
            end: End {
                interrupt: catch(SignalKind::interrupt())?,
                terminate: catch(SignalKind::terminate())?,
            },
        })
    }
}

impl End {
    /// Waits for one of them, and returns its name.
    pub(super) async fn wait(&mut self) -> &'static str {
        tokio::select! {
            _ = self.interrupt.recv() => "SIGINT",
            _ = self.terminate.recv() => "SIGTERM",
        }
    }
}
