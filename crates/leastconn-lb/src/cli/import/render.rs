//! Renders a planned configuration as TOML.

use super::{
    access::{Key, Predicate},
    model::{Backend, Imported, Kind, Note, ServerLine, Table, Value},
    names::valid,
    plan::{Plan, PlannedListener, Rule, Target},
    toml::{Writer, inline},
};

/// Order of the keys of `tls` and of servers. Other keys follow.
const ORDER: [&str; 9] = [
    "address",
    "dns",
    "srv",
    "cert",
    "key",
    "client_ca",
    "ca",
    "crl",
    "server_name",
];

/// Returns the text of the configuration, and all notes in it.
pub(crate) fn render(head: &str, imported: &Imported, plan: &Plan) -> (String, Vec<Note>) {
    let mut out = Writer::default();
    out.comment("", head);
    if !imported.notes.is_empty() {
        out.blank();
        out.notes("", &imported.notes);
    }
    for (header, table) in [("[process]", &imported.process), ("[log]", &imported.log)] {
        section(&mut out, header, table);
    }
    admin(&mut out, &imported.admin);
    for planned in &plan.listeners {
        listener(&mut out, planned, plan);
    }
    for backend in &plan.upstreams {
        upstream(&mut out, backend);
    }
    for backend in &imported.backends {
        if !plan
            .upstreams
            .iter()
            .any(|other| other.name == backend.name)
        {
            left_out(&mut out, backend, &plan.merged);
        }
    }
    let has_source = |rule: &&Rule| rule.predicate.get(Key::Source).is_some();
    let first_source = plan.rules.iter().position(|rule| has_source(&rule));
    for (number, rule) in plan.rules.iter().enumerate() {
        if first_source == Some(number) && plan.listeners.len() > 1 {
            out.blank();
            out.comment(
                "",
                "Client rules apply to all listeners, also rules by `source`: the first rule that \
                 matches a client decides.",
            );
        }
        client(&mut out, rule);
    }
    out.finish()
}

/// Writes a table, or only its notes if it has no keys.
fn section(out: &mut Writer, header: &str, table: &Table) {
    if table.keys.is_empty() && table.notes.is_empty() {
        return;
    }
    out.blank();
    if !table.keys.is_empty() {
        out.line(header);
    }
    out.table(table);
}

/// Writes the `[admin]` table as a comment: the source has no equivalent of the dashboard, and an
/// imported configuration opens no port that the source does not open.
fn admin(out: &mut Writer, table: &Table) {
    out.blank();
    out.notes("", &table.notes);
    out.blank();
    out.comment(
        "",
        "For the dashboard, metrics, `ctl` and `top`, remove the `#` in front of these lines.",
    );
    let default = Value::text("127.0.0.1:9901");
    let bind = inline(table.get("bind").unwrap_or(&default));
    for line in [
        "[admin]",
        &format!("bind = {bind}"),
        "socket = \"leastconn.sock\"",
    ] {
        out.comment("", line);
    }
}

fn listener(out: &mut Writer, planned: &PlannedListener, plan: &Plan) {
    let service = &planned.service;
    out.blank();
    if service.binds.is_empty() {
        out.comment(
            "",
            &format!("The listener `{}` has no address.", service.name),
        );
        out.notes("", &service.table.notes);
        return;
    }
    for reason in &service.refused {
        out.comment("", &format!("No client may use this listener: {reason}."));
    }
    if !service.refused.is_empty() {
        out.comment("", &how_to_open(planned, plan));
        for line in &service.closed_rules {
            out.comment("", &format!("- {line}"));
        }
    }
    out.line("[[listener]]");
    out.key("name", &Value::text(&service.name));
    out.key("bind", &Value::strings(&service.binds));
    if let Some(upstream) = target(&planned.upstream) {
        out.key("upstream", &upstream);
    }
    if !planned.routes.is_empty() {
        let routes = planned.routes.iter().map(|(sni, upstream)| {
            let sni = ("sni", Value::text(sni));
            let upstream = target(upstream).map(|upstream| ("upstream", upstream));
            Value::Table([sni].into_iter().chain(upstream).collect())
        });
        out.key("routes", &Value::List(routes.collect()));
    }
    out.table(&service.table);
    if let Some(tls) = &service.tls {
        out.noted_key("tls", &Value::Table(ordered(tls)), &tls.notes);
    }
    out.wide_tables("listener");
}

/// Returns the value of `upstream`.
fn target(target: &Target) -> Option<Value> {
    match target {
        Target::One(name) => Some(Value::text(name)),
        Target::Refuse => Some(Value::Boolean(false)),
        Target::ByClient => None,
    }
}

/// The name of a backend, with the upstream that its servers are in if that has another name.
fn with_upstream(backend: &str, plan: &Plan) -> String {
    let mut merged = plan.merged.iter().filter(|(name, _)| name == backend);
    match merged.next() {
        Some((_, upstream)) if plan.upstreams.iter().all(|other| other.name != backend) => {
            format!("{backend}, whose servers are in `{upstream}`")
        }
        _ => backend.to_owned(),
    }
}

/// Explains how to open a listener that no client may use.
fn how_to_open(planned: &PlannedListener, plan: &Plan) -> String {
    let mut text = steps_to_open(planned, plan);
    let mut notes = planned.service.table.notes.iter();
    let has_notes = notes.any(|note| note.kind != Kind::Remark);
    if !planned.service.closed_rules.is_empty() {
        if has_notes {
            text.push_str(" The comments below name rules without an equivalent.");
        }
        text.push_str(" Left out here:");
    } else if has_notes {
        text.push_str(" The comments below list the rules of the source that this must preserve.");
    }
    text
}

