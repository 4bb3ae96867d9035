//! `cargo xtask bench`: what a packet costs.

use std::process::ExitCode;

use clap::Parser;
use floodgate_tests::bench::{Effort, run};

/// Measures what a packet costs in the filter, above a bare `XDP_DROP` in the same harness. Needs root; touches no
/// interface.
#[derive(Parser)]
struct Arguments {
    /// One and 16 million sources only, fewer rounds: under a minute.
    #[arg(long)]
    quick: bool,
    /// Prints one JSON object instead of a table.
    #[arg(long)]
    json: bool,
    /// Only these cases or families, as `default` or `ipv4`.
    only: Vec<String>,
}

fn main() -> ExitCode {
    let Arguments { quick, json, only } = Arguments::parse();
    let effort = if quick { Effort::QUICK } else { Effort::FULL };
    let report = run(effort, &only, |figure| eprintln!("measured {figure}"));
    let text =
        report.and_then(|report| if json { Ok(serde_json::to_string(&report)?) } else { Ok(report.table()) });
    match text {
        Ok(text) => {
            println!("{text}");
            ExitCode::SUCCESS
        }
        Err(error) => {
            eprintln!("bench: {error:#}");
            ExitCode::FAILURE
        }
    }
}
