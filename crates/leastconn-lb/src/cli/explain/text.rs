//! The answer for people.

use super::account::{Account, AtListener, Shown};
use leastconn_server::config::visible;

/// All of it. Text from certificates is made visible where a terminal would obey it.
pub(super) fn text(account: &Account) -> String {
    let mut page = Page::default();
    if let Some(shown) = &account.certificate {
        certificate(shown, &mut page);
    }
    page.heading("connection");
    let assumed = if account.source_assumed {
        " (assumed: say --source if it matters)"
    } else {
        ""
    };
    page.row("source", &format!("{}{assumed}", account.source));
    page.row(
        "server name",
        account.sni.as_deref().unwrap_or("none (--sni)"),
    );
    for answer in &account.listeners {
        listener(answer, &mut page);
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

    /// The name once, and a line for each.
    fn rows<'a>(&mut self, name: &str, texts: impl IntoIterator<Item = &'a str>) {
        let mut name = name;
        for text in texts {
            self.row(name, text);
            name = "";
        }
    }
}

fn certificate(shown: &Shown, page: &mut Page) {
    /// Names of one kind that are shown.
    const MANY: usize = 20;
    page.heading("certificate");
    page.row("subject", &shown.subject);
    page.row("issuer", &shown.issuer);
    page.row(
        "valid",
        &format!("{} to {}", shown.not_before, shown.not_after),
    );
    if let Some(serial) = &shown.serial {
        page.row("serial", serial);
    }
    if shown.above > 0 {
        page.row("with it", &format!("{} above it in the file", shown.above));
    }
    for (name, texts) in [
        ("identities", &shown.candidates),
        ("and", &shown.attributes),
    ] {
        page.rows(name, texts.iter().take(MANY).map(|text| &**text));
        if texts.len() > MANY {
            page.row("", &format!("and {} more", texts.len() - MANY));
        }
    }
    page.rows("hint", shown.hints.iter().take(MANY).map(|hint| &**hint));
    if let Some(ambiguous) = &shown.ambiguous {
        page.row("ambiguous", ambiguous);
    }
}

fn listener(answer: &AtListener, page: &mut Page) {
    page.heading(&format!("listener {}", answer.listener));
    page.row("trust", &answer.trust);
    if let Some(tried) = &answer.rules {
        let lines = tried.shown.iter();
        let mut lines: Vec<_> = lines
            .map(|line| format!("{}. {}: {}", line.number, line.client, line.why))
            .collect();
        if tried.left_out > 0 {
            lines.push(format!(
                "({} more were tried and do not match)",
                tried.left_out
            ));
        }
        if tried.not_tried > 0 {
            lines.push(format!("({} after it: not tried)", tried.not_tried));
        }
        if lines.is_empty() {
            lines.push("there are none".to_owned());
        }
        page.rows("rules", lines.iter().map(|line| &**line));
    }
    if let Some(shadow) = &answer.shadow {
        let would = format!("{} would have decided: {}", shadow.client, shadow.outcome);
        page.row("shadow", &would);
    }
    if let (Some(client), Some(identity)) = (&answer.client, &answer.identity) {
        page.row("client", &format!("{client}, as {identity}"));
        page.row("limits", &limits(answer));
        page.row("expires", answer.expires.as_deref().unwrap_or("never"));
    }
    if let Some(upstream) = &answer.upstream {
        page.row("upstream", upstream);
        page.row("servers", &answer.servers.join(", "));
    }
    let verdict = match &answer.detail {
        None if answer.outcome == "ok" => "ok: it would be let in".to_owned(),
        None => answer.outcome.to_owned(),
        Some(detail) => format!("{}: {detail}", answer.outcome),
    };
    page.row("verdict", &verdict);
}

fn limits(answer: &AtListener) -> String {
    let rate = answer
        .rate_limit
        .as_ref()
        .map(|rate| format!("{} new a second, burst {}", rate.rate, rate.burst));
    let at_once = answer.max_conns.map(|count| format!("{count} at once"));
    let limits: Vec<_> = rate.into_iter().chain(at_once).collect();
    if limits.is_empty() {
        "none".to_owned()
    } else {
        limits.join("; ")
    }
}
