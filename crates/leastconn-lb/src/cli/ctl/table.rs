//! Aligned text tables. On a terminal, a table is coloured and fitted to the width of the terminal.

use std::io::{self, IsTerminal};

#[derive(Clone, Copy, Debug)]
pub(super) struct OutputStyle {
    /// Maximum width in characters; `None` if unlimited.
    width: Option<usize>,
    colours: bool,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Align {
    Left,
    Right,
    /// Left-aligned, and truncated if the table is too wide.
    Truncate,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Tone {
    Plain,
    Good,
    Warning,
    Bad,
}

#[derive(Clone, Debug)]
pub(super) struct Cell(pub(super) String, pub(super) Tone);

impl<T: Into<String>> From<T> for Cell {
    fn from(text: T) -> Self {
        Self(text.into(), Tone::Plain)
    }
}

#[derive(Debug)]
pub(super) struct Table {
    columns: Vec<(&'static str, Align)>,
    rows: Vec<Vec<Cell>>,
}

impl OutputStyle {
    /// The style for standard output. On a terminal, tables are limited to its width, and
    /// coloured unless `NO_COLOR` is set.
    pub(super) fn stdout() -> Self {
        let out = io::stdout();
        if !out.is_terminal() {
            return Self {
                width: None,
                colours: false,
            };
        }
        let size = rustix::termios::tcgetwinsize(&out).ok();
        let width = size.map(|size| usize::from(size.ws_col));
        Self {
            width: width.filter(|&width| width > 0),
            colours: std::env::var_os("NO_COLOR").is_none_or(|value| value.is_empty()),
        }
    }

    #[cfg(test)]
    pub(super) const fn new(width: Option<usize>, colours: bool) -> Self {
        Self { width, colours }
    }

    pub(super) fn paint(&self, text: &str, tone: Tone) -> String {
        let code = match tone {
            _ if !self.colours => return text.to_owned(),
            Tone::Plain => return text.to_owned(),
            Tone::Good => 32,
            Tone::Warning => 33,
            Tone::Bad => 31,
        };
        format!("\x1b[{code}m{text}\x1b[0m")
    }
}

impl Table {
    pub(super) fn new(columns: &[(&'static str, Align)]) -> Self {
        Self {
            columns: columns.to_vec(),
            rows: Vec::new(),
        }
    }

    /// Adds a row, with one cell per column.
    pub(super) fn row(&mut self, cells: Vec<Cell>) {
        debug_assert_eq!(cells.len(), self.columns.len());
        self.rows.push(cells);
    }

    pub(super) fn render(&self, style: &OutputStyle) -> String {
        let mut widths: Vec<_> = self.columns.iter().map(|(name, _)| name.len()).collect();
        for row in &self.rows {
            for (width, cell) in widths.iter_mut().zip(row) {
                *width = (*width).max(cell.0.chars().count());
            }
        }
        self.fit(&mut widths, style);
        let head: Vec<_> = self
            .columns
            .iter()
            .map(|(name, _)| (*name).into())
            .collect();
        let mut out = String::new();
        for row in std::iter::once(&head).chain(&self.rows) {
            let mut line = String::new();
            for (n, ((cell, &width), (_, side))) in
                row.iter().zip(&widths).zip(&self.columns).enumerate()
            {
                if n > 0 {
                    line.push_str("  ");
                }
                let text = truncate(&cell.0, width);
                let blank = " ".repeat(width - text.chars().count().min(width));
                let text = style.paint(&text, cell.1);
                match side {
                    Align::Right => line.push_str(&format!("{blank}{text}")),
                    Align::Left | Align::Truncate => line.push_str(&format!("{text}{blank}")),
                }
            }
            out.push_str(line.trim_end());
            out.push('\n');
        }
        out
    }

    /// Narrows truncatable columns, widest first, until the table fits.
    fn fit(&self, widths: &mut [usize], style: &OutputStyle) {
        const MIN_WIDTH: usize = 12;
        let Some(available) = style.width else {
            return;
        };
        let gaps = 2 * self.columns.len().saturating_sub(1);
        while widths.iter().sum::<usize>() + gaps > available {
            let columns = widths.iter_mut().zip(&self.columns);
            let widest = columns
                .filter(|(width, (_, side))| *side == Align::Truncate && **width > MIN_WIDTH)
                .max_by_key(|(width, _)| **width);
            match widest {
                Some((width, _)) => *width -= 1,
                None => return,
            }
        }
    }
}

fn truncate(text: &str, width: usize) -> String {
    if text.chars().count() <= width {
        return text.to_owned();
    }
    let kept: String = text.chars().take(width.saturating_sub(1)).collect();
    kept + "\u{2026}"
}

#[cfg(test)]
mod tests {
    use super::*;

    fn table() -> Table {
        let mut table = Table::new(&[
            ("NAME", Align::Truncate),
            ("N", Align::Right),
            ("END", Align::Left),
        ]);
        table.row(vec!["a".into(), "7".into(), Cell("up".into(), Tone::Good)]);
        table.row(vec![
            "a-very-long-name-indeed".into(),
            "1234".into(),
            "".into(),
        ]);
        table
    }

    #[test]
    fn numbers_are_right_aligned() {
        assert_eq!(
            table().render(&OutputStyle::new(None, false)),
            "NAME                        N  END\n\
             a                           7  up\n\
             a-very-long-name-indeed  1234\n"
        );
    }

    #[test]
    fn narrow_terminal_truncates_names() {
        let narrow = table().render(&OutputStyle::new(Some(23), true));
        assert!(narrow.contains("a-very-long\u{2026}  1234"), "{narrow}");
        assert!(narrow.contains("\x1b[32mup\x1b[0m"), "{narrow}");
        // Columns are never narrower than MIN_WIDTH.
        let tiny = table().render(&OutputStyle::new(Some(1), false));
        assert!(tiny.contains("a-very-long\u{2026}  1234"), "{tiny}");
    }
}
