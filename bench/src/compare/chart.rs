//! The chart, an SVG file for light and dark pages.

use std::fmt::{Result, Write};

use super::{
    program::Kind,
    report::{Line, Report, short},
};

/// Names of the cases that the chart shows.
const SHOWN: [&str; 8] = [
    "connect-mtls",
    "memory-mtls",
    "echo-mtls-32",
    "connect-plain",
    "download-mtls-4",
    "download-plain-4",
    "upload-mtls-4",
    "upload-plain-4",
];

const WIDTH: usize = 880;
const MARGIN: usize = 16;
const COLUMN: usize = (WIDTH - 3 * MARGIN) / 2;
const NAME: usize = 78;
const VALUE: usize = 70;
const BAR: usize = 15;
const GAP: usize = 3;
const TITLE: usize = 22;

const STYLE: &str = "\
    text { font: 12px system-ui, sans-serif; fill: #24292f }\n\
    .head { font-size: 16px; font-weight: 600 }\n\
    .case { font-weight: 600 }\n\
    .small { font-size: 11px; fill: #57606a }\n\
    .own { fill: #0969da }\n\
    .peer { fill: #afb8c1 }\n\
    @media (prefers-color-scheme: dark) {\n\
    \x20 text { fill: #e6edf3 }\n\
    \x20 .small { fill: #9198a1 }\n\
    \x20 .own { fill: #4493f8 }\n\
    \x20 .peer { fill: #545d68 }\n\
    }";

/// Draws the chart. Returns `None` if nothing was measured.
pub fn draw(report: &Report) -> Option<String> {
    let lines = shown(&report.lines);
    if lines.is_empty() {
        return None;
    }
    let mut svg = String::new();
    // Writing to a string does not fail.
    write(&mut svg, report, &lines).ok()?;
    Some(svg)
}

fn shown(lines: &[Line]) -> Vec<&Line> {
    let named = |name: &&str| lines.iter().find(|line| line.case.starts_with(name));
    let known: Vec<&Line> = SHOWN.iter().filter_map(named).collect();
    if known.is_empty() {
        return lines.iter().take(SHOWN.len()).collect();
    }
    known
}

fn write(out: &mut String, report: &Report, lines: &[&Line]) -> Result {
    let block = TITLE + report.programs.len() * (BAR + GAP) + MARGIN;
    let top = 3 * TITLE;
    let footer: Vec<String> = footer(report);
    let height = top + lines.len().div_ceil(2) * block + footer.len() * 15 + MARGIN;
    writeln!(
        out,
        "<svg xmlns=\"http://www.w3.org/2000/svg\" viewBox=\"0 0 {WIDTH} {height}\" \
         width=\"{WIDTH}\" height=\"{height}\" role=\"img\">"
    )?;
    writeln!(out, "<title>Cost of load balancing</title>")?;
    writeln!(out, "<style>\n{STYLE}\n</style>")?;
    let title = "Cost of load balancing (less is better)";
    text(out, "head", MARGIN, MARGIN + 12, title)?;
    let how = format!(
        "median of {} round{} on one machine; CPU time or memory of the balancer",
        report.rounds,
        if report.rounds == 1 { "" } else { "s" }
    );
    text(out, "small", MARGIN, MARGIN + 30, &how)?;
    for (position, line) in lines.iter().enumerate() {
        let x = MARGIN + (position % 2) * (COLUMN + MARGIN);
        let y = top + (position / 2) * block;
        group(out, line, x, y)?;
    }
    let below = top + lines.len().div_ceil(2) * block;
    for (number, line) in footer.iter().enumerate() {
        text(out, "small", MARGIN, below + 12 + number * 15, line)?;
    }
    writeln!(out, "</svg>")
}

fn group(out: &mut String, line: &Line, x: usize, y: usize) -> Result {
    let title = format!("{} ({})", line.case, line.unit);
    text(out, "case", x, y + 14, &title)?;
    let medians = line.cost.iter().filter_map(|(_, spread)| *spread);
    let most = medians.map(|spread| spread.median).fold(0.0, f64::max);
    for (row, (kind, spread)) in line.cost.iter().enumerate() {
        let y = y + TITLE + row * (BAR + GAP);
        text(out, "", x, y + 12, &kind.to_string())?;
        let Some(spread) = spread else {
            text(out, "small", x + NAME, y + 12, "no result")?;
            continue;
        };
        let width = (COLUMN - NAME - VALUE) as f64;
        let length = if most > 0.0 {
            (spread.median / most * width).max(1.0)
        } else {
            1.0
        };
        let class = if *kind == Kind::Leastconn {
            "own"
        } else {
            "peer"
        };
        writeln!(
            out,
            "<rect class=\"{class}\" x=\"{}\" y=\"{y}\" width=\"{length:.1}\" height=\"{BAR}\" rx=\"2\"/>",
            x + NAME
        )?;
        let end = x + NAME + length as usize + 6;
        text(out, "", end, y + 12, &short(spread.median))?;
    }
    Ok(())
}

