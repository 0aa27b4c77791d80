//! Tables for people: aligned, as wide as the terminal, and plain where it is none.

use std::io::{self, IsTerminal};

/// What is written on.
#[derive(Clone, Copy, Debug)]
pub(super) struct Paper {
    /// In characters; none: as wide as it gets.
    width: Option<usize>,
    colours: bool,
}

/// How a column is aligned.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Side {
    Left,
    Right,
    /// Left, and the one that is cut where there is no room.
    Cut,
}

/// What a cell tells at a glance.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Tone {
    Plain,
    Good,
    Odd,
    Bad,
}

/// A cell.
#[derive(Clone, Debug)]
pub(super) struct Cell(pub(super) String, pub(super) Tone);

impl<T: Into<String>> From<T> for Cell {
    fn from(text: T) -> Self {
        Self(text.into(), Tone::Plain)
    }
}

/// A table in the making.
#[derive(Debug)]
pub(super) struct Table {
    columns: Vec<(&'static str, Side)>,
    rows: Vec<Vec<Cell>>,
}

impl Paper {
    /// Standard output: as wide as its terminal, and coloured unless `NO_COLOR` says
    /// no; otherwise neither.
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

    /// For tests.
    #[cfg(test)]
    pub(super) const fn of(width: Option<usize>, colours: bool) -> Self {
        Self { width, colours }
    }

    /// Text in its tone.
    pub(super) fn paint(&self, text: &str, tone: Tone) -> String {
        let code = match tone {
            _ if !self.colours => return text.to_owned(),
            Tone::Plain => return text.to_owned(),
            Tone::Good => 32,
            Tone::Odd => 33,
            Tone::Bad => 31,
        };
        format!("\x1b[{code}m{text}\x1b[0m")
    }
}

impl Table {
    /// With these columns.
    pub(super) fn new(columns: &[(&'static str, Side)]) -> Self {
        Self {
            columns: columns.to_vec(),
            rows: Vec::new(),
        }
    }

    /// Adds a row: a cell for each column.
    pub(super) fn row(&mut self, cells: Vec<Cell>) {
        debug_assert_eq!(cells.len(), self.columns.len());
        self.rows.push(cells);
    }

    /// All of it, with a line for each row.
    pub(super) fn print(&self, paper: &Paper) -> String {
        let mut widths: Vec<_> = self.columns.iter().map(|(name, _)| name.len()).collect();
        for row in &self.rows {
            for (width, cell) in widths.iter_mut().zip(row) {
                *width = (*width).max(cell.0.chars().count());
            }
        }
        self.fit(&mut widths, paper);
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
                let text = cut(&cell.0, width);
                let blank = " ".repeat(width - text.chars().count().min(width));
                let text = paper.paint(&text, cell.1);
                match side {
                    Side::Right => line.push_str(&format!("{blank}{text}")),
                    Side::Left | Side::Cut => line.push_str(&format!("{text}{blank}")),
                }
            }
            out.push_str(line.trim_end());
            out.push('\n');
        }
        out
    }

    /// Takes what is too much for the paper from the columns that may be cut, the
    /// widest first.
    fn fit(&self, widths: &mut [usize], paper: &Paper) {
        const LEAST: usize = 12;
        let Some(most) = paper.width else {
            return;
        };
        let gaps = 2 * self.columns.len().saturating_sub(1);
        while widths.iter().sum::<usize>() + gaps > most {
            let columns = widths.iter_mut().zip(&self.columns);
            let widest = columns
                .filter(|(width, (_, side))| *side == Side::Cut && **width > LEAST)
                .max_by_key(|(width, _)| **width);
            match widest {
                Some((width, _)) => *width -= 1,
                None => return,
            }
        }
    }
}

fn cut(text: &str, width: usize) -> String {
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
        let mut table = Table::new(&[("NAME", Side::Cut), ("N", Side::Right), ("END", Side::Left)]);
        table.row(vec!["a".into(), "7".into(), Cell("up".into(), Tone::Good)]);
        table.row(vec![
            "a-very-long-name-indeed".into(),
            "1234".into(),
            "".into(),
        ]);
        table
    }

    #[test]
    fn columns_are_aligned_and_numbers_stand_right() {
        assert_eq!(
            table().print(&Paper::of(None, false)),
            "NAME                        N  END\n\
             a                           7  up\n\
             a-very-long-name-indeed  1234\n"
        );
    }

    #[test]
    fn only_a_terminal_cuts_and_colours() {
        let narrow = table().print(&Paper::of(Some(23), true));
        assert!(narrow.contains("a-very-long\u{2026}  1234"), "{narrow}");
        assert!(narrow.contains("\x1b[32mup\x1b[0m"), "{narrow}");
        // Never less than can be recognised.
        let tiny = table().print(&Paper::of(Some(1), false));
        assert!(tiny.contains("a-very-long\u{2026}  1234"), "{tiny}");
    }
}
