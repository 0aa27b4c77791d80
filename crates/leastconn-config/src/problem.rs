//! Problems in a configuration file, and their presentation in the style of rustc: the
//! line and what to do.

use std::{borrow::Cow, fmt, io::IsTerminal, ops::Range, sync::Arc};

use annotate_snippets::{AnnotationKind, Group, Level, Origin, Renderer, Snippet};

use leastconn_tls::crl::CrlStore;

use crate::text::{is_hidden, visible};

/// Maximum number of errors, and of warnings, that are shown. Of the rest only the number
/// is shown.
pub(crate) const SHOWN: usize = 100;

#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Severity {
    /// The configuration cannot be used.
    Error,
    /// The configuration can be used, but may not be what was intended.
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
    /// One line.
    pub message: String,
    /// Byte offsets. `None`: the whole file.
    pub span: Option<Range<usize>>,
    /// The file that has the problem, if the text exists in memory only.
    pub file: Option<String>,
    /// A second position and its label.
    pub related: Option<(Range<usize>, String)>,
    /// Explanations.
    pub notes: Vec<String>,
    /// What to do.
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

    /// Sets the position.
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

/// The problems of one file. [`fmt::Display`] shows them without colours.
#[derive(Clone, Debug)]
pub struct Problems {
    name: Arc<str>,
    text: Arc<str>,
    /// The start of each line of `text`.
    line_starts: Arc<[usize]>,
    list: Vec<Problem>,
    /// The severity of expired CAs and CRLs.
    expired: Severity,
    /// The CRLs in force, if a running balancer loads the configuration.
    running_lists: Option<Vec<Arc<CrlStore>>>,
}

impl Problems {
    /// No problems yet, in a file `name` with the content `text`.
    pub fn new(name: &str, text: &str) -> Self {
        // Editors do not show a byte order mark, and count columns after it.
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

    /// Sets the CRLs in force, which the loaded ones will replace.
    pub(crate) fn set_running_lists(&mut self, lists: Vec<Arc<CrlStore>>) {
        self.running_lists = Some(lists);
    }

    /// The CRLs in force, if a running balancer loads the configuration.
    pub(crate) fn running_lists(&self) -> Option<&[Arc<CrlStore>]> {
        self.running_lists.as_deref()
    }

    /// Adds a problem with an expired CA or CRL: an error, unless
    /// [tolerated](Self::tolerate_expired).
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

    /// Adds syntax errors: only the first of each line, because later ones are usually its
    /// consequences, and a limited number of them, because the file may not be TOML at all.
    pub(crate) fn syntax(&mut self, errors: &[toml::de::Error]) {
        const MAX_ERRORS: usize = 20;
        if let Some(other) = other_syntax(&self.text) {
            self.error(format!("this looks like {other}; the file must be TOML"))
                .help("tables are written `[process]` and `[[listener]]`, values `key = \"text\"`");
            return;
        }
        let mut last = None;
        for error in errors {
            if self.list.len() >= MAX_ERRORS {
                self.error("further syntax errors are not shown");
                return;
            }
            let Some(span) = error.span() else {
                self.error(error.message());
                continue;
            };
            let start = self.boundary(span.start);
            let same_line = last.is_some_and(|last: usize| {
                !self.text[last.min(start)..last.max(start)].contains('\n')
            });
            if !same_line {
                let help = syntax_help(line_at(&self.text, start));
                let problem = self.error(error.message()).at(span);
                if let Some(help) = help {
                    problem.help(help);
                }
            }
            last = Some(start);
        }
    }

    pub(crate) fn add(&mut self, severity: Severity, message: impl Into<String>) -> &mut Problem {
        let last = self.list.len();
        self.list.push(Problem::new(severity, message));
        &mut self.list[last]
    }

    /// Sorts by position and removes duplicates. Problems of the whole file come last.
    pub(crate) fn sort(&mut self) {
        self.list.sort_by_key(|problem| match &problem.span {
            Some(span) => (false, span.start, span.end),
            None => (true, 0, 0),
        });
        self.list.dedup();
    }

    /// Replaces positions by the file that `file_at` returns for them. For text that exists
    /// in memory only, where positions mean nothing to a reader.
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

    /// The number of errors.
    pub fn errors(&self) -> usize {
        self.count(Severity::Error)
    }

    /// The number of warnings.
    pub fn warnings(&self) -> usize {
        self.count(Severity::Warning)
    }

    fn count(&self, severity: Severity) -> usize {
        self.list.iter().filter(|p| p.severity == severity).count()
    }

    /// The name of the file.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// For example "3 errors, 1 warning".
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

    /// Renders the problems with their lines, for a terminal. At most [`SHOWN`] errors and
    /// warnings are included.
    pub fn render(&self, colours: bool) -> String {
        let renderer = if colours {
            Renderer::styled()
        } else {
            Renderer::plain()
        };
        let mut out = String::new();
        for problem in self.shown() {
            out.push_str(&self.render_one(&renderer, &problem));
            out.push_str("\n\n");
        }
        out
    }

    /// One line per problem, for logs:
    /// `leastconn.toml:14:1: error: unknown key `wokers`; did you mean `workers`?`
    pub fn lines(&self) -> impl Iterator<Item = String> + '_ {
        self.shown().map(|problem| self.line(&problem))
    }

