//! `run`, `demo`, `bench`, `flood`: set up, build in release mode, run, and pass the exit code on.

use std::{
    os::unix::process::{CommandExt, ExitStatusExt},
    process::{ExitCode, Stdio},
};

use anyhow::{Context, Result};

use crate::{
    command::{CommandLine, workspace},
    setup,
};

/// What is handed to the program.
#[derive(clap::Args)]
pub(crate) struct Arguments {
    /// Arguments of the program.
    #[arg(trailing_var_arg = true, allow_hyphen_values = true)]
    pub(crate) arguments: Vec<String>,
}

/// Builds and runs a binary. `floodgate` is built along with every other binary, because the demo starts it.
pub(crate) fn run(package: &str, binary: &str, arguments: &Arguments) -> Result<ExitCode> {
    setup::ensure()?;
    CommandLine::new("cargo build --release --quiet --package flood-userspace --bin floodgate").run()?;
    if binary != "floodgate" {
        CommandLine::new(&format!("cargo build --release --quiet --package {package} --bin {binary}"))
            .run()?;
    }
    let path = workspace().join("target/release").join(binary);
    let mut command = CommandLine::program(&path).args(&arguments.arguments).command();
    command.stdin(Stdio::inherit());
    // Ctrl-C reaches the program as well as this process; the program decides what it means, and this process waits.
    handle_interrupts(libc::SIG_IGN);
    // SAFETY: between fork and exec only a signal disposition is reset, which is allowed there.
    unsafe {
        command.pre_exec(|| {
            handle_interrupts(libc::SIG_DFL);
            Ok(())
        });
    }
    let status = command.status().with_context(|| format!("starting {}", path.display()))?;
    let code = status.code().or_else(|| status.signal().map(|signal| 128 + signal)).unwrap_or(1);
    Ok(ExitCode::from(u8::try_from(code).unwrap_or(1)))
}

fn handle_interrupts(handler: libc::sighandler_t) {
    // SAFETY: neither of the two handlers is code.
    unsafe { libc::signal(libc::SIGINT, handler) };
}
