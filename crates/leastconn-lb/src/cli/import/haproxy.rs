//! HAProxy configurations.

mod acl;
mod bind;
mod environment;
mod global;
mod health;
mod lexer;
mod listeners;
mod preprocessor;
mod proxy;
mod resolvers;
mod rules;
mod sections;
mod server;
mod tls;

use std::{collections::HashMap, path::Path, rc::Rc};

use super::{
    access::{TooMany, Verdict, always},
    model::{Imported, Service, Value},
    names::{Names, valid},
    units,
};
use proxy::{Back, Front};
use rules::Surroundings;

/// Imports the text of a file in `dir`.
///
/// # Errors
/// If the text is not an HAProxy configuration.
pub(crate) fn import(file: &Rc<str>, text: &str, dir: Option<&Path>) -> Result<Imported, String> {
    let (lines, notes) = preprocessor::preprocess(lexer::lines(file, text)?);
    let mut sections = sections::sections(lines)?;
    if sections.proxies.is_empty() && sections.global.is_empty() {
        return Err(format!("{file}: there is no HAProxy section"));
    }
    let mut imported = Imported {
        notes,
        ..Imported::default()
    };
    let global = global::read(&sections.global, &mut imported, dir);
    for line in &sections.stray {
        let reason = if line.word(0).starts_with('.') {
            "whether this is true is not known"
        } else {
            "the line is outside of sections"
        };
        imported.notes.push(line.place.left_out(reason));
    }
    let resolvers = resolvers::read(&sections.resolvers, &mut imported.notes);
    for line in &sections.others {
        imported.notes.push(other_section(line));
    }
    for proxy in &mut sections.proxies {
        global.prepend_defaults(proxy);
    }
    let mut tables = HashMap::new();
    let (mut fronts, mut backs): (Vec<Front>, Vec<Back>) = (Vec::new(), Vec::new());
    for proxy in &sections.proxies {
        for line in proxy
            .lines
            .iter()
            .filter(|line| line.word(0) == "stick-table")
        {
            tables.extend(acl::rate_period(line).map(|period| (proxy.name.clone(), period)));
        }
        let place = &proxy.head.place;
        if proxy.is_table() {
            imported
                .notes
                .push(place.remark("a section for a stick table is not needed"));
            continue;
        }
        if proxy.is_http() {
            imported.notes.push(if proxy.is_statistics() {
                place.remark(
                    "the dashboard at the admin address replaces the page of statistics; reading \
                     it needs no password, so keep `bind` on loopback",
                )
            } else {
                place.left_out(
                    "mode http is out of scope: leastconn-lb balances TCP connections and does \
                     not read HTTP requests",
                )
            });
            continue;
        }
        let (front, back) = proxy::read(proxy, &global.bases, &resolvers);
        fronts.extend(front);
        backs.extend(back);
    }
    let mut upstreams = UpstreamNames::new(&backs);
    let mut names = Names::default();
    for front in &fronts {
        let own = backs.iter().find(|back| back.backend.name == front.name);
        let own = own.map(|back| back.backend.name.as_str());
        let default = front.rules.default_backend().or(own);
        for mut service in listeners::services(front, &mut names, default) {
            evaluate(&mut service, front, default, &backs, &tables, dir)?;
            upstreams.rename(&mut service);
            imported.services.push(service);
        }
    }
    for mut back in backs {
        let name = upstreams.name(&back.backend.name);
        if name != valid(&back.backend.name) {
            back.backend
                .comments
                .push(format!("`{}` of the source.", back.backend.name));
        }
        back.backend.name = name;
        imported.backends.push(back.backend);
    }
    Ok(imported)
}

/// Maps backend names to upstream names: HAProxy allows more characters in its names.
struct UpstreamNames {
    by_backend: HashMap<String, String>,
    names: Names,
}

impl UpstreamNames {
    /// Keeps the names of backends that are also valid as names of upstreams.
    fn new(backs: &[Back]) -> Self {
        let mut this = Self {
            by_backend: HashMap::new(),
            names: Names::default(),
        };
        let backends = || backs.iter().map(|back| &back.backend.name);
        for name in backends().filter(|name| valid(name) == **name) {
            this.name(name);
        }
        for name in backends() {
            this.name(name);
        }
        this
    }

