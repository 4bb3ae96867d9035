//! `lint`: format and clippy.

use std::process::ExitCode;

use anyhow::Result;

use crate::{command::CommandLine, setup};

/// Checks everything, and stops at the first failure.
pub(crate) fn run() -> Result<ExitCode> {
    setup::ensure()?;
    CommandLine::new("cargo fmt --all --check").run()?;
    CommandLine::new("cargo clippy --quiet --workspace --exclude flood-ebpf --all-targets -- -D warnings")
        .run()?;
    // Clippy has to come with the compiler that built `core`, and the distribution's compiler for BPF has none. So
    // the BPF crate is checked for the host, where it compiles as well.
    CommandLine::new(
        "cargo clippy --quiet --package flood-ebpf --profile lint-bpf --features lab --bins -- -D warnings",
    )
    .run()?;
    Ok(ExitCode::SUCCESS)
}
