//! Renders problems in the style of rustc.

use std::{
    io::{self, Write},
    ops::Range,
};

use annotate_snippets::{AnnotationKind, Group, Level, Origin, Renderer, Snippet};

use super::{Problem, Problems, Severity};
use crate::text::{is_hidden, visible};

impl Problems {
    /// Renders the problems with their lines, for a terminal. At most [`SHOWN`](super::SHOWN) errors and
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

    /// Prints the problems to standard error, as [`render`](Self::render) does. Unlike
    /// `eprint!`, it does not panic if standard error is closed.
    pub fn print(&self) {
        let text = self.render(super::stderr_has_colours());
        let _ = io::stderr().lock().write_all(text.as_bytes());
    }

    /// The part of a span that is on its first line. A table can span many lines, but only the
    /// first line is shown.
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

    /// Passes only the lines that will be shown to the renderer, because it scans its whole
    /// input for each problem.
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
