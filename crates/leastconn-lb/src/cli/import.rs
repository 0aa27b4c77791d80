//! `import`: translates the configuration of another program.

mod access;
mod address;
mod addresses;
mod dn;
mod ghostunnel;
mod haproxy;
mod keystore;
mod model;
mod names;
mod networks;
mod nginx;
mod pem;
mod plan;
mod ranges;
mod regex;
mod render;
mod stunnel;
mod tls_names;
pub(super) mod toml;
mod units;
mod values;

use std::{
    collections::HashMap,
    ffi::OsString,
    fs,
    io::{self, Write},
    path::Path,
    process::ExitCode,
    rc::Rc,
};

use clap::{Args, ValueEnum};

use super::{DONE, FAILED, INVALID, fail};
use crate::figures::count;
use model::{Imported, Kind, Note};

#[derive(Debug, Args)]
pub(crate) struct ImportArgs {
    /// The program that the configuration was written for.
    program: Program,
    /// Its configuration file.
    file: OsString,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum Program {
    Haproxy,
    Nginx,
    Stunnel,
    /// A script, unit, Compose file or Kubernetes manifest with ghostunnel's command line.
    Ghostunnel,
}

impl Program {
    const fn name(self) -> &'static str {
        match self {
            Self::Haproxy => "haproxy",
            Self::Nginx => "nginx",
            Self::Stunnel => "stunnel",
            Self::Ghostunnel => "ghostunnel",
        }
    }
}

/// A translated configuration.
#[derive(Debug)]
struct Translation {
    toml: String,
    /// All comments that refer to a line of the source.
    notes: Vec<Note>,
    /// Numbers of listeners, upstreams and client rules.
    counts: [usize; 3],
    /// Names of the listeners that no client may use.
    closed: Vec<String>,
}

/// Prints the translated configuration on standard output and a summary on standard error.
/// Exits with 0 if everything was carried over, with 1 if something was left out, and with 2
/// if the source cannot be read.
pub(crate) fn run(args: &ImportArgs) -> ExitCode {
    let path = Path::new(&args.file);
    let translation = match translate(args.program, path) {
        Ok(translation) => translation,
        Err(error) => return fail(&error, INVALID),
    };
    match io::stdout().write_all(translation.toml.as_bytes()) {
        // `import … | head` is not an error.
        Err(error) if error.kind() != io::ErrorKind::BrokenPipe => return fail(&error, FAILED),
        _ => {}
    }
    let _ = io::stderr().write_all(translation.summary(&path.display().to_string()).as_bytes());
    ExitCode::from(translation.exit_code())
}

fn translate(program: Program, path: &Path) -> Result<Translation, String> {
    let name = path.display().to_string();
    if path.is_dir() {
        return Err(format!(
            "{name} is a directory: name one file, or join its files into one"
        ));
    }
    let text = fs::read(path).map_err(|error| format!("cannot read {name}: {error}"))?;
    let text = String::from_utf8(text).map_err(|_| format!("{name} is not UTF-8 text"))?;
    let file: Rc<str> = path
        .file_name()
        .map_or_else(|| name.clone(), |name| name.to_string_lossy().into_owned())
        .into();
    translate_text(program, &file, &text, path.parent())
}

/// Translates the text of a file in `dir`.
fn translate_text(
    program: Program,
    file: &Rc<str>,
    text: &str,
    dir: Option<&Path>,
) -> Result<Translation, String> {
    let imported = match program {
        Program::Haproxy => haproxy::import(file, text, dir)?,
        Program::Nginx => nginx::import(file, text, dir)?,
        Program::Stunnel => stunnel::import(file, text, dir)?,
        Program::Ghostunnel => ghostunnel::import(file, text)?,
    };
    finish(program, file, imported)
}

