//! Invariants of the inputs of the API, for property tests and fuzzing.

use std::net::Ipv4Addr;

use axum::{
    extract::Query,
    http::{HeaderMap, HeaderValue, Uri, header},
};
use leastconn::WeightOverride;
use leastconn_config::duration;
use serde::{Serialize, de::DeserializeOwned};

use super::{changes, guard};
use crate::api::{
    ClientsQuery, ConnectionsQuery, HistoryQuery, Kill, RefusalsQuery, RemoveBlock, ServersQuery,
    SetBlock, SetLogLevel, SetState, SetWeight, target,
};

/// Parses arbitrary bytes as each body, as each query, and as the headers of a request.
pub(crate) fn drive(kind: u8, input: &[u8]) {
    match kind % 4 {
        0 => bodies(input),
        1 => queries(input),
        2 => headers(input),
        _ => values(input),
    }
}

fn bodies(body: &[u8]) {
    body_as::<SetState>(body);
    body_as::<SetWeight>(body);
    body_as::<SetLogLevel>(body);
    body_as::<Kill>(body);
    body_as::<SetBlock>(body);
    body_as::<RemoveBlock>(body);
}

/// An accepted body must be accepted again, with the same content, after it was written.
fn body_as<T: DeserializeOwned + Serialize>(body: &[u8]) {
    let Ok(parsed) = changes::parse::<T>(body) else {
        return;
    };
    let written = serde_json::to_string(&parsed).unwrap_or_default();
    let again = changes::parse::<T>(written.as_bytes()).ok();
    let again = again.map(|parsed| serde_json::to_string(&parsed).unwrap_or_default());
    assert_eq!(again.as_deref(), Some(&*written));
}

fn queries(query: &[u8]) {
    let uri = [b"/api/v1/connections?", query].concat();
    let Ok(uri) = Uri::try_from(uri) else {
        return;
    };
    query_as::<ServersQuery>(&uri);
    query_as::<ClientsQuery>(&uri);
    query_as::<ConnectionsQuery>(&uri);
    query_as::<RefusalsQuery>(&uri);
    query_as::<HistoryQuery>(&uri);
}

/// As [`body_as`], for the query of a request.
fn query_as<T: DeserializeOwned + Serialize>(uri: &Uri) {
    let Ok(Query(parsed)) = Query::<T>::try_from_uri(uri) else {
        return;
    };
    let written = serde_urlencoded::to_string(&parsed).unwrap_or_default();
    let again = serde_urlencoded::from_str::<T>(&written).ok();
    let again = again.map(|parsed| serde_urlencoded::to_string(&parsed).unwrap_or_default());
    assert_eq!(again.as_deref(), Some(&*written));
}

/// Only IP addresses, `localhost` and the configured name are known hosts.
fn headers(text: &[u8]) {
    let Ok(value) = HeaderValue::from_bytes(text) else {
        return;
    };
    let mut headers = HeaderMap::new();
    headers.insert(header::HOST, value);
    let hosts = ["lb.example.com".to_owned()];
    if !guard::has_known_host(&Uri::from_static("/"), &headers, &hosts) {
        return;
    }
    let text = String::from_utf8_lossy(text).to_ascii_lowercase();
    let host = text.split(':').next().unwrap_or_default();
    let name = host.strip_suffix('.').unwrap_or(host);
    let is_ip = text.starts_with('[') || host.parse::<Ipv4Addr>().is_ok();
    let is_local = name == "localhost" || name.ends_with(".localhost");
    assert!(
        is_ip || is_local || name == hosts[0],
        "{text:?} is not a known host"
    );
}

/// Parses the texts in bodies.
fn values(text: &[u8]) {
    let text = String::from_utf8_lossy(text);
    for (identity, serial) in [(Some(&*text), None), (None, Some(&*text))] {
        if let Err(message) = target(identity, serial) {
            assert!(!message.is_empty());
        }
    }
    if let Ok(weight) = text.parse::<WeightOverride>() {
        let again = weight.to_string().parse::<WeightOverride>();
        assert_eq!(again.ok(), Some(weight));
    }
    let _ = duration::parse(&text);
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn arbitrary_inputs_are_refused_or_survive_a_round_trip(
            kind in any::<u8>(), input in prop::collection::vec(any::<u8>(), 0..100)
        ) {
            drive(kind, &input);
        }
    }

    #[test]
    fn valid_inputs_survive_a_round_trip() {
        for body in [
            r#"{"state":"maint","grace":"5s"}"#,
            r#"{"weight":"50%"}"#,
            r#"{"level":"debug"}"#,
            r#"{"client":"a","server":"web/web1","connection":7}"#,
            r#"{"identity":"cn:a","for":"24h"}"#,
            r#"{"serial":"0A"}"#,
        ] {
            drive(0, body.as_bytes());
        }
        drive(
            1,
            b"client=a%20b&listener=main&server=web&search=x&limit=10",
        );
        for host in ["[::1]:9901", "10.0.0.1", "LOCALHOST:80", "lb.example.com"] {
            drive(2, host.as_bytes());
        }
        for value in ["cn:client1", "0a:0b", "50%", "3", "1h30m"] {
            drive(3, value.as_bytes());
        }
    }
}
