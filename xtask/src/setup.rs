//! `setup`: from a bare machine to one that builds, tests and shows Floodgate.
//!
//! [`facts`] finds out what is there, [`plan`] determines what is missing and why (pure, and tested for roads that
//! cannot be tried on every machine), and this file carries it out. Some steps can only be planned after others
//! (which LLVM the linker needs is known once the compiler is there), so it gathers facts and plans again until
//! nothing is left.
//!
//! The toolchain that builds for BPF is given the rustup name `floodgate-bpf`; build scripts know no other.

mod facts;
mod plan;

use std::process::ExitCode;

use anyhow::{Result, bail};

use self::plan::{Plan, Road, plan};
pub(crate) use self::{
    facts::Facts,
    plan::{Package, Step, install},
};

/// Maximum rounds of planning and executing. The first updates the package lists, and a bare machine needs three
/// more. If there are more, a step does not do what it claims.
const ROUNDS: usize = 5;

/// How to set up.
#[derive(clap::Args, Default)]
pub(crate) struct Arguments {
    /// Only tells what is missing; exit code 1 if anything is.
    #[arg(long)]
    check: bool,
    /// Which way to the BPF toolchain: the distribution's packages, or a nightly with rust-src by rustup. Without
    /// this, a way that is already complete, then the distribution's where it offers one.
    #[arg(long, value_enum)]
    road: Option<Road>,
}

/// Installs what is missing.
pub(crate) fn run(arguments: &Arguments) -> Result<ExitCode> {
    if arguments.check {
        return check(arguments.road);
    }
    for round in 0..ROUNDS {
        let plan = plan(&Facts::gather(round > 0), arguments.road)?;
        if plan.steps.is_empty() {
            eprintln!("setup: complete ({})", plan.road.describe());
            return Ok(ExitCode::SUCCESS);
        }
        carry_out(&plan.steps)?;
    }
    bail!("something is still missing after {ROUNDS} rounds; `cargo xtask setup --check` tells what")
}

/// The same for tasks that need a complete set-up; silent if it is complete.
pub(crate) fn ensure() -> Result<()> {
    if plan(&Facts::gather(false), None)?.steps.is_empty() {
        return Ok(());
    }
    run(&Arguments::default()).map(|_| ())
}

fn check(road: Option<Road>) -> Result<ExitCode> {
    let Plan { road, steps } = plan(&Facts::gather(false), road)?;
    println!("road to the BPF toolchain: {}", road.describe());
    for step in &steps {
        println!("missing: {}: {}", step.what, step.why);
        println!("         {}", step.command.text());
    }
    if steps.is_empty() {
        println!("nothing is missing");
        return Ok(ExitCode::SUCCESS);
    }
    println!("`cargo xtask setup` does this, and what it shows to be missing next");
    Ok(ExitCode::FAILURE)
}

/// Carries out the steps, printing the name and reason of each first.
pub(crate) fn carry_out(steps: &[Step]) -> Result<()> {
    for step in steps {
        eprintln!("setup: {}: {}", step.what, step.why);
        if let Err(error) = step.command.run() {
            if step.required {
                return Err(error.context(format!("setting up {}", step.what)));
            }
            eprintln!("setup: going on without {}: {error:#}", step.what);
        }
    }
    Ok(())
}
