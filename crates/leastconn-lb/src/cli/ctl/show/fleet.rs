//! Renders the fleet: its members, its store, and the results of commands for the fleet.

use leastconn_server::api::{
    Fleet, FleetResult, FleetState, FleetSummary, Member, MemberState, SetFor,
};

use crate::{
    cli::ctl::table::{Align, Cell, OutputStyle, Table, Tone},
    figures,
};

pub(in crate::cli::ctl) fn fleet(fleet: &Fleet, style: &OutputStyle) -> String {
    let mut out = String::new();
    let mut row = |name: &str, text: &str| {
        out.push_str(&format!("{name:<14} {text}\n"));
    };
    row("fleet", &fleet.name);
    let state = style.paint(fleet.state.as_str(), tone(fleet.state));
    row("state", &format!("{state} since {}", fleet.since));
    let store = &fleet.store;
    let round_trip = store
        .round_trip_ms
        .map(|ms| format!(", round trip {ms:.2} ms"))
        .unwrap_or_default();
    row(
        "store",
        &format!(
            "{}{round_trip}, {}",
            store.address,
            figures::count(
                usize::try_from(store.failures).unwrap_or(usize::MAX),
                "failure"
            )
        ),
    );
    if let Some(error) = &store.error {
        row("", &style.paint(error, Tone::Bad));
    }
    out.push('\n');
    let mut table = Table::new(&[
        ("MEMBER", Align::Left),
        ("STATUS", Align::Left),
        ("OPEN", Align::Right),
        ("HEARD", Align::Right),
        ("VERSION", Align::Left),
        ("HOST", Align::Left),
        ("CONFIGURATION", Align::Truncate),
    ]);
    let own_version = fleet.members.iter().find(|member| member.this);
    let own_version = own_version.and_then(|member| member.version.clone());
    for member in &fleet.members {
        let this = if member.this { " (this)" } else { "" };
        let version = member.version.clone().unwrap_or_else(|| "-".to_owned());
        let is_other = own_version.as_ref().is_some_and(|own| *own != version);
        table.row(vec![
            format!("{}{this}", member.member).into(),
            match member.status {
                MemberState::Serving => Cell("serving".to_owned(), Tone::Good),
                MemberState::Leaving => Cell("leaving".to_owned(), Tone::Warning),
            },
            member
                .connections
                .map_or_else(|| "-".to_owned(), |open| open.to_string())
                .into(),
            format!("{:.1}s", member.last_heard_seconds).into(),
            Cell(version, if is_other { Tone::Warning } else { Tone::Plain }),
            member.host.as_deref().unwrap_or("-").into(),
            configuration(member),
        ]);
    }
    out.push_str(&table.render(style));
    out
}

fn configuration(member: &Member) -> Cell {
    let Some(digest) = &member.configuration else {
        return "-".into();
    };
    let since = member.configuration_since.as_deref().unwrap_or("-");
    if member.other_configuration {
        let text = format!("runs ANOTHER configuration ({digest}) since {since}");
        Cell(text, Tone::Warning)
    } else {
        format!("{digest} since {since}").into()
    }
}

fn tone(state: FleetState) -> Tone {
    match state {
        FleetState::Joined => Tone::Good,
        FleetState::Joining => Tone::Warning,
        FleetState::CutOff => Tone::Bad,
    }
}

/// Returns one line for `ctl status`.
pub(super) fn summary(fleet: &FleetSummary, style: &OutputStyle) -> String {
    let state = style.paint(fleet.state.as_str(), tone(fleet.state));
    let mut line = format!("{}, {state} since {}", fleet.name, fleet.since);
    line.push_str(&format!(", {}", figures::count(fleet.members, "member")));
    let leaving = fleet.members.saturating_sub(fleet.serving);
    if leaving > 0 {
        line.push_str(&format!(" ({leaving} leaving)"));
    }
    if fleet.other_configurations > 0 {
        let text = format!(
            ", {} with another configuration",
            fleet.other_configurations
        );
        line.push_str(&style.paint(&text, Tone::Warning));
    }
    if let (Some(error), FleetState::Joining | FleetState::CutOff) = (&fleet.error, fleet.state) {
        line.push_str(&style.paint(&format!(": {error}"), Tone::Bad));
    }
    line
}

