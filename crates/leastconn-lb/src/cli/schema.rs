//! `schema`: the configuration's JSON Schema and the admin API's OpenAPI description.

use std::{
    io::{self, Write},
    process::ExitCode,
};

use serde::Serialize;

use super::{FAILED, fail};

/// Prints the OpenAPI description if `api` is set, otherwise the JSON Schema.
pub fn run(api: bool) -> ExitCode {
    let printed = if api {
        print(&leastconn_server::api::openapi::openapi())
    } else {
        print(leastconn_config::schema())
    };
    match printed {
        Ok(()) => ExitCode::SUCCESS,
        // `schema | head` is not an error.
        Err(error) if error.kind() == io::ErrorKind::BrokenPipe => ExitCode::SUCCESS,
        Err(error) => fail(&format!("cannot write the schema: {error}"), FAILED),
    }
}

fn print(document: &impl Serialize) -> io::Result<()> {
    let mut out = io::stdout().lock();
    serde_json::to_writer_pretty(&mut out, document)?;
    writeln!(out)
}
