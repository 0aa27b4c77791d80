//! Text formats of metrics, and negotiation of the format with a scraper.

use std::fmt::Write;

/// Text format of a scrape.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Format {
    /// Prometheus text format 0.0.4, which every scraper, `promtool` and `grep`
    /// understands.
    Prometheus,
    /// OpenMetrics 1.0.0.
    OpenMetrics,
}

impl Format {
    /// Returns the format for an `Accept` header: OpenMetrics only if the header names it with at
    /// least the quality of `text/plain`.
    pub fn negotiate(accept: Option<&str>) -> Self {
        let (mut open_metrics, mut text) = (0.0, 0.0);
        for item in accept.unwrap_or_default().split(',') {
            let mut parts = item.split(';').map(str::trim);
            let quality = match parts.next() {
                Some("application/openmetrics-text") => &mut open_metrics,
                Some("text/plain") => &mut text,
                _ => continue,
            };
            let value = parts.find_map(|part| part.strip_prefix("q="));
            let value = value.map_or(1.0, |value| value.parse().unwrap_or(0.0));
            *quality = f32::max(*quality, value);
        }
        if open_metrics > 0.0 && open_metrics >= text {
            Self::OpenMetrics
        } else {
            Self::Prometheus
        }
    }

    /// Value of `Content-Type`.
    pub const fn content_type(self) -> &'static str {
        match self {
            Self::Prometheus => "text/plain; version=0.0.4; charset=utf-8",
            Self::OpenMetrics => "application/openmetrics-text; version=1.0.0; charset=utf-8",
        }
    }
}

/// Converts OpenMetrics to Prometheus text. prometheus-client only writes OpenMetrics. For
/// the types used here, the formats differ in two ways: in Prometheus text, `_total` is
/// part of a counter's family name, and there is no `# EOF` line.
pub(super) fn to_prometheus(open_metrics: &str) -> String {
    let mut text = String::with_capacity(open_metrics.len() + 1024);
    let mut help: Option<&str> = None;
    for line in open_metrics.lines() {
        if line == "# EOF" || line.starts_with("# UNIT ") {
            continue;
        }
        if let Some(rest) = line.strip_prefix("# HELP ") {
            help = Some(rest);
            continue;
        }
        if let Some(rest) = line.strip_prefix("# TYPE ") {
            let (name, kind) = rest.split_once(' ').unwrap_or((rest, "untyped"));
            let total = if kind == "counter" { "_total" } else { "" };
            if let Some((_, description)) = help.take().and_then(|help| help.split_once(' ')) {
                let _ = writeln!(text, "# HELP {name}{total} {description}");
            }
            let _ = writeln!(text, "# TYPE {name}{total} {kind}");
            continue;
        }
        text.push_str(line);
        text.push('\n');
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn openmetrics_only_if_preferred() {
        let prometheus = "application/openmetrics-text;version=1.0.0;q=0.6,\
            application/openmetrics-text;version=0.0.1;q=0.5,text/plain;version=0.0.4;q=0.3,*/*;q=0.2";
        for accept in [prometheus, "application/openmetrics-text"] {
            assert_eq!(Format::negotiate(Some(accept)), Format::OpenMetrics);
        }
        for accept in [
            "*/*",
            "",
            "text/html, */*;q=0.8",
            "text/plain, application/openmetrics-text;q=0.5",
            "application/openmetrics-text;q=0",
            "application/openmetrics-text;q=x",
        ] {
            let format = Format::negotiate(Some(accept));
            assert_eq!(format, Format::Prometheus, "{accept:?}");
        }
        assert_eq!(Format::negotiate(None), Format::Prometheus);
    }
}
