//! The `bantam` command.

use std::process::ExitCode;

fn main() -> ExitCode {
    bantam::cli::main(bantam::cli::process_start())
}
