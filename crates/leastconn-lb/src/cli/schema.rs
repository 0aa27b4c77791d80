//! `leastconn-lb schema`: the configuration's JSON schema, for editors.

use std::{
    io::{self, Write},
    process::ExitCode,
};

/// Prints the schema. Ends with 1 if it cannot be written.
pub fn run() -> ExitCode {
    match print(&mut io::stdout().lock()) {
        Ok(()) => ExitCode::SUCCESS,
        // `schema | head` is no failure.
        Err(error) if error.kind() == io::ErrorKind::BrokenPipe => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("error: the schema cannot be written: {error}");
            ExitCode::FAILURE
        }
    }
}

fn print(out: &mut impl Write) -> io::Result<()> {
    serde_json::to_writer_pretty(&mut *out, crate::config::schema())?;
    writeln!(out)
}
