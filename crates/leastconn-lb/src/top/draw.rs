//! How it looks.

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
    Picture,
    view::{Tab, View},
};
use crate::figures;
use leastconn_server::api::{Phase, ReloadOutcome, Sample, outage};

/// An answer that is older than this is not what is so now.
const OLD: Duration = Duration::from_secs(5);

/// Lines about upstreams without an available server and servers that are down.
const OUTAGES: usize = 4;

/// Below this, curves would take the place of what is looked for.
const ROOM_FOR_CURVES: u16 = 22;

/// Below this, the sums may need a second row. It is there then in any case: nothing is to
/// move when a number gets longer.
const ROOM_FOR_SUMS: u16 = 100;

pub(super) fn draw(frame: &mut Frame<'_>, view: &mut View, now: Instant) {
    let area = frame.area();
    let curves = if area.height >= ROOM_FOR_CURVES { 5 } else { 0 };
    let picture = view.picture.as_ref().map(|(picture, _)| picture);
    let troubles = picture.map(troubles).unwrap_or_default();
    let sums = picture.map(sums).unwrap_or_default();
    let needed = |line: &Line<'_>| rows(line, area.width);
    let each: Vec<u16> = troubles.iter().map(needed).collect();
    let [head, trouble, figures, curve, tabs, table, foot] = Layout::vertical([
        Constraint::Length(1),
        Constraint::Length(each.iter().sum()),
        Constraint::Length(if area.width < ROOM_FOR_SUMS { 2 } else { 1 }),
        Constraint::Length(curves),
        Constraint::Length(1),
        Constraint::Min(1),
        Constraint::Length(1),
    ])
    .areas(area);
    frame.render_widget(footer(view, now), foot);
    let titles = Tab::ALL.iter().zip(1..);
    let titles = titles.map(|(tab, number)| format!("{number} {}", tab.title()));
    let chosen = Style::new().add_modifier(Modifier::REVERSED | Modifier::BOLD);
    frame.render_widget(
        Tabs::new(titles)
            .select(view.tab as usize)
            .highlight_style(chosen)
            .divider(" "),
        tabs,
    );
    // Taken out while the rest of the view is changed.
    let Some((picture, told)) = view.picture.take() else {
        frame.render_widget("leastconn", head);
        return;
    };
    frame.render_widget(heading(&picture), head);
    let areas = Layout::vertical(each.into_iter().map(Constraint::Length)).split(trouble);
    for (line, area) in troubles.into_iter().zip(areas.iter()) {
        frame.render_widget(wrapped(line), *area);
    }
    frame.render_widget(wrapped(sums), figures);
    if curves > 0 {
        draw_curves(frame, &picture, curve);
    }
    tables::draw(frame, view, &picture, table);
    view.picture = Some((picture, told));
}

/// Rows that a line may take.
const MOST: usize = 3;

/// Rows that a line takes, without which its end would not be seen.
fn rows(line: &Line<'_>, width: u16) -> u16 {
    // At most MOST.
    line.width().div_ceil(width.max(1).into()).min(MOST) as u16
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

fn heading(picture: &Picture) -> Line<'static> {
    let status = &picture.status;
    vec![
        Span::from(format!("leastconn {} ", status.version)).bold(),
        phase(status.phase),
        format!(
            "  up {}  {}",
            figures::age(status.uptime_seconds),
            status.configuration.file
        )
        .into(),
    ]
    .into()
}

/// What an operator must know of before anything else, a line each.
fn troubles(picture: &Picture) -> Vec<Line<'static>> {
    let (status, mut lines) = (&picture.status, Vec::new());
    let configuration = &status.configuration;
    if let Some(reload) = &configuration.last_reload
        && reload.outcome == ReloadOutcome::Rejected
    {
        let (first, more) = match &reload.reasons[..] {
            [] => ("", String::new()),
            [first] => (&**first, String::new()),
            [first, rest @ ..] => (&**first, format!(" (and {} more)", rest.len())),
        };
        // The place and what is wrong; the lines that follow show the place.
        let first = first.lines().next().unwrap_or_default();
        lines.push(
            format!("last reload REJECTED{more}: {first}")
                .red()
                .bold()
                .into(),
        );
    }
    if let Some(blocked) = &configuration.blocked {
        let text = format!("reading is BLOCKED by {blocked}");
        lines.push(text.red().bold().into());
    }
    if let Some(failed) = &status.failed_upgrade {
        let why = format!("last upgrade FAILED: {}", failed.reason);
        lines.push(why.red().bold().into());
    }
    let outages = outage::lines(&status.upstreams, OUTAGES).into_iter();
    lines.extend(outages.map(|line| line.red().bold().into()));
    for old in &status.old_processes {
        lines.push(old.to_string().yellow().into());
    }
    if !configuration.deviations.is_empty() {
        let all = configuration.deviations.iter();
        let all: Vec<_> = all.map(|d| format!("{} {}", d.what, d.is)).collect();
        lines.push(format!("by hand: {}", all.join(", ")).yellow().into());
    }
    lines
}

fn sums(picture: &Picture) -> Line<'static> {
    let totals = &picture.status.connections;
    let last = picture.history.samples.last();
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

/// A title, what is drawn, and how its largest value is written.
type Curve = (&'static str, fn(&Sample) -> f64, fn(f64) -> String);

fn draw_curves(frame: &mut Frame<'_>, picture: &Picture, area: Rect) {
    let samples = &picture.history.samples;
    let curves: [Curve; 3] = [
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
    for ((name, value, text), area) in curves.into_iter().zip(areas) {
        // The newest at the right edge.
        let width = usize::from(area.width);
        let shown = &samples[samples.len().saturating_sub(width)..];
        let values: Vec<f64> = shown.iter().map(value).collect();
        let most = values.iter().copied().fold(0.0, f64::max);
        let scaled = values.iter().map(|value| (value * 100.0).round() as u64);
        let missing = std::iter::repeat_n(0, width - shown.len());
        let data: Vec<u64> = missing.chain(scaled).collect();
        let title = format!("{name}, most {}", text(most));
        frame.render_widget(
            Sparkline::default()
                .block(Block::new().title(title.dim()))
                .data(data),
            area,
        );
    }
}

fn footer(view: &View, now: Instant) -> Paragraph<'static> {
    let age = view
        .picture
        .as_ref()
        .map(|(_, told)| now.saturating_duration_since(*told));
    if let Some(why) = &view.trouble {
        let since = age.map_or_else(String::new, |age| {
            format!(", for {}", figures::age(age.as_secs()))
        });
        return Paragraph::new(format!("no answer{since}: {why}").red().bold());
    }
    match age {
        None => Paragraph::new("asking …".dim()),
        Some(age) if age > OLD => {
            let age = figures::age(age.as_secs());
            Paragraph::new(format!("no answer for {age}").red().bold())
        }
        Some(_) if view.typing => Paragraph::new(format!("search: {}_", view.search()).bold()),
        Some(_) if !view.search().is_empty() => {
            Paragraph::new(format!("search: {}   Esc ends it", view.search()).bold())
        }
        Some(_) => Paragraph::new("q quit  1-5 Tab tables  ↑↓ scroll  / search".dim()),
    }
}
