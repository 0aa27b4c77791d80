//! How evenly each algorithm spreads connections: one group of bars per scenario.

use std::fmt::{self, Write};

use super::{Document, MARGIN, WIDTH};
use crate::report::{Report, ScenarioReport, format_value};

pub(super) struct Bars {
    title: &'static str,
    /// Scenarios in the chart, with headings.
    shown: &'static [(&'static str, &'static str)],
    /// Width of the row names.
    name: usize,
}

pub(super) const ALGORITHMS: Bars = Bars {
    title: "How evenly connections are spread",
    shown: &[
        ("steady", "random arrivals, 8 servers"),
        ("bursts", "bursts of 100, 8 servers"),
        ("weights", "servers of weights 1 to 4"),
        ("slow-server", "one of 8 servers is slow"),
        ("balancers", "3 balancers, 48 open connections"),
        ("balancers-churn", "3 balancers, 48 changing connections"),
    ],
    name: 88,
};

pub(super) const FLEET: Bars = Bars {
    title: "How evenly several balancers spread connections",
    shown: &[
        ("fleet", "3 balancers, 300 connections"),
        ("fleet-allow", "clients of one balancer use 3 of 8 servers"),
        ("fleet-few", "8 balancers, 24 long connections"),
    ],
    name: 142,
};

const COLUMN: usize = (WIDTH - 3 * MARGIN) / 2;
const VALUE: usize = 50;
const BAR: usize = 15;
const GAP: usize = 3;
const TITLE: usize = 22;
const TOP: usize = 66;

pub(super) fn draw(report: &Report, bars: &Bars) -> Result<Option<String>, fmt::Error> {
    let find = |name| {
        report
            .scenarios
            .iter()
            .find(|scenario| scenario.name == name)
    };
    let shown: Vec<(&str, &ScenarioReport)> = bars
        .shown
        .iter()
        .filter_map(|&(name, heading)| Some((heading, find(name)?)))
        .collect();
    if shown.len() < bars.shown.len() {
        return Ok(None);
    }
    let rows = shown.iter().map(|(_, scenario)| scenario.rows.len()).max();
    let block = TITLE + rows.unwrap_or(0) * (BAR + GAP) + MARGIN;
    let mut document = Document::new(
        TOP + shown.len().div_ceil(2) * block,
        bars.title,
        "most loaded server / mean of all servers, averaged over time (1 is perfect); \
         bars start at 1; simulated: make sim",
    )?;
    for (position, (heading, scenario)) in shown.into_iter().enumerate() {
        let x = MARGIN + (position % 2) * (COLUMN + MARGIN);
        let y = TOP + (position / 2) * block;
        group(&mut document, (heading, bars.name), scenario, x, y)?;
    }
    Ok(Some(document.finish()))
}

fn group(
    document: &mut Document,
    (heading, name): (&str, usize),
    scenario: &ScenarioReport,
    x: usize,
    y: usize,
) -> fmt::Result {
    document.text("case", x, y + 14, heading)?;
    let value = |row: &crate::report::Row| row.values.first().copied().unwrap_or(1.0);
    let most = scenario.rows.iter().map(value).fold(1.0, f64::max);
    for (row, result) in scenario.rows.iter().enumerate() {
        let y = y + TITLE + row * (BAR + GAP);
        document.text("", x, y + 12, &result.algorithm)?;
        let excess = (value(result) - 1.0) / (most - 1.0).max(1e-9);
        let length = (excess * (COLUMN - name - VALUE) as f64).max(1.0);
        let class = if row == 0 { "own" } else { "other" };
        writeln!(
            document.0,
            "<rect class=\"{class}\" x=\"{}\" y=\"{y}\" width=\"{length:.1}\" height=\"{BAR}\" rx=\"2\"/>",
            x + name
        )?;
        let end = x + name + length as usize + 6;
        document.text("", end, y + 12, &format_value(value(result)))?;
    }
    Ok(())
}
