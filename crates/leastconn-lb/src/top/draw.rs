//! Draws the screen.

mod tables;

use std::time::{Duration, Instant};

use ratatui::{
    Frame,
    layout::{Constraint, Layout, Rect},
    style::{Modifier, Style, Stylize},
    text::{Line, Span},
    widgets::{Block, Paragraph, Sparkline, Tabs, Wrap},
};

use super::{
    answers::Answers,
    keys::HELP,
    view::{Tab, View},
};
use crate::figures;
use leastconn_server::api::{FleetState, FleetSummary, Phase, ReloadOutcome, Sample, outage_lines};

/// Answers older than this are marked as stale.
const STALE_AFTER: Duration = Duration::from_secs(5);

/// Maximum number of lines about unavailable upstreams and servers.
const MAX_OUTAGE_LINES: usize = 4;

/// Charts are drawn if the terminal has at least this many lines.
const MIN_HEIGHT_FOR_CHARTS: u16 = 22;

/// In narrower terminals the totals always take two rows, so that nothing moves when a
/// number gets longer.
const MIN_WIDTH_FOR_ONE_ROW: u16 = 100;

pub(super) fn draw(frame: &mut Frame<'_>, view: &mut View, now: Instant) {
    let area = frame.area();
    let charts = if area.height >= MIN_HEIGHT_FOR_CHARTS {
        5
    } else {
        0
    };
    let answers = view.answers.as_ref().map(|(answers, _)| answers);
    let alerts = answers.map(alerts).unwrap_or_default();
    let totals = answers.map(totals).unwrap_or_default();
    let height = |line: &Line<'_>| rows(line, area.width);
    let heights: Vec<u16> = alerts.iter().map(height).collect();
    let [head, alert_area, totals_area, chart_area, tabs, table, foot] = Layout::vertical([
        Constraint::Length(1),
        Constraint::Length(heights.iter().sum()),
        Constraint::Length(if area.width < MIN_WIDTH_FOR_ONE_ROW {
            2
        } else {
            1
        }),
        Constraint::Length(charts),
        Constraint::Length(1),
        Constraint::Min(1),
        Constraint::Length(1),
    ])
    .areas(area);
    frame.render_widget(footer(view, now), foot);
    let titles = Tab::ALL.iter().zip(1..);
    let titles = titles.map(|(tab, number)| format!("{number} {}", tab.title()));
    let selected = Style::new().add_modifier(Modifier::REVERSED | Modifier::BOLD);
    frame.render_widget(
        Tabs::new(titles)
            .select(view.tab as usize)
            .highlight_style(selected)
            .divider(" "),
        tabs,
    );
    // Take the answers out of the view, because drawing the table borrows the view mutably.
    let Some((answers, received)) = view.answers.take() else {
        frame.render_widget("leastconn", head);
        return;
    };
    frame.render_widget(heading(&answers), head);
    let areas = Layout::vertical(heights.into_iter().map(Constraint::Length)).split(alert_area);
    for (line, area) in alerts.into_iter().zip(areas.iter()) {
        frame.render_widget(wrapped(line), *area);
    }
    frame.render_widget(wrapped(totals), totals_area);
    if charts > 0 {
        draw_charts(frame, &answers, chart_area);
    }
    if view.has_help {
        draw_help(frame, table);
    } else {
        tables::draw(frame, view, &answers, table);
    }
    view.answers = Some((answers, received));
}

/// Maximum number of rows of a wrapped line. The rest is cut off.
const MAX_ROWS: usize = 3;

/// Number of rows that a wrapped line takes.
fn rows(line: &Line<'_>, width: u16) -> u16 {
    line.width().div_ceil(width.max(1).into()).min(MAX_ROWS) as u16
}

