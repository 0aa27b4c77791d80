//! Renders removed servers, and the sources of discovered servers.

use leastconn_server::api::{RemovedServer, Source};

use super::super::table::{Align, Cell, OutputStyle, Table, Tone};
use crate::figures;

pub(super) fn removed(servers: &[RemovedServer], style: &OutputStyle) -> String {
    if servers.is_empty() {
        return String::new();
    }
    let mut table = Table::new(&[
        ("REMOVED", Align::Left),
        ("OPEN", Align::Right),
        ("ADDRESS", Align::Truncate),
    ]);
    for server in servers {
        table.row(vec![
            format!("{}/{}", server.upstream, server.server).into(),
            server.active.to_string().into(),
            (&*server.address).into(),
        ]);
    }
    table.render(style)
}

pub(super) fn sources(sources: &[Source], style: &OutputStyle) -> String {
    if sources.is_empty() {
        return String::new();
    }
    let mut table = Table::new(&[
        ("UPSTREAM", Align::Left),
        ("SOURCE", Align::Left),
        ("SERVERS", Align::Right),
        ("AGE", Align::Right),
        ("LAST ERROR", Align::Truncate),
    ]);
    for source in sources {
        let age = if source.answered {
            figures::age(source.age_seconds as u64)
        } else {
            "no answer".to_owned()
        };
        table.row(vec![
            (&*source.upstream).into(),
            (&*source.source).into(),
            source.servers.to_string().into(),
            Cell(
                age,
                if source.answered {
                    Tone::Plain
                } else {
                    Tone::Bad
                },
            ),
            Cell(
                source.error.clone().unwrap_or_else(|| "-".to_owned()),
                if source.error.is_some() {
                    Tone::Warning
                } else {
                    Tone::Plain
                },
            ),
        ]);
    }
    table.render(style)
}
