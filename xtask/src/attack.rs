//! `attack`: the search for an attack, as the tests build it, so that CI builds it once.

use std::process::ExitCode;

use anyhow::Result;

use crate::{binaries::Arguments, command::CommandLine, setup};

/// Builds and runs it.
pub(crate) fn run(arguments: &Arguments) -> Result<ExitCode> {
    setup::ensure()?;
    let line = CommandLine::new("cargo run --quiet --package floodgate-tests --bin attack --");
    let status = line.args(&arguments.arguments).status()?;
    Ok(if status.success() { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}