fn wrapped(line: Line<'static>) -> Paragraph<'static> {
    Paragraph::new(line).wrap(Wrap { trim: true })
}

fn phase(phase: Phase) -> Span<'static> {
    match phase {
        Phase::Ready => "ready".green(),
        Phase::Starting => "starting".yellow(),
        Phase::Draining => "draining".yellow(),
    }
}

fn heading(answers: &Answers) -> Line<'static> {
    let status = &answers.status;
    let fleet = status.fleet.as_ref();
    let fleet = fleet.map_or_else(String::new, |fleet| {
        let members = figures::count(fleet.members, "member");
        format!("  fleet {} {}, {members}", fleet.name, fleet.state.as_str())
    });
    vec![
        Span::from(format!("leastconn {} ", status.version)).bold(),
        phase(status.phase),
        format!(
            "  up {}  {}",
            figures::age(status.uptime_seconds),
            status.configuration.file
        )
        .into(),
        fleet.into(),
    ]
    .into()
}

/// Conditions that need attention, one line each.
fn alerts(answers: &Answers) -> Vec<Line<'static>> {
    let (status, mut lines) = (&answers.status, Vec::new());
    let configuration = &status.configuration;
    if let Some(reload) = &configuration.last_reload
        && reload.outcome == ReloadOutcome::Rejected
    {
        let (first, more) = match &reload.reasons[..] {
            [] => ("", String::new()),
            [first] => (&**first, String::new()),
            [first, rest @ ..] => (&**first, format!(" (and {} more)", rest.len())),
        };
        // The first line contains the location and the error. The other lines quote the
        // file.
        let first = first.lines().next().unwrap_or_default();
        lines.push(
            format!("last reload REJECTED{more}: {first}")
                .red()
                .bold()
                .into(),
        );
    }
    if let Some(blocked) = &configuration.blocked {
        let text = format!("reload BLOCKED by {blocked}");
        lines.push(text.red().bold().into());
    }
    if let Some(failed) = &status.failed_upgrade {
        let text = format!("last upgrade FAILED: {}", failed.reason);
        lines.push(text.red().bold().into());
    }
    let outages = outage_lines(&status.upstreams, MAX_OUTAGE_LINES).into_iter();
    lines.extend(outages.map(|line| line.red().bold().into()));
    for old in &status.old_processes {
        lines.push(old.to_string().yellow().into());
    }
    if let Some(fleet) = &status.fleet
        && let Some(line) = fleet_alert(fleet)
    {
        lines.push(line);
    }
    if configuration.blocks > 0 {
        let blocked = figures::count(configuration.blocks, "client");
        lines.push(format!("blocked: {blocked}").yellow().into());
    }
    if !configuration.deviations.is_empty() {
        let all = configuration.deviations.iter();
        let all: Vec<_> = all.map(|d| format!("{} {}", d.what, d.is)).collect();
        lines.push(format!("overrides: {}", all.join(", ")).yellow().into());
    }
    lines
}

/// Describes a condition of the fleet that needs attention, if there is one.
fn fleet_alert(fleet: &FleetSummary) -> Option<Line<'static>> {
    let error = fleet.error.as_deref().unwrap_or_default();
    let name = &fleet.name;
    match fleet.state {
        FleetState::CutOff => {
            let text = format!("CUT OFF from fleet {name} since {}: {error}", fleet.since);
            Some(text.red().bold().into())
        }
        FleetState::Joining => Some(format!("joining fleet {name}: {error}").yellow().into()),
        FleetState::Joined if fleet.other_configurations > 0 => {
            let others = figures::count(fleet.other_configurations, "member");
            let text = format!("fleet {name}: {others} with another configuration");
            Some(text.yellow().into())
        }
        FleetState::Joined => None,
    }
}

