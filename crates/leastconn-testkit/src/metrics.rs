//! A parser for the Prometheus text format.

use std::collections::HashMap;

/// Values by name and labels, such as `name{a="1",b="2"}`, with labels in alphabetical
/// order.
pub type Metrics = HashMap<String, f64>;

/// Parses the text format.
///
/// # Panics
/// If a line is invalid. Prometheus rejects a response that contains an invalid line.
pub fn parse(text: &str) -> Metrics {
    text.lines()
        .filter(|line| !line.is_empty() && !line.starts_with('#'))
        .map(|line| {
            let (key, value) = line.rsplit_once(' ').unwrap_or_else(|| panic!("{line:?}"));
            (
                normalise(key),
                value.parse().unwrap_or_else(|e| panic!("{line:?}: {e}")),
            )
        })
        .collect()
}

/// Sorts the labels of `name{…}` alphabetically.
pub fn normalise(key: &str) -> String {
    let Some((name, labels)) = key.strip_suffix('}').and_then(|key| key.split_once('{')) else {
        return key.to_owned();
    };
    // A comma inside quotes is part of a value.
    let (mut quoted, mut escaped) = (false, false);
    let mut labels: Vec<&str> = labels
        .split(|c| {
            let separator = c == ',' && !quoted;
            quoted ^= c == '"' && !escaped;
            escaped = c == '\\' && !escaped;
            separator
        })
        .filter(|label| !label.is_empty())
        .collect();
    labels.sort_unstable();
    if labels.is_empty() {
        name.to_owned()
    } else {
        format!("{name}{{{}}}", labels.join(","))
    }
}

/// All samples named `name`, with any labels.
pub fn family<'m>(metrics: &'m Metrics, name: &str) -> impl Iterator<Item = (&'m str, f64)> {
    metrics.iter().filter_map(move |(key, value)| {
        let rest = key.strip_prefix(name)?;
        (rest.is_empty() || rest.starts_with('{')).then_some((key.as_str(), *value))
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn labels_match_in_any_order() {
        let text =
            "# TYPE a gauge\na{y=\"1,\\\"2\",x=\"z\"} 3\nb 1e3\na_total{} 4\nc +Inf\n# EOF\n";
        let metrics = parse(text);
        assert_eq!(metrics[&normalise(r#"a{x="z",y="1,\"2"}"#)], 3.0);
        assert_eq!(metrics["b"], 1000.0);
        assert_eq!(metrics["a_total"], 4.0);
        assert_eq!(family(&metrics, "a").count(), 1);
    }
}
