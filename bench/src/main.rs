//! The program `leastconn-bench`.

use std::process::ExitCode;

fn main() -> ExitCode {
    leastconn_bench::main()
}
