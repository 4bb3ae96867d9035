//! `run`, `demo`, `bench`, `flood`: set up, build in release mode, run, pass the exit code on.

use std::{
    os::unix::process::ExitStatusExt,
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
    arguments: Vec<String>,
}

/// Builds and runs a binary. `floodgate` is built along with every other, as the demo starts it.
pub(crate) fn run(package: &str, binary: &str, arguments: &Arguments) -> Result<ExitCode> {
    setup::ensure()?;
    CommandLine::new("cargo build --release --quiet --package flood-userspace --bin floodgate").run()?;
    if binary != "floodgate" {
        CommandLine::new(&format!("cargo build --release --quiet --package {package} --bin {binary}"))
            .run()?;
    }
    let path = workspace().join("target/release").join(binary);
    let line = CommandLine { environment: Vec::new(), words: vec![path.display().to_string()] };
    // Ctrl-C reaches the program as well as us; the program decides what it means, and we wait for it.
    ignore_interrupts();
    let status = line
        .args(&arguments.arguments)
        .command()
        .stdin(Stdio::inherit())
        .status()
        .with_context(|| format!("starting {}", path.display()))?;
    let code = status.code().or_else(|| status.signal().map(|signal| 128 + signal)).unwrap_or(1);
    Ok(ExitCode::from(u8::try_from(code).unwrap_or(1)))
}

fn ignore_interrupts() {
    // SAFETY: ignoring a signal installs no handler that could do harm. Programs started from here would inherit
    // it, were it not that ours set their own handlers.
    unsafe { libc::signal(libc::SIGINT, libc::SIG_IGN) };
}
