//! Tables in documents. `--update FILE` replaces the tables with the results of the current run.
//!
//! A table is between the lines `<!-- simulation NAME -->` and `<!-- end -->`, where `NAME` is
//! the name of a scenario.

use std::fmt::Write;

use crate::report::{Report, ScenarioReport, format_value};

const BEGIN: &str = "<!-- simulation ";
const END: &str = "<!-- end -->";

/// An error in a document.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum DocumentError {
    #[error("line {0}: the table has no `{END}`")]
    Unterminated(usize),
    #[error("line {0}: scenario `{1}` was not simulated")]
    Unknown(usize, String),
}

/// Returns the document with new tables.
///
/// # Errors
/// If a table has no end, or if its scenario is not part of the report.
pub fn update(document: &str, report: &Report) -> Result<String, DocumentError> {
    let mut updated = String::new();
    let mut lines = (1..).zip(document.lines());
    while let Some((number, line)) = lines.next() {
        updated.push_str(line);
        updated.push('\n');
        let name = line
            .strip_prefix(BEGIN)
            .and_then(|rest| rest.strip_suffix(" -->"));
        let Some(name) = name else {
            continue;
        };
        let mut scenarios = report.scenarios.iter();
        let scenario = scenarios
            .find(|scenario| scenario.name == name)
            .ok_or_else(|| DocumentError::Unknown(number, name.to_owned()))?;
        updated.push_str(&table(scenario));
        if !lines.any(|(_, line)| line == END) {
            return Err(DocumentError::Unterminated(number));
        }
        updated.push_str(END);
        updated.push('\n');
    }
    Ok(updated)
}

/// A table in Markdown.
fn table(scenario: &ScenarioReport) -> String {
    let mut table = format!("\n| | {} |\n|---|", scenario.columns.join(" | "));
    table.push_str(&"---:|".repeat(scenario.columns.len()));
    table.push('\n');
    for row in &scenario.rows {
        let values: Vec<String> = row.values.iter().copied().map(format_value).collect();
        // Writing to a string does not fail.
        let _ = writeln!(table, "| `{}` | {} |", row.algorithm, values.join(" | "));
    }
    table.push('\n');
    table
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::report::Row;

    fn report() -> Report {
        let row = Row {
            algorithm: "p2c".to_owned(),
            values: vec![1.25, 33.0],
            rate: Vec::new(),
            share: Vec::new(),
        };
        Report {
            seed: 1,
            scenarios: vec![ScenarioReport {
                name: "steady".to_owned(),
                summary: String::new(),
                runs: 1,
                columns: vec!["peak/mean".to_owned(), "x %".to_owned()],
                rows: vec![row],
            }],
        }
    }

    #[test]
    fn marked_tables_are_replaced() {
        let document = "a\n<!-- simulation steady -->\nold\n<!-- end -->\nb\n";
        let expected = "a\n<!-- simulation steady -->\n\n| | peak/mean | x % |\n|---|---:|---:|\n\
                        | `p2c` | 1.250 | 33 |\n\n<!-- end -->\nb\n";
        let updated = update(document, &report()).unwrap();
        assert_eq!(updated, expected);
        assert_eq!(update(&updated, &report()).unwrap(), expected);
    }

    #[test]
    fn broken_markers_are_errors() {
        let error = |document| update(document, &report()).unwrap_err();
        assert_eq!(
            error("<!-- simulation steady -->\n"),
            DocumentError::Unterminated(1)
        );
        let unknown = DocumentError::Unknown(1, "other".to_owned());
        assert_eq!(error("<!-- simulation other -->\n<!-- end -->\n"), unknown);
    }
}
