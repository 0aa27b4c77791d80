//! Problems in a configuration file, shown in the style of rustc: with the line of the problem
//! and with help.

mod render;
mod syntax;

use std::{borrow::Cow, fmt, io::IsTerminal, ops::Range, sync::Arc};

use leastconn_tls::crl::CrlStore;

use crate::text::visible;

/// Maximum number of errors that are shown, and maximum number of warnings. Further errors
/// and warnings are only counted.
pub(crate) const SHOWN: usize = 100;

#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Severity {
    /// The configuration cannot be used.
    Error,
    /// The configuration can be used, but may not have the intended effect.
    Warning,
}

impl Severity {
    const fn as_str(self) -> &'static str {
        match self {
            Self::Error => "error",
            Self::Warning => "warning",
        }
    }
}

/// An error or a warning.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Problem {
    pub severity: Severity,
    /// The message, in one line.
    pub message: String,
    /// Position as byte offsets. `None`: the problem concerns the whole file.
    pub span: Option<Range<usize>>,
    /// The file that has the problem. Set only for text that exists only in memory. Such a problem
    /// has no position.
    pub file: Option<String>,
    /// A second position and its label.
    pub related: Option<(Range<usize>, String)>,
    pub notes: Vec<String>,
    /// Texts that describe how to fix the problem.
    pub helps: Vec<String>,
}

impl Problem {
    pub(crate) fn new(severity: Severity, message: impl Into<String>) -> Self {
        Self {
            severity,
            message: message.into(),
            span: None,
            file: None,
            related: None,
            notes: Vec::new(),
            helps: Vec::new(),
        }
    }

    pub(crate) fn at(&mut self, span: Range<usize>) -> &mut Self {
        self.span = Some(span);
        self
    }

    /// Sets the second position.
    pub(crate) fn related(&mut self, span: Range<usize>, label: impl Into<String>) -> &mut Self {
        self.related = Some((span, label.into()));
        self
    }

    pub(crate) fn note(&mut self, note: impl Into<String>) -> &mut Self {
        self.notes.push(note.into());
        self
    }

    pub(crate) fn help(&mut self, help: impl Into<String>) -> &mut Self {
        self.helps.push(help.into());
        self
    }
}

/// The problems in one file. [`fmt::Display`] shows them without colours.
#[derive(Clone, Debug)]
pub struct Problems {
    name: Arc<str>,
    text: Arc<str>,
    /// The start of each line of `text`.
    line_starts: Arc<[usize]>,
    list: Vec<Problem>,
    /// Severity of problems with expired CAs and CRLs.
    expired: Severity,
    /// The CRLs in force, if a running balancer loads the configuration.
    running_lists: Option<Vec<Arc<CrlStore>>>,
}

impl Problems {
    /// Creates an empty list of problems for the file `name` with the content `text`.
    pub fn new(name: &str, text: &str) -> Self {
        // Editors do not show a byte order mark, and start counting columns after it.
        let first = if text.starts_with('\u{feff}') { 3 } else { 0 };
        Self {
            name: name.into(),
            text: text.into(),
            line_starts: std::iter::once(first)
                .chain(text.match_indices('\n').map(|(newline, _)| newline + 1))
                .collect(),
            list: Vec::new(),
            expired: Severity::Error,
            running_lists: None,
        }
    }

    /// Reports expired CAs and CRLs as warnings.
    pub(crate) fn tolerate_expired(&mut self) {
        self.expired = Severity::Warning;
    }

    /// Sets the CRLs in force, which the CRLs of the loaded configuration will replace.
    pub(crate) fn set_running_lists(&mut self, lists: Vec<Arc<CrlStore>>) {
        self.running_lists = Some(lists);
    }

    /// The CRLs in force, if a running balancer loads the configuration.
    pub(crate) fn running_lists(&self) -> Option<&[Arc<CrlStore>]> {
        self.running_lists.as_deref()
    }

    /// Adds a problem with an expired CA or CRL. It is an error, or a warning after
    /// [`Self::tolerate_expired`].
    pub(crate) fn expired(&mut self, message: impl Into<String>) -> &mut Problem {
        self.add(self.expired, message)
    }

    /// Adds an error. Position, notes and help are set on the returned problem.
    pub(crate) fn error(&mut self, message: impl Into<String>) -> &mut Problem {
        self.add(Severity::Error, message)
    }

    /// Adds a warning. Position, notes and help are set on the returned problem.
    pub(crate) fn warning(&mut self, message: impl Into<String>) -> &mut Problem {
        self.add(Severity::Warning, message)
    }

    pub(crate) fn add(&mut self, severity: Severity, message: impl Into<String>) -> &mut Problem {
        let last = self.list.len();
        self.list.push(Problem::new(severity, message));
        &mut self.list[last]
    }

    /// Sorts by position and removes duplicates. Problems with the whole file come last.
    pub(crate) fn sort(&mut self) {
        self.list.sort_by_key(|problem| match &problem.span {
            Some(span) => (false, span.start, span.end),
            None => (true, 0, 0),
        });
        self.list.dedup();
    }

