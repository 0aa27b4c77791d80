//! Renders an explanation as text.

use super::explanation::{CertificateSummary, Explanation, ListenerResult, RateLimit, SourceLimit};
use leastconn_config::visible;

/// Renders the whole explanation. Control characters from certificates are escaped.
pub(super) fn render(explanation: &Explanation) -> String {
    let mut page = Page::default();
    if let Some(summary) = &explanation.certificate {
        certificate(summary, &mut page);
    }
    page.heading("connection");
    let assumed = if explanation.source_assumed {
        " (default; set it with --source)"
    } else {
        ""
    };
    page.row("source", &format!("{}{assumed}", explanation.source));
    page.row(
        "server name",
        explanation
            .sni
            .as_deref()
            .unwrap_or("none (set it with --sni)"),
    );
    page.row(
        "balancer",
        if explanation.balancer_running {
            "running: its blocks and the state of its servers are taken into account"
        } else {
            "not reached: no client counts as blocked, and all servers count as available"
        },
    );
    for result in &explanation.listeners {
        listener(result, &mut page);
    }
    page.0
}

#[derive(Default)]
struct Page(String);

impl Page {
    fn heading(&mut self, text: &str) {
        if !self.0.is_empty() {
            self.0.push('\n');
        }
        self.0.push_str(text);
        self.0.push('\n');
    }

    fn row(&mut self, name: &str, text: &str) {
        self.0
            .push_str(&format!("  {name:<12} {}\n", visible(text)));
    }

    /// Adds one line per text. Only the first line starts with `name`.
    fn rows<'a>(&mut self, name: &str, texts: impl IntoIterator<Item = &'a str>) {
        let mut name = name;
        for text in texts {
            self.row(name, text);
            name = "";
        }
    }
}

fn certificate(summary: &CertificateSummary, page: &mut Page) {
    /// Maximum number of names listed per kind.
    const MAX_NAMES: usize = 20;
    page.heading("certificate");
    page.row("subject", &summary.subject);
    page.row("issuer", &summary.issuer);
    page.row(
        "valid",
        &format!("{} to {}", summary.not_before, summary.not_after),
    );
    if let Some(serial) = &summary.serial {
        page.row("serial", serial);
    }
    if summary.intermediates > 0 {
        page.row(
            "chain",
            &format!("intermediates in the file: {}", summary.intermediates),
        );
    }
    for (name, texts) in [
        ("identities", &summary.candidates),
        ("attributes", &summary.attributes),
    ] {
        page.rows(name, texts.iter().take(MAX_NAMES).map(|text| &**text));
        if texts.len() > MAX_NAMES {
            page.row("", &format!("and {} more", texts.len() - MAX_NAMES));
        }
    }
    page.rows(
        "hint",
        summary.hints.iter().take(MAX_NAMES).map(|hint| &**hint),
    );
    if let Some(ambiguous) = &summary.ambiguous {
        page.row("ambiguous", ambiguous);
    }
}

fn listener(result: &ListenerResult, page: &mut Page) {
    page.heading(&format!("listener {}", result.listener));
    if let Some(SourceLimit { source, limit }) = &result.source_rate_limit {
        let text = format!("{} from {source} (source_rate_limit)", rate_text(limit));
        page.row("source limit", &text);
    }
    page.row("trust", &result.trust);
    if let Some(tried) = &result.rules {
        let lines = tried.shown.iter();
        let mut lines: Vec<_> = lines
            .map(|line| format!("{}. {}: {}", line.number, line.client, line.why))
            .collect();
        if tried.left_out > 0 {
            lines.push(format!(
                "(other rules, which do not match: {})",
                tried.left_out
            ));
        }
        if tried.not_tried > 0 {
            lines.push(format!("(later rules, not evaluated: {})", tried.not_tried));
        }
        if lines.is_empty() {
            lines.push("none configured".to_owned());
        }
        page.rows("rules", lines.iter().map(|line| &**line));
    }
    if let Some(shadow) = &result.shadow {
        let text = format!("{} would decide: {}", shadow.client, shadow.outcome);
        page.row("shadow", &text);
    }
    if let (Some(client), Some(identity)) = (&result.client, &result.identity) {
        page.row(
            "client",
            &format!("{client}, identified as {identity} (the identity for `ctl block`)"),
        );
        page.row("limits", &limits(result));
        page.row("expires", result.expires.as_deref().unwrap_or("never"));
    }
    if let Some(routing) = &result.routing {
        /// Maximum number of routes listed.
        const MAX_ROUTES: usize = 10;
        let routes = routing.routes.iter();
        let mut routes: Vec<_> = routes
            .take(MAX_ROUTES)
            .map(|route| {
                let upstream = route.upstream.as_deref().unwrap_or("refused");
                format!("{}: {upstream}", route.sni)
            })
            .collect();
        let more = routing.routes.len() - routes.len();
        if more > 0 {
            routes.push(format!("and {more} more"));
        }
        page.rows("routes", routes.iter().map(|line| &**line));
        page.row("routed to", &routing.selected);
    }
    if let Some(upstream) = &result.upstream {
        page.row("upstream", upstream);
        page.rows("discovery", result.discovery.iter().map(|line| &**line));
        match &result.no_servers {
            Some(why) => page.row("servers", &format!("none: {why}")),
            None => {
                let servers = result.servers.iter().map(|name| {
                    let is_backup = result.backup_servers.contains(name);
                    let notes = is_backup.then_some("backup").into_iter();
                    let notes = notes.chain(result.unavailable_servers.get(name).map(|why| &**why));
                    match &*notes.collect::<Vec<_>>().join(", ") {
                        "" => name.clone(),
                        notes => format!("{name} ({notes})"),
                    }
                });
                page.row("servers", &servers.collect::<Vec<_>>().join(", "));
            }
        }
    }
    let verdict = match &result.detail {
        None if result.outcome == "ok" => match result.note {
            Some(note) => format!("ok: the connection is accepted; {note}"),
            None => "ok: the connection is accepted".to_owned(),
        },
        None => result.outcome.to_owned(),
        Some(detail) => format!("{}: {detail}", result.outcome),
    };
    page.row("verdict", &verdict);
}

fn limits(result: &ListenerResult) -> String {
    let rate = result.rate_limit.as_ref().map(rate_text);
    let max_conns = result
        .max_conns
        .map(|count| format!("at most {count} open"));
    let limits: Vec<_> = rate.into_iter().chain(max_conns).collect();
    if limits.is_empty() {
        "none".to_owned()
    } else {
        limits.join("; ")
    }
}

fn rate_text(limit: &RateLimit) -> String {
    format!(
        "{} new connections per second, burst {}",
        limit.rate, limit.burst
    )
}