fn steps_to_open(planned: &PlannedListener, plan: &Plan) -> String {
    let service = &planned.service;
    let is_refused = planned.upstream == Target::Refuse;
    if !service.closed_rules.is_empty() {
        let upstream = if is_refused {
            ", and set `upstream` to an upstream instead of `false`"
        } else {
            ""
        };
        return format!(
            "To open it, add client rules with these decisions and limits in this order{upstream}. A \
             rule that allows more admits clients that the source refuses."
        );
    }
    if !is_refused {
        return "To open it, add its upstream to `allow` of a client rule.".to_owned();
    }
    let mut text = "To open it, set `upstream` to an upstream instead of `false`".to_owned();
    if !service.targets.is_empty() {
        let targets = service.targets.iter().map(|name| with_upstream(name, plan));
        let targets = targets.collect::<Vec<_>>().join(", ");
        text.push_str(&format!(" (the source used: {targets})"));
    } else if let Some(home) = &service.home {
        text.push_str(&format!(
            " (the source used: {})",
            with_upstream(home, plan)
        ));
    }
    text.push_str(
        ", and add that upstream to `allow` of a client rule. Rules that allow it already then apply \
         here, too.",
    );
    if service.tls.is_none() {
        text.push_str(
            " Without `tls`, the listener forwards the bytes unchanged to one upstream; it cannot \
             choose by server name.",
        );
    }
    text
}

/// Returns the keys of a table, those in [`ORDER`] first.
fn ordered(table: &Table) -> Vec<(&'static str, Value)> {
    let mut keys = table.keys.clone();
    keys.sort_by_key(|(key, _)| {
        let position = ORDER.iter().position(|first| first == key);
        position.unwrap_or(ORDER.len())
    });
    keys
}

/// Formats a server. The name is left out if it is the address or if the servers are discovered.
fn server(name: &str, table: &Table) -> String {
    let mut keys = ordered(table);
    match table.get("address") {
        Some(Value::Text(address)) if *address == name || valid(address) == name => {
            if let [(_, address)] = keys.as_slice() {
                return inline(address);
            }
        }
        Some(_) => keys.insert(0, ("name", Value::text(name))),
        None => {}
    }
    inline(&Value::Table(keys))
}

fn upstream(out: &mut Writer, backend: &Backend) {
    out.blank();
    for comment in &backend.comments {
        out.comment("", comment);
    }
    for reason in &backend.refused {
        out.comment("", &format!("No client may use this upstream: {reason}."));
    }
    out.line("[[upstream]]");
    out.key("name", &Value::text(&backend.name));
    out.table(&backend.table);
    if let Some(tls) = &backend.tls {
        out.noted_key("tls", &Value::Table(ordered(tls)), &tls.notes);
    }
    out.line("servers = [");
    for line in &backend.servers {
        match line {
            ServerLine::Server { name, table } => {
                out.notes("  ", &table.notes);
                out.line(&format!("  {},", server(name, table)));
            }
            ServerLine::Note(note) => out.notes("  ", std::slice::from_ref(note)),
        }
    }
    out.line("]");
    out.wide_tables("upstream");
}

/// Writes the comments of a backend that is no upstream: its servers are in a merged upstream, or it
/// has none.
fn left_out(out: &mut Writer, backend: &Backend, merged: &[(String, String)]) {
    if backend.servers.is_empty() && backend.table.notes.is_empty() {
        return;
    }
    let upstreams = merged.iter().filter(|(name, _)| *name == backend.name);
    let upstreams: Vec<_> = upstreams
        .map(|(_, upstream)| format!("`{upstream}`"))
        .collect();
    let name = &backend.name;
    out.blank();
    if upstreams.is_empty() {
        out.comment("", &format!("The upstream `{name}` has no server."));
    } else {
        let upstreams = upstreams.join(" and ");
        out.comment(
            "",
            &format!("`{name}` is not a separate upstream: its servers are in {upstreams}."),
        );
    }
    out.notes("", &backend.table.notes);
    for line in &backend.servers {
        if let ServerLine::Note(note) = line {
            out.notes("", std::slice::from_ref(note));
        }
    }
}

fn client(out: &mut Writer, rule: &Rule) {
    out.blank();
    if !rule.shared_by.is_empty() {
        out.comment(
            "",
            "These limits apply to the connections of a client to all listeners together.",
        );
    }
    out.line("[[client]]");
    out.key("name", &Value::text(&rule.name));
    out.key("match", &matched(&rule.predicate));
    out.key("allow", &Value::list(&rule.allow));
    if let Some(rate) = rule.limits.rate {
        out.key("rate_limit", &rate.value());
    }
    if let Some(max_conns) = rule.limits.max_conns {
        out.key("max_conns", &Value::Integer(max_conns));
    }
    out.wide_tables("client");
}

fn matched(predicate: &Predicate) -> Value {
    if predicate.matches_all() {
        let all = ["0.0.0.0/0", "::/0"].map(Value::text);
        return Value::Table(vec![(Key::Source.name(), Value::List(all.to_vec()))]);
    }
    let keys = predicate.keys();
    let keys = keys.map(|(key, values)| (key.name(), Value::strings(values)));
    Value::Table(keys.collect())
}