    /// Replaces each position with the file that `file_at` returns for the position. Use this for a
    /// text that exists only in memory, where users cannot look up positions.
    pub(crate) fn replace_spans_by_files(
        &mut self,
        file_at: impl Fn(&Range<usize>) -> Option<String>,
    ) {
        for problem in &mut self.list {
            problem.file = problem.span.take().and_then(|span| file_at(&span));
        }
    }

    pub fn iter(&self) -> std::slice::Iter<'_, Problem> {
        self.list.iter()
    }

    pub fn is_empty(&self) -> bool {
        self.list.is_empty()
    }

    pub fn errors(&self) -> usize {
        self.count(Severity::Error)
    }

    pub fn warnings(&self) -> usize {
        self.count(Severity::Warning)
    }

    fn count(&self, severity: Severity) -> usize {
        self.list.iter().filter(|p| p.severity == severity).count()
    }

    pub fn name(&self) -> &str {
        &self.name
    }

    /// Formats the number of errors and of warnings, for example "3 errors, 1 warning".
    pub fn summary(&self) -> String {
        let part = |count: usize, one: &str| match count {
            0 => None,
            1 => Some(format!("1 {one}")),
            n => Some(format!("{n} {one}s")),
        };
        let parts: Vec<_> = [
            part(self.errors(), "error"),
            part(self.warnings(), "warning"),
        ]
        .into_iter()
        .flatten()
        .collect();
        if parts.is_empty() {
            "no problems".to_owned()
        } else {
            parts.join(", ")
        }
    }

    /// One line per problem, for logs:
    /// `leastconn.toml:14:1: error: unknown key `wokers`; did you mean `workers`?`
    pub fn lines(&self) -> impl Iterator<Item = String> + '_ {
        self.shown().map(|problem| self.line(&problem))
    }

    /// Like [`Self::lines`], without `warning` or `error`. For logs, which contain the
    /// level in another field.
    pub fn bare_lines(&self) -> impl Iterator<Item = String> + '_ {
        self.shown().map(|problem| self.line_with(&problem, ""))
    }

    /// Like [`Self::lines`], for errors only.
    pub fn error_lines(&self) -> impl Iterator<Item = String> + '_ {
        let errors = self.shown();
        let errors = errors.filter(|problem| problem.severity == Severity::Error);
        errors.map(|problem| self.line(&problem))
    }

    /// The problems to show, followed by the number of further errors and the number of
    /// further warnings.
    fn shown(&self) -> impl Iterator<Item = Cow<'_, Problem>> {
        let (mut errors, mut warnings) = (0, 0);
        let shown = self.list.iter().filter(move |problem| {
            let count = match problem.severity {
                Severity::Error => &mut errors,
                Severity::Warning => &mut warnings,
            };
            *count += 1;
            *count <= SHOWN
        });
        let more = |severity: Severity| {
            let more = self.count(severity).saturating_sub(SHOWN);
            let plural = if more == 1 { "" } else { "s" };
            let message = format!("{more} more {}{plural}, not shown", severity.as_str());
            (more > 0).then(|| Cow::Owned(Problem::new(severity, message)))
        };
        let more = [Severity::Error, Severity::Warning]
            .into_iter()
            .filter_map(more);
        shown.map(Cow::Borrowed).chain(more)
    }

    /// Whether further problems are probably not shown, because there are too many. Callers
    /// then omit help that is expensive to compute.
    pub(crate) fn are_many(&self) -> bool {
        self.list.len() > SHOWN
    }

    fn line(&self, problem: &Problem) -> String {
        self.line_with(problem, &format!("{}: ", problem.severity.as_str()))
    }

    fn line_with(&self, problem: &Problem, severity: &str) -> String {
        let mut out = self.name.to_string();
        if let Some(file) = &problem.file {
            out = format!("{file} ({out})");
        } else if let Some(span) = &problem.span {
            let (line, column) = self.position(span.start);
            out.push_str(&format!(":{line}:{column}"));
        }
        out.push_str(&format!(": {severity}{}", problem.message));
        for text in problem.notes.iter().chain(&problem.helps) {
            out.push_str("; ");
            out.push_str(text);
        }
        visible(&out)
    }

    /// Line and column of a byte offset, both counted from 1. The column counts characters.
    pub fn position(&self, at: usize) -> (usize, usize) {
        // Move positions in a byte order mark to the start of the first line.
        let at = self.boundary(at).max(self.line_starts[0]);
        let line = self.line_starts.partition_point(|&start| start <= at);
        let start = self.line_starts[line - 1];
        (line, 1 + self.text[start..at].chars().count())
    }

    fn boundary(&self, at: usize) -> usize {
        let mut at = at.min(self.text.len());
        while !self.text.is_char_boundary(at) {
            at -= 1;
        }
        at
    }
}

impl fmt::Display for Problems {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.render(false).trim_end())
    }
}

impl std::error::Error for Problems {}

/// Whether standard error is a terminal and colours are not disabled (`NO_COLOR`).
pub fn stderr_has_colours() -> bool {
    std::env::var_os("NO_COLOR").is_none_or(|value| value.is_empty())
        && std::io::stderr().is_terminal()
}
