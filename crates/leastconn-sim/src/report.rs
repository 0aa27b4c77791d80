//! Runs scenarios, and prints the results as a table or as JSON.

use std::fmt::{self, Write};

use leastconn::{Balance, PoolError};
use serde::Serialize;

use crate::{
    measure,
    scenario::{Scenario, Variants},
    simulation::simulate,
    site::Site,
};

/// The results of all scenarios.
#[derive(Debug, Serialize)]
pub struct Report {
    pub seed: u64,
    pub scenarios: Vec<ScenarioReport>,
}

#[derive(Debug, Serialize)]
pub struct ScenarioReport {
    pub name: String,
    pub summary: String,
    /// Number of simulations whose mean is reported.
    pub runs: u32,
    pub columns: Vec<String>,
    pub rows: Vec<Row>,
}

/// The results of one algorithm, or of another variant of the scenario.
#[derive(Debug, Serialize)]
pub struct Row {
    pub algorithm: String,
    /// One value per column.
    pub values: Vec<f64>,
    /// One item per second, starting when the watched server received its first connection: the
    /// rate of its new connections, relative to its fair share.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub rate: Vec<f64>,
    /// One item per second, likewise: its open connections, relative to its fair share.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub share: Vec<f64>,
}

/// Simulates a scenario with each of its variants.
///
/// # Errors
/// If the scenario has no servers.
pub fn run(scenario: &Scenario, seed: u64) -> Result<ScenarioReport, PoolError> {
    let variants: Vec<_> = match &scenario.variants {
        Variants::Algorithms => Balance::ALL
            .iter()
            .map(|&balance| (balance.to_string(), balance, scenario.site.sharing))
            .collect(),
        Variants::Sharing(variants) => variants
            .iter()
            .map(|&(name, balance, sharing)| (name.to_owned(), balance, sharing))
            .collect(),
    };
    let mut rows = Vec::new();
    for (name, balance, sharing) in variants {
        let site = Site {
            sharing,
            ..scenario.site.clone()
        };
        let outcomes = (0..u64::from(scenario.runs))
            .map(|run| {
                let seed = seed.wrapping_mul(1_000).wrapping_add(run);
                let arrivals = scenario
                    .workload
                    .arrivals(site.duration, site.balancers, seed);
                simulate(&site, &arrivals, balance, seed)
            })
            .collect::<Result<Vec<_>, _>>()?;
        let measures = scenario.measures.iter();
        let seconds = measure::seconds(&outcomes);
        rows.push(Row {
            algorithm: name,
            values: measures.map(|measure| measure.value(&outcomes)).collect(),
            rate: seconds.iter().map(|second| second.rate).collect(),
            share: seconds.iter().map(|second| second.share).collect(),
        });
    }
    Ok(ScenarioReport {
        name: scenario.name.to_owned(),
        summary: scenario.summary.to_owned(),
        runs: scenario.runs,
        columns: scenario
            .measures
            .iter()
            .map(|measure| measure.column())
            .collect(),
        rows,
    })
}

impl fmt::Display for ScenarioReport {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(f, "{}: {}", self.name, self.summary)?;
        let longest = self.rows.iter().map(|row| row.algorithm.len()).max();
        let indent = longest.unwrap_or(0).max(12);
        let mut header = format!("  {:<indent$}", "");
        for column in &self.columns {
            let _ = write!(header, "  {column:>9}");
        }
        writeln!(f, "{header}")?;
        for row in &self.rows {
            write!(f, "  {:<indent$}", row.algorithm)?;
            for (value, column) in row.values.iter().zip(&self.columns) {
                let width = column.chars().count().max(9);
                write!(f, "  {:>width$}", format_value(*value))?;
            }
            writeln!(f)?;
        }
        Ok(())
    }
}

/// Uses three decimals for small values and one for large values. Zero is written without decimals,
/// so that it differs from values that round to zero.
pub(crate) fn format_value(value: f64) -> String {
    if value == 0.0 || (value >= 10.0 && value.fract() == 0.0) {
        format!("{value:.0}")
    } else if value < 10.0 {
        format!("{value:.3}")
    } else {
        format!("{value:.1}")
    }
}
