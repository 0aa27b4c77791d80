//! Health checks: `health_check` and `match`.

use super::{
    super::super::{
        model::{Table, Value},
        units,
    },
    Directive, Settings,
};

/// nginx's defaults for `interval` and `health_check_timeout`, in milliseconds.
const INTERVAL: u64 = 5_000;
const TIMEOUT: u64 = 5_000;

/// Sets `health_check` if the server has active health checks.
pub(super) fn health_check(settings: Settings<'_>, table: &mut Table) {
    let Some(line) = settings.one("health_check") else {
        return;
    };
    let (mut interval, mut rise, mut fall) = (INTERVAL, 1, 1);
    let (mut port, mut send, mut expect) = (None, None, None);
    for option in line.arguments() {
        let (name, value) = option.split_once('=').unwrap_or((option, ""));
        match (name, value.parse::<u64>().ok()) {
            ("interval", _) => {
                interval = units::milliseconds(value, 1000).unwrap_or(interval).max(1);
            }
            ("passes", Some(number)) => rise = number,
            ("fails", Some(number)) => fall = number,
            ("port", number) => port = number,
            ("match", _) => {
                let is_match =
                    |block: &&Directive| block.name() == "match" && block.word(1) == value;
                let block = settings.stream.iter().find(is_match);
                for step in block.map_or(&[][..], Directive::children) {
                    match (step.name(), step.arguments()) {
                        ("send", [text]) => send = Some(text.clone()),
                        ("expect", [text]) => expect = Some(text.clone()),
                        _ => table.note(step.place.left_out(
                            "a check sends one text, then expects one text in the answer",
                        )),
                    }
                }
            }
            ("jitter" | "mandatory" | "persistent", _) => {}
            _ => table.note(line.place.left_out(format!("{option:?} has no equivalent"))),
        }
    }
    let timeout = settings.duration("health_check_timeout").unwrap_or(TIMEOUT);
    let mut keys = vec![
        ("type", Value::text("tcp")),
        ("interval", units::duration(interval)),
        ("timeout", units::duration(timeout.min(interval))),
        ("rise", Value::Integer(rise)),
        ("fall", Value::Integer(fall)),
    ];
    keys.extend(port.map(|port| ("port", Value::Integer(port))));
    keys.extend(send.map(|text| ("send", Value::Text(text))));
    keys.extend(expect.map(|text| ("expect", Value::Text(text))));
    table.set("health_check", Value::Table(keys));
}
