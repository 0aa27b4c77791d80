//! nginx configurations with a `stream` block.

mod listen;
mod map;
mod parser;
mod proxy;
mod server;
mod server_names;
mod settings;
mod upstream;
mod virtual_servers;

use std::{path::Path, rc::Rc};

use super::{
    access::Verdict,
    model::{Backend, Imported, Value},
    names::Names,
};
use parser::Directive;
use server_names::Block;
use settings::Settings;
use virtual_servers::Member;

/// Why a log server is not translated.
pub(crate) const NETWORK_LOG: &str = "messages are not sent to a syslog server: they go to standard \
    error, or to the journal under systemd. Forward them with the syslog daemon or a log collector of \
    this host";

/// Imports the text of a file in `dir`.
///
/// # Errors
/// If the text is not an nginx configuration, or if an included file cannot be read.
pub(crate) fn import(file: &Rc<str>, text: &str, dir: Option<&Path>) -> Result<Imported, String> {
    let mut imported = Imported::default();
    let dir = dir.unwrap_or(Path::new(""));
    let directives = parser::parse(file, text, dir, &mut imported.notes)?;
    let mut stream = Vec::new();
    let mut is_nginx = false;
    for directive in &directives {
        let place = &directive.place;
        match directive.name() {
            "stream" => {
                is_nginx = true;
                stream.extend(directive.children().iter().cloned());
            }
            "http" | "mail" => {
                is_nginx = true;
                imported.notes.push(place.left_out(format!(
                    "{} is out of scope: leastconn-lb balances TCP connections and does not read \
                    requests",
                    directive.name()
                )));
            }
            "worker_processes" => match directive.word(1).parse() {
                Ok(workers) => imported.process.set("workers", Value::Integer(workers)),
                Err(_) => imported.process.set("workers", Value::text("auto")),
            },
            // The file holds the content of a `stream` block, without the block around it.
            "upstream" | "server" | "map" | "limit_conn_zone" | "geo" | "match"
            | "split_clients" => {
                is_nginx = true;
                stream.push(directive.clone());
            }
            "worker_shutdown_timeout" => {
                if let Some(ms) = super::units::milliseconds(directive.word(1), 1000) {
                    imported
                        .process
                        .set("drain_timeout", super::units::duration(ms));
                }
            }
            "error_log" if directive.word(1).starts_with("syslog:") => {
                imported.log.note(place.left_out(NETWORK_LOG));
            }
            "user"
            | "pid"
            | "daemon"
            | "master_process"
            | "events"
            | "error_log"
            | "load_module"
            | "worker_rlimit_nofile"
            | "worker_cpu_affinity"
            | "worker_priority"
            | "pcre_jit"
            | "env"
            | "timer_resolution"
            | "thread_pool"
            | "lock_file"
            | "debug_points"
            | "working_directory" => {
                is_nginx |= directive.name() == "events";
                imported.process.note(place.remark("not needed"));
            }
            _ => imported.notes.push(place.left_out("has no equivalent")),
        }
    }
    if !is_nginx {
        return Err(format!("{file}: there is no `stream` block"));
    }
    services(&stream, &mut imported)?;
    Ok(imported)
}

