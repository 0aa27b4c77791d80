//! `fleet-acl`: the ACL rule of the fleet's user in Valkey or Redis.

use std::{
    io::{self, Write},
    path::PathBuf,
    process::ExitCode,
};

use super::{INVALID, fail, load_configuration};

/// User name in the rule if the configuration contains none.
const DEFAULT_USER: &str = "leastconn";

/// Prints the rule as a line of an ACL file. Exits with 2 if the configuration is invalid or has
/// no `[fleet]`.
pub(super) fn run(path: Option<PathBuf>) -> ExitCode {
    match rule(path) {
        Ok(rule) => {
            // A closed pipe does not change the exit code.
            let _ = writeln!(io::stdout().lock(), "{rule}");
            ExitCode::SUCCESS
        }
        Err(error) => fail(&error, INVALID),
    }
}

fn rule(path: Option<PathBuf>) -> Result<String, String> {
    let (path, config) = load_configuration(path)?;
    let fleet = config
        .fleet
        .ok_or_else(|| format!("{} has no `[fleet]`", path.display()))?;
    let user = fleet.user.as_deref().unwrap_or(DEFAULT_USER);
    let rule = leastconn_fleet::acl_rule(&fleet.name, user);
    Ok(format!("user {rule}"))
}
