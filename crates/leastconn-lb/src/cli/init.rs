//! `init`: writes a first configuration with certificates.

mod answers;
mod files;
#[cfg(test)]
mod tests;

use std::{
    io::{self, IsTerminal, Write},
    path::PathBuf,
    process::ExitCode,
};

use self::answers::Answers;
use super::{DONE, FAILED, INVALID, fail};
use crate::pki::PkiError;

#[derive(Debug, clap::Args)]
pub(super) struct InitArgs {
    /// Address of a server to protect: HOST:PORT, or unix:PATH; can be repeated
    #[arg(long, value_name = "ADDRESS")]
    upstream: Vec<String>,
    /// Where clients connect: NAME:PORT, for which the server certificate is issued, or
    /// IP:PORT. With a name other than localhost, the balancer listens on all addresses
    #[arg(long, value_name = "NAME:PORT")]
    bind: Option<String>,
    /// Name of the first client, the common name of its certificate
    #[arg(long, value_name = "NAME")]
    client: Option<String>,
    /// Directory to write to; created if it does not exist
    #[arg(long, value_name = "DIR", default_value = ".")]
    dir: PathBuf,
    /// Ask nothing: use the defaults for --bind and --client
    #[arg(long, short)]
    yes: bool,
}

/// Asks for what `args` leave out, writes the files and prints the next commands. Exits with
/// 2 if an answer is invalid or missing, and with 1 if the files cannot be written, for
/// example because they exist.
pub(super) fn run(args: &InitArgs) -> ExitCode {
    let given = answers::Given {
        upstream: (!args.upstream.is_empty()).then(|| args.upstream.join(",")),
        bind: args.bind.clone(),
        client: args.client.clone(),
    };
    let ask = !args.yes && io::stdin().is_terminal();
    let answers = if ask {
        answers::ask(&given, &mut io::stdin().lock(), &mut io::stderr().lock())
    } else {
        Answers::without_questions(&given)
    };
    let answers = match answers {
        Ok(answers) => answers,
        Err(error) => return fail(&error, INVALID),
    };
    match files::write(&args.dir, &answers) {
        Ok(written) => {
            // A closed pipe is not an error: the files have been written.
            let _ = io::stdout().lock().write_all(written.as_bytes());
            ExitCode::from(DONE)
        }
        Err(error @ PkiError::Name { .. }) => fail(&error, INVALID),
        Err(error) => fail(&error, FAILED),
    }
}
