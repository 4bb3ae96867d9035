//! `floodgate`: see [`flood_userspace::cli`].

use std::process::ExitCode;

fn main() -> ExitCode {
    flood_userspace::cli::main()
}