/// Plans an imported configuration and renders it.
fn finish(program: Program, file: &str, mut imported: Imported) -> Result<Translation, String> {
    ranges::clamp(&mut imported);
    addresses::remove_invalid(&mut imported);
    let plan = plan::plan(&mut imported)
        .map_err(|access::TooMany| format!("{file}: the access rules have too many cases"))?;
    let head = format!(
        "Translated from {file} by `leastconn-lb import {}`. Comments name the lines of the \
         source that have no equivalent.",
        program.name()
    );
    let (mut toml, notes) = render::render(&head, &imported, &plan);
    let commands = commands(&notes);
    if !commands.is_empty() {
        toml = with_commands(&toml, &commands);
    }
    let listeners = plan.listeners.iter();
    let listeners = listeners.filter(|listener| !listener.service.binds.is_empty());
    let listeners: Vec<_> = listeners.collect();
    if listeners.is_empty() {
        toml.push_str("\n# No listener was translated, so `check` and `run` reject this file.\n");
    }
    let closed = listeners
        .iter()
        .filter(|listener| !listener.service.refused.is_empty())
        .map(|listener| listener.service.name.clone());
    Ok(Translation {
        toml,
        notes,
        closed: closed.collect(),
        counts: [listeners.len(), plan.upstreams.len(), plan.rules.len()],
    })
}

/// Why `check` rejects a configuration.
const NO_LISTENER: &str =
    "no listener was translated, so `check` and `run` reject this configuration";

/// Returns the commands that must run before the configuration can be used.
fn commands(notes: &[Note]) -> Vec<&str> {
    let mut commands: Vec<&str> = Vec::new();
    for command in notes.iter().flat_map(|note| &note.commands) {
        if !commands.contains(&command.as_str()) {
            commands.push(command);
        }
    }
    commands
}

/// Inserts the commands after the first comment of a configuration.
fn with_commands(toml: &str, commands: &[&str]) -> String {
    let (head, rest) = toml.split_once("\n\n").unwrap_or((toml, ""));
    let mut text = format!("{head}\n\n# Run these commands before `check`:\n");
    for command in commands {
        text.push_str(&format!("#   {}\n", toml::clean(command)));
    }
    text.push('\n');
    text.push_str(rest);
    text
}

impl Translation {
    fn exit_code(&self) -> u8 {
        let is_complete = self.left_out() == 0 && self.counts[0] > 0;
        if is_complete { DONE } else { FAILED }
    }

    fn left_out(&self) -> usize {
        let notes = self.notes.iter();
        notes.filter(|note| note.kind != Kind::Remark).count()
    }

    /// Returns the number of each kind of table, and a line for each directive that was left out.
    fn summary(&self, file: &str) -> String {
        let [listeners, upstreams, clients] = self.counts;
        let left_out = self.left_out();
        let mut summary = format!(
            "{file}: {}, {}, {}; left out: {left_out}\n",
            count(listeners, "listener"),
            count(upstreams, "upstream"),
            count(clients, "client rule"),
        );
        let notes = self.notes.iter();
        let mut notes: Vec<_> = notes.filter(|note| note.kind != Kind::Remark).collect();
        notes.sort_by_key(|note| (&note.place.file, note.place.line));
        let mut explained = HashMap::new();
        for note in &notes {
            let place = &note.place;
            let text = toml::shortened(&place.text);
            let reason = toml::shorter(&mut explained, note);
            summary.push_str(&format!(
                "{}:{}: {text}: {reason}\n",
                place.file, place.line
            ));
        }
        if !self.closed.is_empty() {
            summary.push_str(&format!(
                "{file}: no client may use these listeners, see the comments: {}\n",
                self.closed.join(", ")
            ));
        }
        for command in commands(&self.notes) {
            summary.push_str(&format!("{file}: run before `check`: {command}\n"));
        }
        if listeners == 0 {
            let place = notes.first().map(|note| &note.place);
            let place = place.map_or_else(
                || format!("{file}:1"),
                |place| format!("{}:{}", place.file, place.line),
            );
            summary.push_str(&format!("{place}: {NO_LISTENER}\n"));
        }
        summary
    }
}

#[cfg(test)]
mod tests;
