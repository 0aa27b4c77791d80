//! Charts as SVG files that are readable on light and dark pages.

mod bars;
mod lines;

use std::fmt::{self, Write};

use crate::report::Report;

/// A chart and the name of its file.
#[derive(Debug)]
pub struct Chart {
    pub file: &'static str,
    pub svg: String,
}

/// Draws the charts whose scenarios are in the report.
///
/// # Errors
/// Formatting errors, which do not happen when writing to memory.
pub fn all(report: &Report) -> Result<Vec<Chart>, fmt::Error> {
    let charts = [
        ("balance.svg", bars::draw(report, &bars::ALGORITHMS)?),
        ("fleet.svg", bars::draw(report, &bars::FLEET)?),
        ("returning-server.svg", lines::draw(report)?),
    ];
    let drawn = charts.into_iter().filter_map(|(file, svg)| {
        let svg = svg?;
        Some(Chart { file, svg })
    });
    Ok(drawn.collect())
}

const WIDTH: usize = 880;
const MARGIN: usize = 16;

const STYLE: &str = "\
    text { font: 12px system-ui, sans-serif; fill: #24292f }\n\
    .head { font-size: 16px; font-weight: 600 }\n\
    .case { font-weight: 600 }\n\
    .small { font-size: 11px; fill: #57606a }\n\
    .grid { stroke: #d0d7de }\n\
    .own { fill: #0969da }\n\
    .other { fill: #afb8c1 }\n\
    .line { fill: none; stroke-width: 2 }\n\
    .first { stroke: #0969da }\n\
    .second { stroke: #bc4c00 }\n\
    @media (prefers-color-scheme: dark) {\n\
    \x20 text { fill: #e6edf3 }\n\
    \x20 .small { fill: #9198a1 }\n\
    \x20 .grid { stroke: #3d444d }\n\
    \x20 .own { fill: #4493f8 }\n\
    \x20 .other { fill: #545d68 }\n\
    \x20 .first { stroke: #4493f8 }\n\
    \x20 .second { stroke: #f0883e }\n\
    }";

/// An SVG document of this height, with a title and a subtitle.
struct Document(String);

impl Document {
    fn new(height: usize, title: &str, subtitle: &str) -> Result<Self, fmt::Error> {
        let mut svg = String::new();
        writeln!(
            svg,
            "<svg xmlns=\"http://www.w3.org/2000/svg\" viewBox=\"0 0 {WIDTH} {height}\" \
             width=\"{WIDTH}\" height=\"{height}\" role=\"img\">\n<title>{}</title>\n\
             <style>\n{STYLE}\n</style>",
            escape(title)
        )?;
        let mut document = Self(svg);
        document.text("head", MARGIN, MARGIN + 12, title)?;
        document.text("small", MARGIN, MARGIN + 30, subtitle)?;
        Ok(document)
    }

    fn text(&mut self, class: &str, x: usize, y: usize, content: &str) -> fmt::Result {
        let content = escape(content);
        let class = match class {
            "" => String::new(),
            name => format!(" class=\"{name}\""),
        };
        writeln!(self.0, "<text{class} x=\"{x}\" y=\"{y}\">{content}</text>")
    }

    fn finish(mut self) -> String {
        self.0.push_str("</svg>\n");
        self.0
    }
}

fn escape(text: &str) -> String {
    text.replace('&', "&amp;")
        .replace('<', "&lt;")
        .replace('>', "&gt;")
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        report::{Row, ScenarioReport},
        scenario,
    };

    fn report() -> Report {
        let row = |algorithm: &str, value| Row {
            algorithm: algorithm.to_owned(),
            values: vec![value],
            rate: vec![4.0, 2.0, 1.0],
            share: vec![0.25, 0.5, 1.0],
        };
        let scenarios = scenario::all().into_iter().map(|scenario| ScenarioReport {
            name: scenario.name.to_owned(),
            summary: String::new(),
            runs: 1,
            columns: vec!["peak/mean".to_owned()],
            rows: vec![row("least_conn", 1.25), row("<other>", 1.5)],
        });
        Report {
            seed: 1,
            scenarios: scenarios.collect(),
        }
    }

    #[test]
    fn bars_and_lines_are_to_scale() {
        let charts = all(&report()).unwrap();
        let [bars, fleet, lines] = &charts[..] else {
            panic!("{charts:?}");
        };
        // 1.25 is half as far from 1 as 1.5.
        let widths =
            ["width=\"278.0\"", "width=\"139.0\""].map(|width| bars.svg.matches(width).count());
        assert_eq!(widths, [6, 6], "{}", bars.svg);
        assert!(bars.svg.contains("&lt;other&gt;"));
        assert!(fleet.svg.contains("8 balancers"), "{}", fleet.svg);
        // Both values are at the top of the plot: the first rate, and the third share.
        for point in ["d=\"M66.6 84.0L", "L523.8 84.0\""] {
            assert!(lines.svg.contains(point), "{}", lines.svg);
        }
        for chart in &charts {
            assert!(chart.svg.ends_with("</svg>\n"));
        }
    }

    #[test]
    fn charts_without_their_scenarios_are_left_out() {
        let mut report = report();
        report
            .scenarios
            .retain(|scenario| !["restart", "bursts", "fleet"].contains(&&*scenario.name));
        assert!(all(&report).unwrap().is_empty());
    }
}
