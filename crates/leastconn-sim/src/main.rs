//! The program `leastconn-sim`.

use std::process::ExitCode;

fn main() -> ExitCode {
    leastconn_sim::cli::main()
}