/// Describes which balancers a setting applies to. Empty without a fleet.
pub(super) fn set_for(set_for: Option<SetFor>) -> &'static str {
    match set_for {
        None => "",
        Some(SetFor::Here) => ", on this balancer only",
        Some(SetFor::Fleet) => ", for the fleet",
    }
}

/// Describes what a command for the fleet has left undone, or returns `None` if it is complete.
pub(in crate::cli::ctl) fn incomplete(result: &FleetResult) -> Option<String> {
    if let Some(error) = &result.error {
        return Some(format!("done on this balancer only: {error}"));
    }
    (!result.missing.is_empty()).then(|| {
        format!(
            "{} did not confirm within a second: {}",
            figures::count(result.missing.len(), "member"),
            result.missing.join(", ")
        )
    })
}

#[cfg(test)]
mod tests {
    use leastconn_server::api::Store;

    use super::*;

    fn member(name: &str, this: bool) -> Member {
        Member {
            member: name.to_owned(),
            this,
            status: MemberState::Serving,
            version: Some("1.2.3".to_owned()),
            host: Some(format!("{name}.internal")),
            configuration: Some("0123456789abcdef".to_owned()),
            configuration_since: Some("2026-11-30T14:02:00.000Z".to_owned()),
            other_configuration: false,
            connections: Some(12),
            last_heard_seconds: 0.05,
        }
    }

    #[test]
    fn fleet_is_a_table_of_members() {
        let style = OutputStyle::new(None, false);
        let mut other = member("lb2", false);
        other.other_configuration = true;
        other.configuration = Some("fedcba9876543210".to_owned());
        other.status = MemberState::Leaving;
        let mut unknown = member("lb3", false);
        (unknown.version, unknown.host) = (None, None);
        (unknown.configuration, unknown.connections) = (None, None);
        let shown = fleet(
            &Fleet {
                name: "edge".to_owned(),
                state: FleetState::CutOff,
                since: "2026-11-30T14:00:00.000Z".to_owned(),
                store: Store {
                    address: "valkey:6379".to_owned(),
                    round_trip_ms: Some(0.754),
                    failures: 1,
                    error: Some("no answer in 250 ms".to_owned()),
                },
                members: vec![member("lb1", true), other, unknown],
            },
            &style,
        );
        let lines: Vec<_> = shown.lines().map(str::trim_end).collect();
        assert_eq!(
            lines,
            [
                "fleet          edge",
                "state          cut off since 2026-11-30T14:00:00.000Z",
                "store          valkey:6379, round trip 0.75 ms, 1 failure",
                "               no answer in 250 ms",
                "",
                "MEMBER      STATUS   OPEN  HEARD  VERSION  HOST          CONFIGURATION",
                "lb1 (this)  serving    12   0.1s  1.2.3    lb1.internal  0123456789abcdef since 2026-11-30T14:02:00.000Z",
                "lb2         leaving    12   0.1s  1.2.3    lb2.internal  runs ANOTHER configuration (fedcba9876543210) since 2026-11-30T14:02:00.000Z",
                "lb3         serving     -   0.1s  -        -             -",
            ]
        );
    }

    #[test]
    fn incomplete_commands_are_explained() {
        let mut result = FleetResult::default();
        assert_eq!(incomplete(&result), None);
        result.missing = vec!["lb2".to_owned(), "lb3".to_owned()];
        assert_eq!(
            incomplete(&result).unwrap(),
            "2 members did not confirm within a second: lb2, lb3"
        );
        result.error = Some("the store does not answer".to_owned());
        assert_eq!(
            incomplete(&result).unwrap(),
            "done on this balancer only: the store does not answer"
        );
    }
}