    /// Returns the upstream of a backend. A backend that is missing from the file also gets its
    /// own name, so that no other upstream is used instead.
    fn name(&mut self, backend: &str) -> String {
        let known = self.by_backend.get(backend).cloned();
        known.unwrap_or_else(|| {
            let name = self.names.unique(backend);
            self.by_backend.insert(backend.to_owned(), name.clone());
            name
        })
    }

    fn rename(&mut self, service: &mut Service) {
        for (_, verdict) in &mut service.access {
            if let Verdict::To(name) = verdict {
                *name = self.name(name);
            }
        }
        service.home = service.home.as_deref().map(|name| self.name(name));
    }
}

fn other_section(line: &lexer::Line) -> super::model::Note {
    match line.word(0) {
        "peers" => line
            .place
            .left_out("limits and counts are not shared between balancers"),
        "program" => line.place.left_out("no other programs are started"),
        _ => line.place.remark("the section is not needed for TCP"),
    }
}

/// Sets the access list, limits and timeouts of a listener.
fn evaluate(
    service: &mut Service,
    front: &Front,
    default: Option<&str>,
    backs: &[Back],
    tables: &HashMap<String, u64>,
    dir: Option<&Path>,
) -> Result<(), String> {
    let too_many = |_: TooMany| format!("`{}`: the access rules have too many cases", front.name);
    let surroundings = Surroundings {
        tls: service.tls.is_some(),
        certificates: service.certificates,
        dir,
        tables,
    };
    let rules = match (front.rules.default_backend(), default) {
        (None, Some(own)) => front.rules.with_default(own),
        _ => front.rules.clone(),
    };
    let evaluated = rules.evaluate(surroundings).map_err(too_many)?;
    let mut list = evaluated.list;
    service.table.notes.extend(evaluated.notes);
    service.refused.extend(evaluated.refused);
    listeners::limits(service, &evaluated.limits);
    let mut used: Vec<&Back> = Vec::new();
    let mut refused = Vec::new();
    for back in backs {
        let name = &back.backend.name;
        let is_used = |verdict: &Verdict| matches!(verdict, Verdict::To(to) if to == name);
        if !list.iter().any(|(_, verdict)| is_used(verdict)) {
            continue;
        }
        used.push(back);
        let own = back.rules.evaluate(surroundings).map_err(too_many)?;
        service.table.notes.extend(own.notes);
        let own_list = if own.refused.is_empty() {
            listeners::limits(service, &own.limits);
            own.list
        } else {
            refused.extend(own.refused);
            always(Verdict::Refuse)
        };
        list = listeners::through(list, name, &own_list)?;
    }
    if !list
        .iter()
        .any(|(_, verdict)| matches!(verdict, Verdict::To(_)))
    {
        service.refused.extend(refused);
    }
    service.access = list;
    timeouts(service, front, &used);
    Ok(())
}

/// Sets the idle timeout to `timeout tunnel` or else to the shorter of the client and server
/// timeouts.
fn timeouts(service: &mut Service, front: &Front, used: &[&Back]) {
    let shortest = |name: &str| used.iter().filter_map(|back| back.timeouts.get(name)).min();
    let client = front.timeouts.get("client");
    let tunnel = shortest("tunnel").or_else(|| front.timeouts.get("tunnel"));
    let idle = tunnel.or_else(|| client.into_iter().chain(shortest("server")).min());
    if let Some(ms) = idle {
        service.table.set("idle_timeout", units::duration(ms));
    }
    for back in used {
        let own = back.timeouts.get("tunnel");
        let server = back.timeouts.get("server");
        let effective = own
            .or_else(|| front.timeouts.get("tunnel"))
            .or_else(|| client.into_iter().chain(server).min());
        let name = if own.is_some() { "tunnel" } else { "server" };
        let backend = &back.backend;
        let origin = backend.origins.iter().find(|(key, _)| *key == name);
        let origin = origin.map(|(_, place)| place);
        if effective != idle
            && let Some(place) = origin.or(backend.place.as_ref())
        {
            service
                .table
                .note(place.left_out("the backends of a listener have one `idle_timeout`"));
        }
    }
    let ends = front
        .timeouts
        .get("client-fin")
        .into_iter()
        .chain(shortest("server-fin"));
    if let Some(ms) = ends.min() {
        service.table.set("half_close_timeout", units::duration(ms));
    }
    if let Some(ms) = front.timeouts.get("client-hs") {
        service.table.set("handshake_timeout", units::duration(ms));
    }
    if service.table.get("proxy_protocol") == Some(&Value::text("required")) {
        service
            .table
            .keys
            .sort_by_key(|(key, _)| *key != "proxy_protocol");
    }
}

