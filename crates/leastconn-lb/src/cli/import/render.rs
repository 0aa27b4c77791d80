//! Renders a planned configuration as TOML.

use super::{
    access::{Key, Predicate},
    model::{Backend, Imported, Note, ServerLine, Table, Value},
    plan::{Plan, PlannedListener, Rule},
    toml::{Writer, inline},
};

/// Returns the text of the configuration, and all notes in it.
pub(crate) fn render(head: &str, imported: &Imported, plan: &Plan) -> (String, Vec<Note>) {
    let mut out = Writer::default();
    out.comment("", head);
    if !imported.notes.is_empty() {
        out.blank();
        out.notes("", &imported.notes);
    }
    for (header, table) in [
        ("[process]", &imported.process),
        ("[log]", &imported.log),
        ("[admin]", &imported.admin),
    ] {
        section(&mut out, header, table);
    }
    for planned in &plan.listeners {
        listener(&mut out, planned);
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
            left_out(&mut out, backend);
        }
    }
    for rule in &plan.rules {
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

fn listener(out: &mut Writer, planned: &PlannedListener) {
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
        out.comment(
            "",
            "To open it, add its upstream to `allow` of a client rule.",
        );
    }
    out.line("[[listener]]");
    out.key("name", &Value::text(&service.name));
    out.key("bind", &Value::strings(&service.binds));
    if let Some(upstream) = &planned.upstream {
        out.key("upstream", &Value::text(upstream));
    }
    if !planned.routes.is_empty() {
        let routes = planned.routes.iter().map(|(sni, upstream)| {
            Value::Table(vec![
                ("sni", Value::text(sni)),
                ("upstream", Value::text(upstream)),
            ])
        });
        out.key("routes", &Value::List(routes.collect()));
    }
    out.table(&service.table);
    if let Some(tls) = &service.tls {
        out.key("tls", &Value::Table(tls.keys.clone()));
        out.notes("", &tls.notes);
    }
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
        out.key("tls", &Value::Table(tls.keys.clone()));
        out.notes("", &tls.notes);
    }
    out.line("servers = [");
    for line in &backend.servers {
        match line {
            ServerLine::Server { name, table } => {
                let mut keys = vec![("name", Value::text(name))];
                keys.extend(table.keys.iter().cloned());
                out.notes("  ", &table.notes);
                out.line(&format!("  {},", inline(&Value::Table(keys))));
            }
            ServerLine::Note(note) => out.note("  ", note),
        }
    }
    out.line("]");
}

/// Writes the comments of an upstream that cannot be written, because it has no servers.
fn left_out(out: &mut Writer, backend: &Backend) {
    out.blank();
    out.comment(
        "",
        &format!("The upstream `{}` has no server.", backend.name),
    );
    out.notes("", &backend.table.notes);
    for line in &backend.servers {
        if let ServerLine::Note(note) = line {
            out.note("", note);
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
