//! A server that returns: its new connections and its open connections over time.

use std::fmt::{self, Write};

use super::{Document, MARGIN, WIDTH};
use crate::report::{Report, Row};

/// Scenarios in the chart, with the class and the label of their lines. The lines show the
/// first algorithm of the report, least connections.
const SHOWN: [(&str, &str, &str); 2] = [
    ("restart", "second", "no slow start"),
    ("restart-slow-start", "first", "slow_start = \"10s\""),
];

/// Seconds on the x axis.
const SECONDS: usize = 30;
const PANEL: usize = (WIDTH - 3 * MARGIN) / 2;
const TOP: usize = 84;
const PLOT: usize = 180;
const AXIS: usize = 38;
const HEIGHT: usize = TOP + PLOT + 62;

/// One of the two plots.
struct Panel {
    heading: &'static str,
    unit: &'static str,
    /// Largest value on the y axis, and the distance between its labels.
    max: f64,
    step: f64,
    x: usize,
    values: fn(&Row) -> Vec<f64>,
}

pub(super) fn draw(report: &Report) -> Result<Option<String>, fmt::Error> {
    let mut lines = Vec::new();
    for (name, class, label) in SHOWN {
        let scenario = report
            .scenarios
            .iter()
            .find(|scenario| scenario.name == name);
        let Some(row) = scenario.and_then(|scenario| scenario.rows.first()) else {
            return Ok(None);
        };
        lines.push((row, class, label));
    }
    let mut document = Document::new(
        HEIGHT,
        "A server with 100 connections returns, least_conn",
        "4 servers, 400 connections of 20 s on average; seconds since the return of one server; \
         simulated: make sim",
    )?;
    let panels = [
        Panel {
            heading: "new connections per second / fair share",
            unit: "×",
            max: 4.0,
            step: 1.0,
            x: MARGIN,
            values: |row| row.rate.clone(),
        },
        Panel {
            heading: "open connections / fair share",
            unit: "%",
            max: 100.0,
            step: 25.0,
            x: 2 * MARGIN + PANEL,
            values: |row| row.share.iter().map(|share| 100.0 * share).collect(),
        },
    ];
    for panel in &panels {
        panel.draw_axes(&mut document)?;
        for (row, class, _) in &lines {
            panel.draw_line(&mut document, &(panel.values)(row), class)?;
        }
    }
    for (position, (_, class, label)) in lines.iter().enumerate() {
        let (x, y) = (MARGIN + AXIS + position * 200, HEIGHT - 16);
        writeln!(
            document.0,
            "<path class=\"line {class}\" d=\"M{x} {} h24\"/>",
            y - 4
        )?;
        document.text("", x + 30, y, label)?;
    }
    Ok(Some(document.finish()))
}

impl Panel {
    fn x_of(&self, second: usize) -> f64 {
        let width = (PANEL - AXIS) as f64;
        (self.x + AXIS) as f64 + width * second as f64 / SECONDS as f64
    }

    fn y_of(&self, value: f64) -> f64 {
        let height = PLOT as f64;
        TOP as f64 + height - height * (value / self.max).min(1.05)
    }

    fn draw_axes(&self, document: &mut Document) -> fmt::Result {
        document.text("case", self.x, TOP - 14, self.heading)?;
        let steps = (self.max / self.step).round() as usize;
        for step in 0..=steps {
            let value = self.step * step as f64;
            let y = self.y_of(value);
            writeln!(
                document.0,
                "<path class=\"grid\" d=\"M{:.1} {y:.1} H{:.1}\"/>",
                self.x_of(0),
                self.x_of(SECONDS)
            )?;
            let label = format!("{value} {}", self.unit);
            document.text("small", self.x, y as usize + 4, &label)?;
        }
        for second in (0..=SECONDS).step_by(10) {
            let x = self.x_of(second) as usize;
            document.text(
                "small",
                x.saturating_sub(8),
                TOP + PLOT + 18,
                &format!("{second} s"),
            )?;
        }
        Ok(())
    }

    /// Draws one value per second, at the end of the second.
    fn draw_line(&self, document: &mut Document, values: &[f64], class: &str) -> fmt::Result {
        write!(document.0, "<path class=\"line {class}\" d=\"")?;
        for (position, &value) in values.iter().take(SECONDS).enumerate() {
            let command = if position == 0 { 'M' } else { 'L' };
            let (x, y) = (self.x_of(position + 1), self.y_of(value));
            write!(document.0, "{command}{x:.1} {y:.1}")?;
        }
        writeln!(document.0, "\"/>")
    }
}