#[cfg(test)]
mod tests {
    use super::{
        super::{
            model::{Imported, Kind, ServerLine},
            plan,
        },
        Value, Verdict, import,
    };

    const BIND: &str = "bind :8443 ssl crt server.pem ca-file ca.crt verify required";

    fn imported(text: &str) -> Imported {
        import(&"t".into(), text, None).unwrap()
    }

    #[test]
    fn backends_with_similar_names_stay_apart() {
        let mut imported = imported(
            "frontend f
                bind :1000
                use_backend db:admin if { src 10.0.0.0/8 }
                use_backend db/admin if { src 192.168.0.0/16 }
                default_backend db-admin
            backend db:admin
                server s1 127.0.0.1:1
            backend db-admin
                server s2 127.0.0.1:2",
        );
        let names: Vec<_> = imported.backends.iter().map(|b| b.name.clone()).collect();
        assert_eq!(names, ["db-admin-2", "db-admin"]);
        let access = &imported.services[0].access;
        let targets = access.iter().map(|(_, verdict)| match verdict {
            Verdict::To(name) => name.as_str(),
            _ => "",
        });
        // `db/admin` is not in the file.
        let targets: Vec<_> = targets.collect();
        assert_eq!(targets, ["db-admin-2", "db-admin-3", "db-admin"]);
        let plan = plan::plan(&mut imported).unwrap();
        let servers = plan.upstreams.iter().flat_map(|upstream| &upstream.servers);
        let servers = servers.filter(|line| matches!(line, ServerLine::Server { .. }));
        assert_eq!(servers.count(), 2);
        let allow = plan.rules.iter().map(|rule| rule.allow.join(" "));
        assert_eq!(allow.collect::<Vec<_>>(), ["db-admin-2", "", "db-admin"]);
    }

    #[test]
    fn tests_of_whole_subjects_are_noted() {
        for (line, is_noted) in [
            ("use_backend b if { ssl_c_s_dn -m str /CN=admin }", true),
            ("use_backend b if { ssl_c_s_dn /OU=a/CN=admin }", true),
            ("tcp-request content reject if { ssl_c_s_dn /CN=x }", true),
            (
                "tcp-request content reject unless { ssl_c_s_dn /CN=x }",
                true,
            ),
            ("tcp-request content accept if { ssl_c_s_dn /CN=x }", true),
            ("use_backend b if { ssl_c_s_dn(cn) admin }", false),
        ] {
            let text = format!("frontend f\n{BIND}\n{line}\nbackend b\nserver s 127.0.0.1:1");
            let imported = imported(&text);
            let notes = imported.services[0].table.notes.iter();
            let mut notes = notes.filter(|note| note.kind == Kind::LeftOut);
            let noted = notes.any(|note| note.reason == super::super::dn::WIDER);
            assert_eq!(noted, is_noted, "{line}");
        }
    }

    #[test]
    fn tests_that_ignore_case_admit_no_other_spelling() {
        for (rules, is_open) in [
            (
                "tcp-request content reject if { ssl_c_s_dn(cn) -i bad }",
                false,
            ),
            (
                "tcp-request content accept unless { ssl_c_s_dn(cn) -i bad }
                tcp-request content reject",
                false,
            ),
            (
                "tcp-request content accept if !{ ssl_c_s_dn(cn) -i bad }
                tcp-request content reject",
                false,
            ),
            (
                "tcp-request content accept if { ssl_c_s_dn(cn) -i good }
                tcp-request content reject",
                true,
            ),
        ] {
            let text = format!(
                "frontend f\n{BIND}\n{rules}\ndefault_backend b\nbackend b\nserver s 127.0.0.1:1"
            );
            let imported = imported(&text);
            let service = &imported.services[0];
            let mut open = service.access.iter();
            let opens = open.any(|(_, verdict)| matches!(verdict, Verdict::To(_)));
            assert_eq!(opens, is_open, "{rules}: {:?}", service.access);
            let mut notes = service.table.notes.iter();
            assert!(notes.any(|note| note.kind == Kind::LeftOut), "{rules}");
        }
    }

