//! How a verb ends when it does not succeed.

use std::{fmt, io, process::ExitCode};

use hyper::StatusCode;

use crate::{
    bpf::BpfError, capture::CaptureError, config::ConfigError, control::client::ClientError,
    daemon::DaemonError, lists::configured::ListError, replay::ReplayError,
};

/// A negative answer.
pub(super) const NO: u8 = 1;
/// Usage or configuration.
pub(super) const USAGE: u8 = 2;
/// No daemon.
pub(super) const UNREACHABLE: u8 = 3;
/// Kernel or permission.
pub(super) const KERNEL: u8 = 4;

/// Why a verb failed, and the exit code that says so.
#[derive(Debug)]
pub(super) struct Failed {
    code: u8,
    message: String,
}

impl Failed {
    pub(super) fn usage(message: String) -> Self {
        Self { code: USAGE, message }
    }

    pub(super) fn code(&self) -> ExitCode {
        ExitCode::from(self.code)
    }
}

impl fmt::Display for Failed {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.message)
    }
}

impl From<ConfigError> for Failed {
    fn from(error: ConfigError) -> Self {
        let cause = std::error::Error::source(&error).map_or(String::new(), |cause| format!(": {cause}"));
        Self::usage(format!("{error}{cause}"))
    }
}

impl From<ListError> for Failed {
    fn from(error: ListError) -> Self {
        Self::usage(error.to_string())
    }
}

impl From<CaptureError> for Failed {
    fn from(error: CaptureError) -> Self {
        Self::usage(error.to_string())
    }
}

impl From<BpfError> for Failed {
    fn from(error: BpfError) -> Self {
        Self { code: if error.is_usage() { USAGE } else { KERNEL }, message: error.to_string() }
    }
}

impl From<ReplayError> for Failed {
    fn from(error: ReplayError) -> Self {
        match error {
            ReplayError::Bpf(error) => error.into(),
            ReplayError::List(error) => error.into(),
            ReplayError::Copy(_) | ReplayError::Feed { .. } => Self::usage(error.to_string()),
        }
    }
}

impl From<DaemonError> for Failed {
    fn from(error: DaemonError) -> Self {
        let code = match error {
            DaemonError::Bpf(error) => return error.into(),
            DaemonError::List(_)
            | DaemonError::NoInterface
            | DaemonError::SocketInUse(_)
            | DaemonError::NoSocket(_)
            | DaemonError::State(_) => USAGE,
            DaemonError::Socket { .. } | DaemonError::Metrics { .. } | DaemonError::System { .. } => KERNEL,
        };
        Self { code, message: error.to_string() }
    }
}

impl From<ClientError> for Failed {
    fn from(error: ClientError) -> Self {
        let code = match &error {
            ClientError::Unreachable { .. } | ClientError::Silent { .. } | ClientError::BrokenOff(_) => {
                UNREACHABLE
            }
            ClientError::NotPermitted { .. } => KERNEL,
            ClientError::TooLarge(_) => USAGE,
            ClientError::Refused { status, .. } => match *status {
                StatusCode::BAD_REQUEST | StatusCode::FORBIDDEN | StatusCode::PAYLOAD_TOO_LARGE => USAGE,
                StatusCode::NOT_FOUND | StatusCode::CONFLICT => NO,
                _ => KERNEL,
            },
        };
        Self { code, message: error.to_string() }
    }
}

impl From<io::Error> for Failed {
    fn from(error: io::Error) -> Self {
        Self { code: KERNEL, message: error.to_string() }
    }
}

impl From<serde_json::Error> for Failed {
    fn from(error: serde_json::Error) -> Self {
        Self { code: KERNEL, message: format!("writing JSON: {error}") }
    }
}