    /// Like [`Self::lines`], without `warning` or `error`: for logs that contain the level.
    pub fn bare_lines(&self) -> impl Iterator<Item = String> + '_ {
        self.shown().map(|problem| self.line_with(&problem, ""))
    }

    /// Like [`Self::lines`], for errors only.
    pub fn error_lines(&self) -> impl Iterator<Item = String> + '_ {
        let errors = self.shown();
        let errors = errors.filter(|problem| problem.severity == Severity::Error);
        errors.map(|problem| self.line(&problem))
    }

    /// The problems to show, followed by the numbers of further ones.
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

    /// Whether further problems are probably not shown, so that costly help can be omitted.
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

    /// Line and column of a byte offset, both from 1. The column counts characters.
    pub fn position(&self, at: usize) -> (usize, usize) {
        // A byte order mark precedes the first line: move to the start of the line.
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

    /// The part of a span that is on its first line. Tables span many lines, and the first
    /// is sufficient.
    fn first_line(&self, span: &Range<usize>) -> Range<usize> {
        let start = self.boundary(span.start);
        let end = self.boundary(span.end).max(start);
        let end = self.text[start..end]
            .find(['\n', '\r'])
            .map_or(end, |newline| start + newline);
        start..end
    }

    fn render_one(&self, renderer: &Renderer, problem: &Problem) -> String {
        let level = match problem.severity {
            Severity::Error => Level::ERROR,
            Severity::Warning => Level::WARNING,
        };
        let mut group = Group::with_title(level.primary_title(visible(&problem.message)));
        let name = visible(&self.name);
        group = match (&problem.file, &problem.span) {
            (Some(file), _) => {
                let file = visible(file);
                group.element(Origin::path(format!("{file} ({name})")))
            }
            (None, None) => group.element(Origin::path(name)),
            (None, Some(span)) => group.element(self.snippet(name, span, problem.related.as_ref())),
        };
        for note in &problem.notes {
            group = group.element(Level::NOTE.message(visible(note)));
        }
        for help in &problem.helps {
            group = group.element(Level::HELP.message(visible(help)));
        }
        renderer.render(&[group])
    }

    /// Passes only the lines that are shown to the renderer, which scans its whole input for
    /// each problem.
    fn snippet(
        &self,
        name: String,
        span: &Range<usize>,
        related: Option<&(Range<usize>, String)>,
    ) -> Snippet<'_, annotate_snippets::Annotation<'_>> {
        let span = self.first_line(span);
        let related = related.map(|(span, label)| (self.first_line(span), label));
        let first = related
            .as_ref()
            .map_or(span.start, |(other, _)| other.start.min(span.start));
        let last = related
            .as_ref()
            .map_or(span.end, |(other, _)| other.end.max(span.end));
        let start = self.text[..first].rfind('\n');
        let start = start.map_or(self.line_starts[0], |n| n + 1);
        let end = self.text[last..]
            .find('\n')
            .map_or(self.text.len(), |n| last + n);
        let shift =
            |span: Range<usize>| span.start.saturating_sub(start)..span.end.saturating_sub(start);
        let mut snippet = Snippet::source(mask_hidden(&self.text[start..end]))
            .path(name)
            .line_start(self.position(start).0)
            .annotation(AnnotationKind::Primary.span(shift(span)));
        if let Some((span, label)) = related {
            snippet = snippet.annotation(
                AnnotationKind::Context
                    .span(shift(span))
                    .label(visible(label)),
            );
        }
        snippet
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

/// Replaces hidden characters by `?`, so that byte offsets stay the same.
fn mask_hidden(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    for character in text.chars() {
        if is_hidden(character) && !matches!(character, '\t' | '\n' | '\r') {
            out.extend(std::iter::repeat_n('?', character.len_utf8()));
        } else {
            out.push(character);
        }
    }
    out
}

/// The line that contains a byte offset.
fn line_at(text: &str, at: usize) -> &str {
    let before = text.get(..at).and_then(|text| text.rfind('\n'));
    let start = before.map_or(0, |end| end + 1);
    text[start..].lines().next().unwrap_or_default()
}

/// What to do about a line that is not TOML.
fn syntax_help(line: &str) -> Option<String> {
    // The line on its own is valid: the error has another cause, such as a duplicate key.
    if toml::from_str::<toml::Table>(line).is_ok() {
        return None;
    }
    let (key, value) = line.split_once('=')?;
    let (key, value) = (key.trim(), value.trim());
    let quotes = value.matches('"').count();
    let is_word = |c: char| c.is_ascii_alphanumeric() || ".:/_-*@".contains(c);
    if quotes % 2 == 1 {
        return Some("a quote is not closed on this line".to_owned());
    }
    let bare = quotes == 0 && !value.is_empty() && value.chars().all(is_word);
    (bare && !key.is_empty()).then(|| format!("write strings in quotes: `{key} = \"{value}\"`"))
}

/// The other language that a file is written in, by its first lines.
fn other_syntax(text: &str) -> Option<&'static str> {
    const HAPROXY: [&str; 5] = ["global", "defaults", "frontend", "backend", "listen"];
    let lines = text.lines().map(str::trim_end);
    let mut lines = lines.filter(|line| !line.trim().is_empty() && !line.starts_with('#'));
    let first = lines.next()?;
    let mut words = first.split_whitespace();
    let word = words.next()?;
    if first.starts_with('{') {
        return Some("JSON");
    }
    if HAPROXY.contains(&word) && !first.contains(['=', ':', '[']) && words.count() <= 1 {
        return Some("an HAProxy configuration");
    }
    let is_key = |key: &str| !key.is_empty() && !key.contains([' ', '=', '"', '[']);
    let is_yaml = first == "---"
        || first.split_once(':').is_some_and(|(key, rest)| {
            is_key(key) && (rest.is_empty() || rest.starts_with(' ')) && !rest.contains('=')
        });
    is_yaml.then_some("YAML")
}