/// Translates all `server` blocks of `stream`.
fn services(stream: &[Directive], imported: &mut Imported) -> Result<(), String> {
    server::access_log(stream, &mut imported.log);
    let mut names = Names::default();
    let mut upstreams = Names::default();
    // Each target of `proxy_pass`, with the upstream that it became.
    let mut known: Vec<(String, Backend)> = Vec::new();
    // The targets of servers without a listener.
    let mut unused = Vec::new();
    for block in stream.iter().filter(|line| line.name() == "server") {
        let udp = block.children().iter().filter(|line| listen::is_udp(line));
        let notes = udp.map(|line| line.place.left_out("UDP is not supported"));
        imported.notes.extend(notes);
        let is_listen = |line: &&Directive| line.name() == "listen" && !listen::is_udp(line);
        if !block.children().iter().any(|line| is_listen(&line)) {
            let mut lines = block.children().iter();
            let pass = lines.find(|line| line.name() == "proxy_pass");
            unused.extend(pass.map(|line| line.word(1)));
        }
    }
    for group in virtual_servers::groups(stream) {
        let base = group.base();
        let mut listen = group.members[base].listen.clone();
        for member in &group.members {
            listen.add(&member.listen);
        }
        listen.addresses.clone_from(&group.addresses);
        let name = names.unique(&listen.name);
        let mut blocks = Vec::new();
        for Member { block, .. } in &group.members {
            let settings = Settings {
                stream,
                server: block.children(),
            };
            let Some(pass) = server::pass(settings) else {
                continue;
            };
            let (mut service, passes) = server::service(name.clone(), &listen, pass, settings);
            // The notes about the address are those of the first block.
            listen.table.notes.clear();
            for (_, verdict) in &mut service.access {
                if let Verdict::To(target) = verdict {
                    *target = resolve(target, pass, settings, &mut known, &mut upstreams);
                }
            }
            blocks.push(Block {
                names: server_names::of(block),
                place: block.place.clone(),
                reads_name: settings.is_on("ssl_preread"),
                service,
                passes,
            });
        }
        imported
            .services
            .extend(server_names::combined(blocks, base)?);
    }
    for line in stream {
        match line.name() {
            // No server uses this upstream.
            "upstream" if known.iter().any(|(target, _)| target == line.word(1)) => {}
            // Only UDP clients use this upstream.
            "upstream" if unused.contains(&line.word(1)) => {}
            "upstream" => {
                let settings = Settings {
                    stream,
                    server: &[],
                };
                let backend = upstream::backend(line.word(1), &line.place, Some(line), settings);
                known.push((line.word(1).to_owned(), backend));
            }
            _ => imported.notes.extend(server::remark(line)),
        }
    }
    imported.backends = known.into_iter().map(|(_, backend)| backend).collect();
    Ok(())
}

/// Returns the name of the upstream for a target of `proxy_pass`. A target that two servers use
/// with different settings becomes two upstreams.
fn resolve(
    target: &str,
    pass: &Directive,
    settings: Settings<'_>,
    known: &mut Vec<(String, Backend)>,
    names: &mut Names,
) -> String {
    let block = settings
        .stream
        .iter()
        .find(|line| line.name() == "upstream" && line.word(1) == target);
    let mut backend = upstream::backend(target, &pass.place, block, settings);
    let same = |other: &Backend| {
        other.table.keys == backend.table.keys
            && other.tls == backend.tls
            && other.refused == backend.refused
    };
    let found = known
        .iter()
        .find(|(name, other)| name == target && same(other));
    if let Some((_, found)) = found {
        return found.name.clone();
    }
    backend.name = names.unique(&backend.name);
    let name = backend.name.clone();
    known.push((target.to_owned(), backend));
    name
}

#[cfg(test)]
mod tests {
    use super::{
        super::{
            access::{Key, Verdict},
            dn,
            model::{Imported, Kind},
        },
        import,
    };

