//! Everything that a newcomer or a developer runs: `cargo xtask --help`.
//!
//! One file per task. This crate builds before everything else and on a bare machine, so it depends on no other
//! crate of the workspace.

mod attack;
mod binaries;
mod command;
mod lint;
mod setup;
mod test;
mod vm;

use std::process::ExitCode;

use clap::{Parser, Subcommand};

/// Sets up, tests and shows Floodgate.
#[derive(Parser)]
#[command(name = "cargo xtask", bin_name = "cargo xtask")]
struct Arguments {
    #[command(subcommand)]
    task: Task,
}

#[derive(Subcommand)]
enum Task {
    /// Installs what is missing to build, test and run; each thing is named with its reason first.
    Setup(setup::Arguments),
    /// Shows a flood being dropped while a visitor is served, in network namespaces of its own.
    Demo(binaries::Arguments),
    /// Builds and runs floodgate: `cargo xtask run -- status`.
    Run(binaries::Arguments),
    /// Runs every test that can run here, and lists what was skipped and why.
    Test(test::Arguments),
    /// Runs the kernel and end-to-end suites on the kernels that users run, in virtual machines.
    Vm(vm::Arguments),
    /// Measures what a packet costs, here and in what people would use instead.
    // Its help is the program's own.
    #[command(disable_help_flag = true)]
    Bench(binaries::Arguments),
    /// Sends a flood out of a virtual interface: `cargo xtask flood -- --help`.
    Flood(binaries::Arguments),
    /// Searches for an attack that gets through or does harm: `cargo xtask attack --minutes 60`.
    // Its help is the program's own.
    #[command(disable_help_flag = true)]
    Attack(binaries::Arguments),
    /// Checks format and lints, of the host crates and of the BPF crate.
    Lint,
}

fn main() -> ExitCode {
    let Arguments { task } = Arguments::parse();
    let result = match task {
        Task::Setup(arguments) => setup::run(&arguments),
        Task::Demo(arguments) => binaries::run("floodgate-tests", "demo", &arguments),
        Task::Run(arguments) => binaries::run("flood-userspace", "floodgate", &arguments),
        Task::Test(arguments) => test::run(&arguments),
        Task::Vm(arguments) => vm::run(&arguments),
        Task::Bench(arguments) => binaries::run("floodgate-tests", "bench", &arguments),
        Task::Flood(arguments) => binaries::run("floodgate-tests", "flood", &arguments),
        Task::Attack(arguments) => attack::run(&arguments),
        Task::Lint => lint::run(),
    };
    result.unwrap_or_else(|error| {
        eprintln!("xtask: {error:#}");
        ExitCode::FAILURE
    })
}
