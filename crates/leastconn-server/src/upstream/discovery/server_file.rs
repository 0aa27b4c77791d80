//! A JSON file that lists servers:
//!
//! ```json
//! {"servers": [{"name": "web-1", "address": "10.0.0.1:80", "weight": 1}]}
//! ```

use std::{collections::HashSet, io, num::NonZeroU32, path::Path};

use leastconn::{Address, AddressError, ServerId, Weight, ZoneId};
use serde::Deserialize;

use super::members::{Answer, FoundServer};
use leastconn_config::{files, names::is_name};

/// Maximum size of a file. 65,535 servers take about 5 MiB.
const LARGEST: u64 = 16 * 1024 * 1024;

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct ServerList {
    servers: Vec<ListedServer>,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct ListedServer {
    /// Default: the text of `address`.
    name: Option<String>,
    address: String,
    weight: Option<u32>,
    /// 0: no limit.
    max_conns: Option<u32>,
    backup: Option<bool>,
    zone: Option<String>,
}

/// Why a file cannot be used.
#[derive(Debug, thiserror::Error)]
pub(crate) enum ServerFileError {
    #[error("it cannot be read: {0}")]
    Read(#[from] io::Error),
    #[error("invalid JSON: {0}")]
    Json(#[from] serde_json::Error),
    #[error("server {number}: {address:?} is not an address: {error}")]
    Address {
        /// From 1.
        number: usize,
        address: String,
        error: AddressError,
    },
    #[error("server {number}: the name {name:?} is not 1 to 64 letters, digits, `_`, `.` and `-`")]
    Name { number: usize, name: String },
    #[error("server {number}: the zone {zone:?} is not 1 to 64 letters, digits, `_`, `.` and `-`")]
    Zone { number: usize, zone: String },
    #[error("server {number}: the weight must be from 1 to 65535, not {weight}")]
    Weight { number: usize, weight: u32 },
    #[error("server {number}: there is another server named {name:?}")]
    Duplicate { number: usize, name: String },
}

/// Reads a file. Blocks the thread.
///
/// # Errors
/// If the file cannot be read, or if any part of it is invalid, because using only the valid part
/// would remove servers.
pub(crate) fn read(path: &Path) -> Result<Answer, ServerFileError> {
    let contents = files::read(path, LARGEST)?;
    parse(&contents.bytes, path)
}

fn parse(json: &[u8], path: &Path) -> Result<Answer, ServerFileError> {
    let list: ServerList = serde_json::from_slice(json)?;
    let mut servers = Vec::with_capacity(list.servers.len());
    let mut names = HashSet::new();
    for (index, listed) in list.servers.into_iter().enumerate() {
        let server = server(index + 1, listed, path)?;
        if !names.insert(server.id.clone()) {
            return Err(ServerFileError::Duplicate {
                number: index + 1,
                name: server.id.to_string(),
            });
        }
        servers.push(server);
    }
    Ok(Answer::complete(servers))
}

fn server(
    number: usize,
    listed: ListedServer,
    file: &Path,
) -> Result<FoundServer, ServerFileError> {
    let address = address(&listed.address, file).map_err(|error| ServerFileError::Address {
        number,
        address: listed.address.clone(),
        error,
    })?;
    let id = match listed.name {
        None => ServerId::from(listed.address),
        Some(name) if name == listed.address || is_name(&name) => ServerId::from(name),
        Some(name) => return Err(ServerFileError::Name { number, name }),
    };
    let weight = listed
        .weight
        .map(|weight| Weight::new(weight).ok_or(ServerFileError::Weight { number, weight }));
    let zone = listed.zone.map(|zone| {
        if is_name(&zone) {
            Ok(ZoneId::from(zone))
        } else {
            Err(ServerFileError::Zone { number, zone })
        }
    });
    Ok(FoundServer {
        zone: zone.transpose()?,
        weight: weight.transpose()?,
        max_conns: listed.max_conns.map(NonZeroU32::new),
        backup: listed.backup,
        ..FoundServer::new(id, address)
    })
}

/// Parses an address. The path of a UNIX socket is relative to the directory of the file.
fn address(text: &str, file: &Path) -> Result<Address, AddressError> {
    match text.parse()? {
        Address::Unix(path) => {
            let path = file.parent().unwrap_or(Path::new("")).join(path);
            // The joined path may be too long.
            format!("unix:{}", path.display()).parse()
        }
        address => Ok(address),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parsed(json: &str) -> Result<Vec<FoundServer>, String> {
        let answer = parse(json.as_bytes(), Path::new("/srv/web.json"));
        answer
            .map(|answer| answer.servers)
            .map_err(|error| error.to_string())
    }

    #[test]
    fn all_keys_are_read() {
        let servers = parsed(
            r#"{"servers": [
                {"name": "web-1", "address": "10.0.0.1:80", "weight": 3, "max_conns": 100, "backup": true, "zone": "a"},
                {"address": "unix:app.sock", "max_conns": 0}
            ]}"#,
        )
        .unwrap();
        assert_eq!(servers[0].id.as_str(), "web-1");
        assert_eq!(servers[0].weight, Weight::new(3));
        assert_eq!(servers[0].max_conns, Some(NonZeroU32::new(100)));
        assert_eq!(servers[0].backup, Some(true));
        assert_eq!(servers[0].zone, Some(ZoneId::from("a")));
        assert_eq!(servers[1].id.as_str(), "unix:app.sock");
        assert_eq!(servers[1].address.to_string(), "unix:/srv/app.sock");
        assert_eq!(
            servers[1].max_conns,
            Some(None),
            "no limit, not the default"
        );
        assert_eq!(servers[1].weight, None);
    }

    #[test]
    fn an_invalid_part_makes_the_file_invalid() {
        for (json, expected) in [
            ("{", "EOF while parsing"),
            (
                r#"{"servers": [{"address": "web"}]}"#,
                "server 1: \"web\" is not an address",
            ),
            (
                r#"{"servers": [{"addres": "web:80"}]}"#,
                "unknown field `addres`",
            ),
            (
                r#"{"servers": [{"address": "a:1"}, {"address": "a:1"}]}"#,
                "server 2: there is another server named \"a:1\"",
            ),
            (
                r#"{"servers": [{"address": "a:1", "weight": 0}]}"#,
                "server 1: the weight must be",
            ),
            (
                r#"{"servers": [{"address": "a:1", "name": "a/b"}]}"#,
                "server 1: the name \"a/b\"",
            ),
            (r#"{"server": []}"#, "unknown field `server`"),
        ] {
            let error = parsed(json).unwrap_err();
            assert!(error.contains(expected), "{json}: {error}");
        }
    }
}