    /// Imports a server with client certificates that passes clients to the value of this map.
    fn imported(map: &str) -> Imported {
        let text = format!(
            "map $ssl_client_s_dn $target {{
                {map}
            }}
            upstream web {{ server 127.0.0.1:1; }}
            upstream other {{ server 127.0.0.1:2; }}
            server {{
                listen 8443 ssl;
                ssl_certificate server.pem;
                ssl_certificate_key server.key;
                ssl_client_certificate ca.crt;
                ssl_verify_client on;
                proxy_pass $target;
            }}",
        );
        import(&"t".into(), &text, None).unwrap()
    }

    #[test]
    fn cases_narrower_than_their_rules_are_noted() {
        for (case, is_noted) in [
            ("CN=a", true),
            ("CN=a,OU=b", true),
            ("~^CN=a$", true),
            ("~^CN=a,", true),
            ("~*CN=a$", true),
            ("~(^|,)CN=a(,|$)", false),
            ("~CN=a", false),
        ] {
            let imported = imported(&format!("'{case}' web;"));
            let notes = &imported.services[0].table.notes;
            let noted: Vec<_> = notes.iter().filter(|n| n.reason == dn::WIDER).collect();
            assert_eq!(!noted.is_empty(), is_noted, "{case}: {notes:?}");
            assert!(noted.iter().all(|note| note.place.line == 2), "{case}");
        }
    }

    /// Returns the decision for each common name, and whether a note says that case differs.
    fn decisions(map: &str) -> (Vec<String>, bool) {
        let imported = imported(map);
        let service = &imported.services[0];
        let decisions = service.access.iter().map(|(predicate, verdict)| {
            let names = predicate
                .get(Key::Cn)
                .map_or("*".to_owned(), |names| names.join("|"));
            match verdict {
                Verdict::To(target) => format!("{names} {target}"),
                _ => format!("{names} refused"),
            }
        });
        let mut notes = service.table.notes.iter();
        let noted = notes.any(|n| n.kind != Kind::Remark && n.reason.contains("with case"));
        (decisions.collect(), noted)
    }

    #[test]
    fn refusals_that_ignore_case_admit_no_other_spelling() {
        for case in ["~*(^|,)CN=bad(,|$)", "CN=bad"] {
            let closed = decisions(&format!("'{case}' ''; default web;"));
            assert_eq!(closed, (vec!["* refused".to_owned()], true), "{case}");
            let map = format!("'{case}' ''; '~(^|,)CN=good(,|$)' other; default web;");
            let expected = ["bad refused", "good other", "* refused"].map(str::to_owned);
            assert_eq!(decisions(&map), (expected.to_vec(), true), "{case}");
            // The other spelling in a later case is also refused.
            let map = format!("'{case}' ''; '~(^|,)CN=BAD(,|$)' web; default '';");
            assert_eq!(decisions(&map).0, ["* refused"], "{case}");
        }
        let exact = decisions("'~(^|,)CN=bad(,|$)' ''; default web;");
        let expected = ["bad refused", "* web"].map(str::to_owned);
        assert_eq!(exact, (expected.to_vec(), false));
        // Without letters there is only one spelling.
        let digits = decisions("'~*(^|,)CN=42(,|$)' ''; default web;");
        let expected = ["42 refused", "* web"].map(str::to_owned);
        assert_eq!(digits, (expected.to_vec(), false));
    }

    /// Returns the decision for each common name and unit.
    fn decisions_with_units(map: &str) -> Vec<String> {
        let service = imported(map).services.remove(0);
        let decisions = service.access.iter().map(|(predicate, verdict)| {
            let keys = predicate.keys();
            let keys: Vec<_> = keys
                .map(|(key, names)| format!("{}={}", key.name(), names.join("|")))
                .collect();
            match verdict {
                Verdict::To(target) => format!("{} {target}", keys.join("&")),
                _ => format!("{} refused", keys.join("&")),
            }
        });
        decisions.collect()
    }

    #[test]
    fn other_spellings_are_not_admitted_by_later_entries() {
        let ops = "'~(^|,)OU=Ops(,|$)' web;";
        for (map, expected) in [
            // The unit also has clients whose names the first entry refuses in another spelling.
            (format!("'~*(^|,)CN=bob(,|$)' ''; {ops}"), vec![" refused"]),
            (format!("'CN=alice,OU=Ops' ''; {ops}"), vec![" refused"]),
            (
                "'~(^|,)CN=alice(,|$)' web; 'CN=alice,OU=Sales' ''; '~*(^|,)OU=Ops(,|$)' web;"
                    .to_owned(),
                vec![
                    "cn=alice&ou=Sales refused",
                    "cn=alice refused",
                    "ou=Ops web",
                    " refused",
                ],
            ),
            // Entries that admit clients.
            (
                format!("'~*(^|,)CN=bob(,|$)' other; {ops}"),
                vec!["cn=bob other", " refused"],
            ),
            (
                format!("'CN=alice,OU=Ops' other; {ops}"),
                vec!["cn=alice&ou=Ops other", " refused"],
            ),
            (
                "'~*(^|,)OU=Ops(,|$)' ''; '~(^|,)CN=bob(,|$)' web;".to_owned(),
                vec![" refused"],
            ),
            // The same target in both entries.
            (
                format!("'~*(^|,)CN=bob(,|$)' web; {ops}"),
                vec!["cn=bob web", "ou=Ops web", " refused"],
            ),
            // No other spelling of the first entry matches the later entry.
            (
                format!("'CN=bob' other; {ops}"),
                vec!["cn=bob other", "ou=Ops web", " refused"],
            ),
            (
                "'~*(^|,)CN=bob(,|$)' ''; '~(^|,)CN=carol(,|$)' web;".to_owned(),
                vec!["cn=bob refused", "cn=carol web", " refused"],
            ),
        ] {
            assert_eq!(decisions_with_units(&map), expected, "{map}");
            let service = imported(&map).services.remove(0);
            let mut notes = service.table.notes.iter();
            assert!(notes.any(|note| note.kind != Kind::Remark), "{map}");
        }
    }

    #[test]
    fn a_comment_names_components_with_several_attributes() {
        for (map, is_noted) in [
            ("'~(^|,)CN=a(,|$)' web; '~(^|,)CN=b(,|$)' web;", 1),
            ("'~(^|,)OU=a(,|$)' web;", 1),
            ("'~CN=a' web;", 0),
            ("'~(^|,)CN=a(,|$)' ''; default web;", 0),
        ] {
            let service = imported(map).services.remove(0);
            let notes = service.table.notes.iter();
            let noted = notes.filter(|note| note.reason.contains("`CN=a+OU=b`"));
            assert_eq!(noted.count(), is_noted, "{map}");
        }
    }

    #[test]
    fn comments_are_ordered_and_about_existing_rules() {
        let map = "~CN=alice web;\n'~*(^|,)CN=bob(,|$)' other;\n~^CN=dave, web;";
        let service = imported(map).services.remove(0);
        let notes = service.table.notes.iter();
        let notes: Vec<_> = notes
            .filter(|note| note.kind != Kind::Remark)
            .map(|note| (note.place.line, note.reason.as_str()))
            .collect();
        let [(2, alice), (3, bob), (4, dave)] = notes.as_slice() else {
            panic!("{notes:?}");
        };
        assert!(alice.contains("longer names"), "{alice}");
        assert!(bob.starts_with("no rule: "), "{bob}");
        assert!(dave.starts_with("no rule: "), "{dave}");
        let map = "'CN=alice' '';\n'CN=alice,OU=Ops' web;";
        let service = imported(map).services.remove(0);
        let reason = &service.table.notes.last().unwrap().reason;
        assert!(
            reason.starts_with("no rule: the rule of an earlier"),
            "{reason}"
        );
    }

    /// Returns the decisions, and the reasons that mention other names.
    fn other_names(map: &str) -> (Vec<String>, Vec<String>) {
        let notes = imported(map).services.remove(0).table.notes;
        let reasons = notes.into_iter().map(|note| note.reason);
        let reasons = reasons.filter(|reason| reason.contains(" also matches "));
        (
            decisions(map).0,
            reasons
                .filter(|reason| !reason.contains("attributes"))
                .collect(),
        )
    }

    #[test]
    fn later_entries_admit_no_longer_names_of_expressions() {
        for case in [
            "~CN=intern",
            "~(^|,)CN=intern",
            "~CN=intern.*",
            "~^CN=intern",
            "~CN=intern(,|$)",
            "~(^|,)CN=i.tern(,|$)",
        ] {
            for (target, name) in [("other", "other"), ("''", "refused")] {
                let map = format!("'{case}' {target}; '~(^|,)CN=intern2(,|$)' web; default web;");
                let (decisions, reasons) = other_names(&map);
                let cn = if case.contains("i.tern") {
                    "i.tern"
                } else {
                    "intern"
                };
                let expected = match name {
                    "refused" => vec!["* refused".to_owned()],
                    name => vec![format!("{cn} {name}"), "* refused".to_owned()],
                };
                assert_eq!(decisions, expected, "{map}");
                assert_eq!(reasons.len(), 1, "{map}: {reasons:?}");
                assert!(
                    reasons[0].contains("no earlier case are refused"),
                    "{reasons:?}"
                );
            }
        }
        let (_, reasons) = other_names("~CN=intern\\.svc other; default web;");
        assert_eq!(
            reasons,
            [
                "\"~CN=intern\\.svc\" also matches longer names, such as \"intern.svc2\"; clients that \
              match no earlier case are refused. Write ~(^|,)CN=intern\\.svc(,|$) for exactly this \
              name"
            ]
        );
        // An earlier entry keeps its clients.
        let map = "'~(^|,)CN=a(,|$)' web; ~CN=b other; default web;";
        let expected = ["a web", "b other", "* refused"].map(str::to_owned);
        assert_eq!(other_names(map).0, expected);
    }

    #[test]
    fn longer_names_that_are_treated_alike_close_nothing() {
        let expected = ["intern web", "* refused"].map(str::to_owned);
        let (decisions, reasons) = other_names("~CN=intern web; default '';");
        assert_eq!(decisions, expected);
        assert!(
            reasons[0].contains("; these clients are refused. Write"),
            "{reasons:?}"
        );
        let (decisions, reasons) = other_names("~CN=intern web; default web;");
        assert_eq!((decisions, reasons), (vec!["* web".to_owned()], vec![]));
    }

    #[test]
    fn entries_after_an_untranslated_expression_admit_nobody() {
        let map = "'~CN=[a-z]+' ''; '~(^|,)CN=a(,|$)' web; default web;";
        assert_eq!(decisions(map).0, ["* refused"]);
        // The exact entry comes first in nginx.
        let map = "'~(^|,)CN=a(,|$)' web; 'CN=a,O=x' ''; '~(^|,)CN=b(,|$)' web;";
        let expected = ["a refused", "b web", "* refused"].map(str::to_owned);
        assert_eq!(decisions(map).0, expected);
    }

    #[test]
    fn units_are_translated_exactly_or_not_at_all() {
        let service = imported("'~(^|,)OU=ops(,|$)' web;").services.remove(0);
        let (predicate, verdict) = &service.access[0];
        assert_eq!(predicate.get(Key::Ou).unwrap(), ["ops"]);
        assert_eq!(*verdict, Verdict::To("web".to_owned()));
        let service = imported("~OU=ops ''; default web;").services.remove(0);
        assert_eq!(service.access.len(), 1);
        assert_eq!(service.access[0].1, Verdict::Refuse);
        let reason = &service.table.notes[0].reason;
        assert!(
            reason.ends_with("match = { ou = \"ops\" } accepts exactly this unit"),
            "{reason}"
        );
    }

    #[test]
    fn case_insensitive_admissions_become_exact_rules() {
        for case in ["~*(^|,)CN=a(,|$)", "CN=a"] {
            let expected = ["a web", "* refused"].map(str::to_owned);
            let map = format!("'{case}' web;");
            assert_eq!(decisions(&map), (expected.to_vec(), true), "{case}");
            // In the source, `CN=A` does not reach the default either.
            let map = format!("'{case}' web; default other;");
            assert_eq!(decisions(&map), (expected.to_vec(), true), "{case}");
        }
        let expected = ["a web", "* refused"].map(str::to_owned);
        assert_eq!(
            decisions("'~(^|,)CN=a(,|$)' web;"),
            (expected.to_vec(), false)
        );
    }

    const SERVER: &str = "ssl_certificate server.pem; ssl_certificate_key server.key;";

    #[test]
    fn scripts_that_may_refuse_clients_close_the_listener() {
        for (line, is_closed) in [
            ("preread_by_lua_block { return ngx.exit(403) }", true),
            ("access_by_lua_file a.lua;", true),
            ("ssl_reject_handshake on;", true),
            ("log_by_lua_block { f() }", false),
            ("tcp_nodelay on;", false),
        ] {
            for text in [
                format!("server {{ listen 1; {line} proxy_pass 127.0.0.1:1; }}"),
                format!("stream {{ {line} server {{ listen 1; proxy_pass 127.0.0.1:1; }} }}"),
            ] {
                let imported = import(&"t".into(), &text, None).unwrap();
                let refused = &imported.services[0].refused;
                assert_eq!(!refused.is_empty(), is_closed, "{text}: {refused:?}");
            }
        }
    }

    #[test]
    fn strictest_limit_applies_to_each_certificate() {
        for limits in [
            "limit_conn cert 9; limit_conn addr 5;",
            "limit_conn addr 5; limit_conn cert 9;",
        ] {
            let text = format!(
                "limit_conn_zone $ssl_client_s_dn zone=cert:1m;
                limit_conn_zone $binary_remote_addr zone=addr:1m;
                server {{ listen 1 ssl; {SERVER} ssl_client_certificate ca.crt;
                    ssl_verify_client on; {limits} proxy_pass 127.0.0.1:1; }}"
            );
            let imported = import(&"t".into(), &text, None).unwrap();
            let service = &imported.services[0];
            assert_eq!(service.limits.max_conns, Some(5), "{limits}");
            assert!(service.refused.is_empty(), "{limits}");
            let notes = service.table.notes.iter();
            assert_eq!(
                notes.filter(|note| note.kind == Kind::Differs).count(),
                2,
                "{limits}"
            );
        }
    }
}