fn footer(report: &Report) -> Vec<String> {
    let machine = &report.machine;
    let versions: Vec<String> = report
        .programs
        .iter()
        .map(|program| format!("{} {}", program.kind, program.version))
        .collect();
    let mut lines = vec![format!(
        "{}; {}, {} CPUs, Linux {}, {}",
        report.date, machine.cpu, machine.cores, machine.kernel, machine.congestion_control
    )];
    // Put three versions on each line.
    lines.extend(versions.chunks(3).map(|some| some.join("; ")));
    lines.extend(wrapped(&report.command));
    lines
}

/// Wraps text to the width of the chart.
fn wrapped(words: &str) -> Vec<String> {
    const MAX_CHARS: usize = 125;
    let mut lines = vec![String::new()];
    for word in words.split(' ') {
        let line = lines.len() - 1;
        let length = lines[line].chars().count();
        if length == 0 {
            lines[line].push_str(word);
        } else if length + 1 + word.chars().count() <= MAX_CHARS {
            lines[line].push(' ');
            lines[line].push_str(word);
        } else {
            lines.push(format!("  {word}"));
        }
    }
    lines
}

fn text(out: &mut String, class: &str, x: usize, y: usize, content: &str) -> Result {
    let content = content
        .replace('&', "&amp;")
        .replace('<', "&lt;")
        .replace('>', "&gt;");
    let class = match class {
        "" => String::new(),
        name => format!(" class=\"{name}\""),
    };
    writeln!(out, "<text{class} x=\"{x}\" y=\"{y}\">{content}</text>")
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        compare::{program::Program, stats::Spread},
        machine::Machine,
    };

    #[test]
    fn long_commands_wrap() {
        assert_eq!(wrapped("a b c"), ["a b c"]);
        let (long, longer) = ("x".repeat(100), "y".repeat(200));
        let lines = wrapped(&format!("{long} 234 {long} {longer} 5"));
        let expected = [
            format!("{long} 234"),
            format!("  {long}"),
            format!("  {longer}"),
            "  5".to_owned(),
        ];
        assert_eq!(lines, expected);
    }

    #[test]
    fn bars_scale_and_text_is_escaped() {
        let spread = |median| {
            Some(Spread {
                median,
                min: median,
                max: median,
            })
        };
        let line = Line {
            case: "connect-mtls".to_owned(),
            unit: "µs".to_owned(),
            cost: vec![
                (Kind::Leastconn, spread(50.0)),
                (Kind::Haproxy, spread(100.0)),
                (Kind::Envoy, None),
            ],
            p50_ms: Vec::new(),
            p99_ms: Vec::new(),
            p999_ms: Vec::new(),
            throughput: Vec::new(),
            cost_ratio: None,
            p99_ratio: None,
        };
        let program = Program {
            kind: Kind::Haproxy,
            path: "x".into(),
            version: "2 <&>".to_owned(),
        };
        let mut report = Report {
            date: "today".to_owned(),
            command: "bench".to_owned(),
            machine: Machine::detect(),
            programs: vec![program],
            rounds: 1,
            workers: 1,
            notes: Vec::new(),
            lines: vec![line],
            growth: Vec::new(),
            samples: Vec::new(),
        };
        let svg = draw(&report).unwrap();
        let width = (COLUMN - NAME - VALUE) as f64;
        assert!(svg.contains(&format!("width=\"{width:.1}\"")), "{svg}");
        assert!(
            svg.contains(&format!("width=\"{:.1}\"", width / 2.0)),
            "{svg}"
        );
        assert!(svg.contains("no result"));
        assert!(svg.contains("2 &lt;&amp;&gt;"));
        report.lines.clear();
        assert!(draw(&report).is_none());
    }
}
