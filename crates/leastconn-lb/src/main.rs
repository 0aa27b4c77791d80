//! The `leastconn-lb` binary; the commands are in the library `leastconn_lb`.

use std::process::ExitCode;

fn main() -> ExitCode {
    leastconn_lb::cli::main()
}
