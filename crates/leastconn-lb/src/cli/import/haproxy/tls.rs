//! TLS options of both `bind` and `server`.

pub(super) mod certificates;

use std::path::{Path, PathBuf};

use super::super::{
    model::{Place, Table, Value},
    pem,
    tls_names::{self, ALL_SUITES, CipherList, requires_tls13},
};

/// Base directories of relative paths: `crt-base`, `ca-base`, and the directory of the source.
#[derive(Clone, Debug, Default)]
pub(crate) struct Bases {
    pub(crate) crt: Option<String>,
    pub(crate) ca: Option<String>,
    pub(crate) dir: Option<PathBuf>,
}

impl Bases {
    pub(crate) fn crt(&self, file: &str) -> String {
        joined(self.crt.as_deref(), file)
    }

    pub(crate) fn ca(&self, file: &str) -> String {
        joined(self.ca.as_deref(), file)
    }
}

fn joined(base: Option<&str>, file: &str) -> String {
    match base {
        Some(base) if !file.starts_with('/') => format!("{}/{file}", base.trim_end_matches('/')),
        _ => file.to_owned(),
    }
}

/// Sets `cert`, and `key` if HAProxy reads the key from a separate file.
///
/// # Errors
/// If there is no private key: HAProxy does not start then.
pub(crate) fn certificate(table: &mut Table, file: &str, bases: &Bases) -> Result<(), String> {
    let file = bases.crt(file);
    let dir = bases.dir.as_deref().unwrap_or(Path::new(""));
    let key = format!("{file}.key");
    if pem::lacks_key(&dir.join(&file)) {
        if !dir.join(&key).is_file() {
            return Err(format!("{file} has no private key, and there is no {key}"));
        }
        table.set("key", Value::text(key));
    }
    table.set("cert", Value::text(file));
    Ok(())
}

/// Options of [`common`] with a value.
const TAKES_VALUE: [&str; 8] = [
    "crl-file",
    "alpn",
    "ssl-min-ver",
    "ssl-max-ver",
    "ciphers",
    "ciphersuites",
    "curves",
    "ecdhe",
];

/// Translates an option with the same meaning for listeners and servers. Returns the number of
/// words of the option, or `None` if it is another option.
pub(crate) fn common(
    table: &mut Table,
    words: &[String],
    bases: &Bases,
    place: &Place,
) -> Option<usize> {
    let word = words.first()?.as_str();
    let value = words.get(1).map_or("", String::as_str);
    if value.is_empty() && TAKES_VALUE.contains(&word) {
        table.note(place.left_out(format!("{word:?} has no value")));
        return Some(1);
    }
    match word {
        "crl-file" => table.set("crl", Value::text(bases.ca(value))),
        "alpn" => {
            let protocols = value.split(',').filter(|protocol| !protocol.is_empty());
            let protocols: Vec<_> = protocols.collect();
            if !protocols.is_empty() {
                table.set("alpn", Value::list(protocols));
            }
        }
        "ssl-min-ver" => min_version(table, value, place),
        "ciphers" | "ciphersuites" => {
            ciphers(table, tls_names::ciphers(value), place);
        }
        "curves" | "ecdhe" => {
            let (names, unknown) = tls_names::groups(value);
            if names.is_empty() {
                table.note(place.left_out(format!("no group of {value:?} is supported")));
            } else {
                table.set("groups", Value::list(names));
            }
            if !unknown.is_empty() {
                let unknown = unknown.join(", ");
                table.note(place.left_out(format!("the groups {unknown} are not supported")));
            }
        }
        "ssl-max-ver" => {
            table.note(place.left_out("a maximum TLS version cannot be set"));
        }
        "no-sslv3"
        | "no-tlsv10"
        | "no-tlsv11"
        | "npn"
        | "prefer-client-ciphers"
        | "ssl-reuse"
        | "renegotiate"
        | "no-ssl-reuse" => {
            return Some(if word == "npn" { 2 } else { 1 });
        }
        "no-tls-tickets" => {
            table.note(place.remark(
                "\"no-tls-tickets\": TLS 1.3 tickets are always on; each is valid for one connection",
            ));
            return Some(1);
        }
        "force-tlsv13" | "no-tlsv12" => {
            min_version(table, "TLSv1.3", place);
            return Some(1);
        }
        "no-tlsv13" | "force-tlsv12" | "force-tlsv11" | "force-tlsv10" | "force-sslv3" => {
            table.note(place.left_out("a maximum TLS version cannot be set"));
            return Some(1);
        }
        "allow-0rtt" => {
            table.note(place.left_out("early data (0-RTT) is never accepted"));
            return Some(1);
        }
        _ => return None,
    }
    Some(2)
}

fn min_version(table: &mut Table, version: &str, place: &Place) {
    match version {
        "TLSv1.3" => table.set("min_version", Value::text("1.3")),
        "TLSv1.2" => table.set("min_version", Value::text("1.2")),
        _ => table.note(place.differs("the oldest supported version is TLS 1.2")),
    }
}

/// Adds cipher suites to `ciphers`. Unsupported names are omitted.
fn ciphers(table: &mut Table, list: CipherList, place: &Place) {
    if !list.unsupported.is_empty() {
        table.note(place.left_out(format!(
            "not supported as cipher suites: {}",
            list.unsupported.join(", ")
        )));
    }
    if list.names.is_empty() {
        if list.unsupported.is_empty() {
            table.note(place.remark(ALL_SUITES));
        }
        return;
    }
    let mut all = match table.get("ciphers") {
        Some(Value::List(list)) => list.clone(),
        _ => Vec::new(),
    };
    all.extend(list.names.iter().map(Value::text));
    table.set("ciphers", Value::List(all));
}

/// Completes `ciphers` when all options were read: `ciphers` and `ciphersuites` each restrict one
/// TLS version.
pub(crate) fn complete_ciphers(table: &mut Table) {
    let Some(Value::List(list)) = table.get("ciphers") else {
        return;
    };
    let names = list.iter().filter_map(|value| match value {
        Value::Text(name) => Some(name.clone()),
        _ => None,
    });
    let names = tls_names::with_both_versions(names.collect(), requires_tls13(table));
    if tls_names::are_all(&names) {
        table.remove("ciphers");
    } else {
        table.set("ciphers", Value::list(names));
    }
}
