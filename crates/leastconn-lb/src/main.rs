//! The program: see the library `leastconn_lb` for the rooms.

use std::process::ExitCode;

fn main() -> ExitCode {
    leastconn_lb::cli::main()
}