    /// Returns the keys of the servers of the first upstream.
    fn servers(text: &str) -> Vec<(String, Vec<&'static str>)> {
        let backend = imported(text).backends.remove(0);
        let lines = backend.servers.into_iter().filter_map(|line| match line {
            ServerLine::Server { name, table } => {
                Some((name, table.keys.iter().map(|(key, _)| *key).collect()))
            }
            ServerLine::Note(_) => None,
        });
        lines.collect()
    }

    #[test]
    fn dispatch_keeps_the_defaults_of_later_servers() {
        let servers = servers(
            "backend b
                default-server weight 10 maxconn 5
                dispatch 127.0.0.1:1
                server s1 127.0.0.1:2",
        );
        let expected = [
            ("dispatch".to_owned(), vec!["address"]),
            ("s1".to_owned(), vec!["weight", "max_conns", "address"]),
        ];
        assert_eq!(servers, expected);
    }

    #[test]
    fn templates_have_a_limited_number_of_servers() {
        for (number, expected) in [
            ("3", 3),
            ("1-3", 3),
            ("5-7", 3),
            ("7-5", 1),
            ("18446744073709551615", 65_535),
            ("0-18446744073709551615", 65_535),
        ] {
            let text = format!("backend b\nserver-template s {number} a.x:80");
            let backend = imported(&text).backends.remove(0);
            let discovery = backend.table.get("discovery");
            let expected = Value::Table(vec![("max", Value::Integer(expected))]);
            assert_eq!(discovery, Some(&expected), "{number}");
        }
    }

    /// Returns the number of cases that reach a server, of each listener.
    fn open_cases(text: &str) -> Vec<usize> {
        let services = imported(text).services.into_iter();
        let is_open = |(_, verdict): &&(_, Verdict)| matches!(verdict, Verdict::To(_));
        services
            .map(|service| match service.refused.as_slice() {
                [] => service.access.iter().filter(is_open).count(),
                _ => 0,
            })
            .collect()
    }

    #[test]
    fn sections_that_depend_on_unknown_conditions_are_closed() {
        let front = "bind 127.0.0.1:1\ndefault_backend b";
        let back = "backend b\nserver s 127.0.0.1:2";
        for (text, expected) in [
            (format!("frontend f\n{front}\n{back}"), 1),
            (
                format!(
                    "frontend f\n{front}\n.if defined(X)\ntcp-request connection reject if {{ src 10.0.0.0/8 }}\n.endif\n{back}"
                ),
                0,
            ),
            (
                format!(".if defined(X)\nfrontend f\n{front}\n.endif\n{back}"),
                0,
            ),
            (
                format!("defaults\n.if defined(X)\nretries 2\n.endif\nfrontend f\n{front}\n{back}"),
                0,
            ),
            (
                format!("global\n.if defined(X)\nmaxconn 5\n.endif\nfrontend f\n{front}\n{back}"),
                1,
            ),
            (
                format!(
                    "frontend f\n{front}\n{back}\n.if defined(X)\ntcp-request content reject\n.endif"
                ),
                0,
            ),
        ] {
            let closed = imported(&text);
            let backs_open = closed.backends.iter().all(|b| b.refused.is_empty());
            let open = open_cases(&text)[0];
            assert_eq!(if backs_open { open } else { 0 }, expected, "{text}");
        }
    }

    #[test]
    fn clients_of_other_backends_are_not_refused_with_a_disabled_one() {
        let text = "frontend f
                bind 127.0.0.1:1
                use_backend old if { src 10.0.0.0/8 }
                default_backend new
            backend old
                disabled
                server s 127.0.0.1:2
            backend new
                server s 127.0.0.1:3";
        assert_eq!(open_cases(text), [1]);
    }
}
