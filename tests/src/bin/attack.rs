//! `cargo xtask attack`: searches for an attack that gets through or does harm.

use std::{
    process::ExitCode,
    time::{Duration, Instant},
};

use clap::Parser;
use floodgate_tests::attack::{Finding, search};

/// Draws attacks by chance and plays them against the filter's code, until one gets more through than the limits allow, or harms
/// a visitor who keeps to them.
///
/// What is found is shrunk and printed, with the seed that finds it again.
#[derive(Parser)]
#[command(name = "cargo xtask attack")]
struct Arguments {
    /// How long to search.
    #[arg(long, default_value_t = 1.0)]
    minutes: f64,
    /// Tries what this seed gives, and nothing else.
    #[arg(long)]
    seed: Option<u64>,
}

/// Attacks that a seed gives.
const TRIALS: u32 = 50;

fn main() -> ExitCode {
    let arguments = Arguments::parse();
    let begin = Instant::now();
    let end = Duration::from_secs_f64(60.0 * arguments.minutes.max(0.0));
    let mut seeds = 0;
    loop {
        let seed = arguments.seed.unwrap_or_else(|| fastrand::u64(..1 << 32));
        if let Some(Finding { trial, why }) = search(seed, TRIALS) {
            println!("{trial:#?}\n\n{why}\n\nAgain: cargo xtask attack --seed {seed}");
            return ExitCode::FAILURE;
        }
        seeds += 1;
        if arguments.seed.is_some() || begin.elapsed() >= end {
            println!("{} attacks, and none got through or did harm", seeds * u64::from(TRIALS));
            return ExitCode::SUCCESS;
        }
    }
}
