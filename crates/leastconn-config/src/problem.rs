//! Problems in a configuration file, and how people see them: in rustc's form,
//! with the line itself and what to do about it.

use std::{borrow::Cow, fmt, io::IsTerminal, ops::Range, sync::Arc};

use annotate_snippets::{AnnotationKind, Group, Level, Origin, Renderer, Snippet};

use leastconn_tls::crl::CrlStore;

use crate::text::{is_hidden, visible};

/// So many errors, and so many warnings, are shown, and of the others how many there
/// are: what a hundred have in common, nobody reads a hundred thousand times.
pub(crate) const SHOWN: usize = 100;

/// Whether a configuration with this problem can be run.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Severity {
    /// It cannot.
    Error,
    /// It can, and is perhaps not what was meant.
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

/// One thing that is wrong.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Problem {
    /// Whether it keeps the configuration from being run.
    pub severity: Severity,
    /// What is wrong, in one line.
    pub message: String,
    /// Where, in bytes; `None`: in the file as a whole.
    pub span: Option<Range<usize>>,
    /// The file that it is about, where that is a better place than one in the text.
    pub file: Option<String>,
    /// A second place that has to do with it, and what it is.
    pub related: Option<(Range<usize>, String)>,
    /// What explains it.
    pub notes: Vec<String>,
    /// What to do about it.
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

    /// States where it is.
    pub(crate) fn at(&mut self, span: Range<usize>) -> &mut Self {
        self.span = Some(span);
        self
    }

    /// Points at a second place.
    pub(crate) fn related(&mut self, span: Range<usize>, label: impl Into<String>) -> &mut Self {
        self.related = Some((span, label.into()));
        self
    }

    /// Explains.
    pub(crate) fn note(&mut self, note: impl Into<String>) -> &mut Self {
        self.notes.push(note.into());
        self
    }

    /// Says what to do.
    pub(crate) fn help(&mut self, help: impl Into<String>) -> &mut Self {
        self.helps.push(help.into());
        self
    }
}

/// What is wrong with one file. [`fmt::Display`] shows all of it, without colours.
#[derive(Clone, Debug)]
pub struct Problems {
    name: Arc<str>,
    text: Arc<str>,
    /// Where each line of `text` begins.
    line_starts: Arc<[usize]>,
    list: Vec<Problem>,
    /// What expired trust material counts as.
    expired: Severity,
    /// The revocation lists in force, if a running balancer loads the configuration.
    running_lists: Option<Vec<Arc<CrlStore>>>,
}