fn totals(answers: &Answers) -> Line<'static> {
    let totals = &answers.status.connections;
    let last = answers.history.samples.last();
    let mut line = vec![
        "open ".into(),
        Span::from(figures::number(totals.open)).bold(),
        format!("/{}", figures::number(totals.limit)).dim(),
    ];
    if let Some(last) = last {
        let refused = Span::from(figures::rate(last.refused_per_second)).bold();
        line.extend([
            "  new/s ".into(),
            Span::from(figures::rate(last.accepted_per_second)).bold(),
            "  refused/s ".into(),
            if last.refused_per_second > 0.0 {
                refused.red()
            } else {
                refused
            },
            "  in/s ".into(),
            Span::from(bytes(last.received_per_second)).bold(),
            "  out/s ".into(),
            Span::from(bytes(last.sent_per_second)).bold(),
        ]);
    }
    line.push(format!("  handshakes\u{a0}{}", totals.handshakes).into());
    if totals.handshakes_waiting > 0 {
        line.push(format!(" (+{} waiting)", totals.handshakes_waiting).yellow());
    }
    line.into()
}

fn bytes(bytes: f64) -> String {
    figures::bytes(bytes.max(0.0).round() as u64)
}

/// Title, value of a sample, and formatter of the maximum.
type Chart = (&'static str, fn(&Sample) -> f64, fn(f64) -> String);

fn draw_charts(frame: &mut Frame<'_>, answers: &Answers, area: Rect) {
    let samples = &answers.history.samples;
    let charts: [Chart; 3] = [
        ("new/s", |sample| sample.accepted_per_second, figures::rate),
        (
            "refused/s",
            |sample| sample.refused_per_second,
            figures::rate,
        ),
        (
            "bytes/s",
            |sample| sample.received_per_second + sample.sent_per_second,
            bytes,
        ),
    ];
    let areas: [Rect; 3] = Layout::horizontal([Constraint::Fill(1); 3])
        .spacing(1)
        .areas(area);
    for ((name, value, text), area) in charts.into_iter().zip(areas) {
        // Put the newest sample at the right edge.
        let width = usize::from(area.width);
        let shown = &samples[samples.len().saturating_sub(width)..];
        let values: Vec<f64> = shown.iter().map(value).collect();
        let max = values.iter().copied().fold(0.0, f64::max);
        let scaled = values.iter().map(|value| (value * 100.0).round() as u64);
        let missing = std::iter::repeat_n(0, width - shown.len());
        let data: Vec<u64> = missing.chain(scaled).collect();
        let title = format!("{name}, max {}", text(max));
        frame.render_widget(
            Sparkline::default()
                .block(Block::new().title(title.dim()))
                .data(data),
            area,
        );
    }
}

fn draw_help(frame: &mut Frame<'_>, area: Rect) {
    let lines = HELP.iter().map(|(keys, effect)| {
        let keys = Span::from(format!("{keys:<20}")).bold();
        Line::from(vec![keys, (*effect).into()])
    });
    frame.render_widget(Paragraph::new(lines.collect::<Vec<_>>()), area);
}

fn footer(view: &View, now: Instant) -> Paragraph<'static> {
    let age = view
        .answers
        .as_ref()
        .map(|(_, received)| now.saturating_duration_since(*received));
    if let Some(error) = &view.error {
        let since = age.map_or_else(String::new, |age| {
            format!(" for {}", figures::age(age.as_secs()))
        });
        return Paragraph::new(format!("no answer{since}: {error}").red().bold());
    }
    match age {
        None => Paragraph::new("connecting …".dim()),
        Some(age) if age > STALE_AFTER => {
            let age = figures::age(age.as_secs());
            Paragraph::new(format!("no answer for {age}").red().bold())
        }
        Some(_) if view.typing => Paragraph::new(format!("search: {}_", view.search()).bold()),
        Some(_) if !view.search().is_empty() => {
            Paragraph::new(format!("search: {}   Esc clears it", view.search()).bold())
        }
        Some(_) => {
            Paragraph::new("q quit  1-5 Tab tables  ↑↓ scroll  / search  s sort  ? help".dim())
        }
    }
}
