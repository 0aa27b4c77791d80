//! Renders blocked clients.

use leastconn_server::api::{Block, BlockRemoved, BlockSet, Blocks};

use super::fleet;
use crate::{
    cli::ctl::table::{Align, OutputStyle, Table},
    figures,
};

pub(in crate::cli::ctl) fn blocks(blocks: &Blocks, style: &OutputStyle) -> String {
    if blocks.blocks.is_empty() {
        return "no client is blocked\n".to_owned();
    }
    let in_fleet = blocks.blocks.iter().any(|block| block.set_for.is_some());
    let mut columns = vec![
        ("CLIENT", Align::Truncate),
        ("SINCE", Align::Left),
        ("UNTIL", Align::Left),
    ];
    if in_fleet {
        columns.push(("SET FOR", Align::Left));
    }
    let mut table = Table::new(&columns);
    for block in &blocks.blocks {
        let mut row = vec![
            target(block.identity.as_ref(), block.serial.as_ref()).into(),
            (&*block.since).into(),
            block.until.as_deref().unwrap_or("-").into(),
        ];
        if in_fleet {
            let set_for = match block.set_for {
                Some(leastconn_server::api::SetFor::Here) => "this balancer",
                Some(leastconn_server::api::SetFor::Fleet) => "fleet",
                None => "-",
            };
            row.push(set_for.into());
        }
        table.row(row);
    }
    table.render(style)
}

fn target(identity: Option<&String>, serial: Option<&String>) -> String {
    match (identity, serial) {
        (Some(identity), _) => identity.clone(),
        (None, Some(serial)) => format!("serial {serial}"),
        (None, None) => "-".to_owned(),
    }
}

pub(in crate::cli::ctl) fn block_set(set: &BlockSet) -> String {
    let Block {
        identity,
        serial,
        until,
        set_for,
        ..
    } = &set.block;
    let until = until.as_ref();
    let until = until.map_or_else(String::new, |until| format!(" until {until}"));
    let killed = figures::count(set.killed, "connection");
    let elsewhere = if set
        .fleet
        .as_ref()
        .is_some_and(|fleet| fleet.error.is_none())
    {
        " here"
    } else {
        ""
    };
    let note = set.note.as_ref();
    let note = note.map_or_else(String::new, |note| format!("note: {note}\n"));
    format!(
        "{}: blocked{until}{}; {killed} closed{elsewhere}\n{note}",
        target(identity.as_ref(), serial.as_ref()),
        fleet::set_for(*set_for)
    )
}

pub(in crate::cli::ctl) fn block_removed(removed: &BlockRemoved) -> String {
    let BlockRemoved {
        identity, serial, ..
    } = removed;
    format!(
        "{}: unblocked\n",
        target(identity.as_ref(), serial.as_ref())
    )
}