impl Problems {
    /// None yet, in a file called `name` that holds `text`.
    pub fn new(name: &str, text: &str) -> Self {
        // Editors show nothing of a byte order mark, and count columns after it.
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

    /// Trust material that has expired is a warning: for commands that only look.
    pub(crate) fn tolerate_expired(&mut self) {
        self.expired = Severity::Warning;
    }

    /// The lists in force, which those that are loaded will replace.
    pub(crate) fn set_running_lists(&mut self, lists: Vec<Arc<CrlStore>>) {
        self.running_lists = Some(lists);
    }

    /// The lists in force, if a running balancer loads the configuration.
    pub(crate) fn running_lists(&self) -> Option<&[Arc<CrlStore>]> {
        self.running_lists.as_deref()
    }

    /// Adds a problem of trust material that has expired: an error, unless it is to be
    /// tolerated.
    pub(crate) fn expired(&mut self, message: impl Into<String>) -> &mut Problem {
        self.add(self.expired, message)
    }

    /// Adds an error; what is returned takes its place and advice.
    pub(crate) fn error(&mut self, message: impl Into<String>) -> &mut Problem {
        self.add(Severity::Error, message)
    }

    /// Adds a warning; what is returned takes its place and advice.
    pub(crate) fn warning(&mut self, message: impl Into<String>) -> &mut Problem {
        self.add(Severity::Warning, message)
    }

    /// Adds what the parser says. Of a line it says only the first thing: what
    /// follows a slip is mostly its consequence. Of a file that is something
    /// else altogether, the beginning is enough.
    pub(crate) fn syntax(&mut self, errors: &[toml::de::Error]) {
        const ENOUGH: usize = 20;
        if let Some(other) = other_syntax(&self.text) {
            self.error(format!("this looks like {other}; the file must be TOML"))
                .help("tables are written `[process]` and `[[listener]]`, values `key = \"text\"`");
            return;
        }
        let mut last = None;
        for error in errors {
            if self.list.len() >= ENOUGH {
                self.error("there are more, which the first ones may explain");
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

    /// In the order of the file, those of the whole file last; once each.
    pub(crate) fn sort(&mut self) {
        self.list.sort_by_key(|problem| match &problem.span {
            Some(span) => (false, span.start, span.end),
            None => (true, 0, 0),
        });
        self.list.dedup();
    }

    /// Says the file, of those whose place `file_at` knows one for. Nobody has the text:
    /// what has no file is of all of it.
    pub(crate) fn say_files(&mut self, file_at: impl Fn(&Range<usize>) -> Option<String>) {
        for problem in &mut self.list {
            problem.file = problem.span.take().and_then(|span| file_at(&span));
        }
    }

    /// Each of them.
    pub fn iter(&self) -> std::slice::Iter<'_, Problem> {
        self.list.iter()
    }

    /// Whether there is none.
    pub fn is_empty(&self) -> bool {
        self.list.is_empty()
    }

    /// How many errors there are.
    pub fn errors(&self) -> usize {
        self.count(Severity::Error)
    }

    /// How many warnings there are.
    pub fn warnings(&self) -> usize {
        self.count(Severity::Warning)
    }

    fn count(&self, severity: Severity) -> usize {
        self.list.iter().filter(|p| p.severity == severity).count()
    }

    /// What the file is called.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// "3 errors, 1 warning"
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

    /// All of them, or as many as are shown, as people read them, with colours if asked
    /// for.
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

    /// One line for each that is shown, for logs:
    /// `leastconn.toml:14:1: error: unknown key `wokers`; did you mean `workers`?`
    pub fn lines(&self) -> impl Iterator<Item = String> + '_ {
        self.shown().map(|problem| self.line(&problem))
    }

    /// The same without the word `warning` or `error`: for a log that says the level.
    pub fn bare_lines(&self) -> impl Iterator<Item = String> + '_ {
        self.shown().map(|problem| self.line_with(&problem, ""))
    }

    /// The same, for those alone that keep the configuration from being used.
    pub fn error_lines(&self) -> impl Iterator<Item = String> + '_ {
        let errors = self.shown();
        let errors = errors.filter(|problem| problem.severity == Severity::Error);
        errors.map(|problem| self.line(&problem))
    }

    /// Those that are shown, then how many are not.
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

    /// Whether there are so many already that another is hardly shown.
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

    /// Line and column of a byte, each from 1; the column in characters.
    pub fn position(&self, at: usize) -> (usize, usize) {
        // Then there is always a line that begins at or before.
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

    /// The part of a place that is on its first line: tables span many, and
    /// their first says enough.
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

    /// Only the lines from the first to the last that are shown are handed on:
    /// the renderer looks at all it is given, for each problem anew.
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
        let mut snippet = Snippet::source(harmless(&self.text[start..end]))
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

/// Whether standard error takes colours.
pub fn stderr_has_colours() -> bool {
    std::env::var_os("NO_COLOR").is_none_or(|value| value.is_empty())
        && std::io::stderr().is_terminal()
}

/// The same for the lines that are shown, where every byte keeps its place.
fn harmless(text: &str) -> String {
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

/// The line around a byte.
fn line_at(text: &str, at: usize) -> &str {
    let before = text.get(..at).and_then(|text| text.rfind('\n'));
    let start = before.map_or(0, |end| end + 1);
    text[start..].lines().next().unwrap_or_default()
}

/// What to do about a line that is no TOML.
fn syntax_help(line: &str) -> Option<String> {
    // Wrong elsewhere, or only here: a key that is there twice, for instance.
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
    (bare && !key.is_empty()).then(|| format!("text is written in quotes: `{key} = \"{value}\"`"))
}

/// Another language that a file is written in, by its first lines.
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
        return Some("a configuration of HAProxy");
    }
    let is_key = |key: &str| !key.is_empty() && !key.contains([' ', '=', '"', '[']);
    let is_yaml = first == "---"
        || first.split_once(':').is_some_and(|(key, rest)| {
            is_key(key) && (rest.is_empty() || rest.starts_with(' ')) && !rest.contains('=')
        });
    is_yaml.then_some("YAML")
}
