//! The program; see the library.

use std::process::ExitCode;

fn main() -> ExitCode {
    leastconn_bench::main()
}
