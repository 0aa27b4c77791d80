//! `leastconn-lb schema`: the configuration's JSON schema, for editors, and the
//! description of the admin API, for programs.

use std::{
    io::{self, Write},
    process::ExitCode,
};

use serde::Serialize;

use super::{FAILED, fail};

/// Prints one of them. Ends with 1 if it cannot be written.
pub fn run(api: bool) -> ExitCode {
    let printed = if api {
        print(&leastconn_server::api::openapi::openapi())
    } else {
        print(leastconn_server::config::schema())
    };
    match printed {
        Ok(()) => ExitCode::SUCCESS,
        // `schema | head` is no failure.
        Err(error) if error.kind() == io::ErrorKind::BrokenPipe => ExitCode::SUCCESS,
        Err(error) => fail(&format!("the schema cannot be written: {error}"), FAILED),
    }
}

fn print(document: &impl Serialize) -> io::Result<()> {
    let mut out = io::stdout().lock();
    serde_json::to_writer_pretty(&mut out, document)?;
    writeln!(out)
}
