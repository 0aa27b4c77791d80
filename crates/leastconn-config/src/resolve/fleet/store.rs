//! `store`: the URL of a server, or a table with sentinels or nodes of a cluster.

use std::{ops::Range, path::PathBuf};

use leastconn::{Address, AddressError};

use super::Resolver;
use crate::{
    model::FleetStore,
    raw::{RawStore, value::At},
    suggest::nearest,
};

const SCHEMES: [&str; 3] = ["redis", "rediss", "unix"];
const DEFAULT_PORT: u16 = 6379;
const EXAMPLES: &str = "write \"rediss://HOST:PORT\", \"redis://HOST:PORT\" or \"unix:///PATH\"";

/// The server that a URL names.
pub(super) struct Url {
    pub(super) address: Address,
    pub(super) uses_tls: bool,
}

/// What is wrong with a URL, and what to do.
struct UrlError {
    message: String,
    help: String,
}

impl UrlError {
    fn new(message: impl Into<String>, help: impl Into<String>) -> Self {
        Self {
            message: message.into(),
            help: help.into(),
        }
    }
}

impl Resolver<'_> {
    pub(super) fn store_url(&mut self, text: &str, span: &Range<usize>) -> Option<Url> {
        match parse(text) {
            Ok(url) => Some(url),
            Err(UrlError { message, help }) => {
                self.problems
                    .error(format!("`store`: {message}"))
                    .at(span.clone())
                    .help(help);
                None
            }
        }
    }

    pub(super) fn store_table(
        &mut self,
        table: &RawStore,
        span: &Range<usize>,
        files: &mut Vec<PathBuf>,
    ) -> Option<FleetStore> {
        let RawStore {
            sentinels,
            primary,
            sentinel_user,
            sentinel_password,
            cluster,
        } = table;
        let of_sentinels = [
            ("primary", primary.as_ref().map(|at| &at.span)),
            ("sentinel_user", sentinel_user.as_ref().map(|at| &at.span)),
            (
                "sentinel_password",
                sentinel_password.as_ref().map(|at| &at.span),
            ),
        ];
        let unused = of_sentinels
            .into_iter()
            .find_map(|(key, span)| Some((key, span?)))
            .filter(|_| sentinels.is_none());
        match (sentinels, cluster) {
            _ if self.pruned(span) => None,
            (Some(_), Some(cluster)) => {
                self.problems
                    .error("`store` has both `sentinels` and `cluster`")
                    .at(cluster.span.clone())
                    .help("remove one of them");
                None
            }
            _ if unused.is_some() => {
                let (key, span) = unused?;
                self.problems
                    .error(format!("`{key}` has no effect without `sentinels`"))
                    .at(span.clone())
                    .help("add `sentinels`, the addresses of the sentinels");
                None
            }
            (None, None) => {
                self.problems
                    .error("`store` needs `sentinels` or `cluster`")
                    .at(span.clone())
                    .help("write `{ sentinels = [\"HOST:26379\"], primary = \"mymaster\" }` or `{ cluster = [\"HOST:6379\"] }`");
                None
            }
            (None, Some(nodes)) => self.addresses("cluster", nodes).map(FleetStore::Cluster),
            (Some(sentinels), None) => {
                let password = sentinel_password
                    .as_ref()
                    .map(|at| self.password("sentinel_password", at, files));
                self.check_user(
                    "sentinel_user",
                    sentinel_user.as_ref(),
                    password.is_some(),
                    span,
                );
                let sentinels = self.addresses("sentinels", sentinels);
                let Some(primary) = primary else {
                    self.problems
                        .error("`sentinels` without `primary`")
                        .at(span.clone())
                        .help("add `primary`, the name that the sentinels use: often \"mymaster\"");
                    return None;
                };
                if !self.check_name("primary", &primary.value, &primary.span) {
                    return None;
                }
                Some(FleetStore::Sentinel {
                    sentinels: sentinels?,
                    primary: primary.value.clone(),
                    user: sentinel_user.as_ref().map(|at| at.value.clone()),
                    password: password.flatten(),
                })
            }
        }
    }

    /// Parses a list of addresses. `None` if an error was reported.
    fn addresses(&mut self, key: &str, list: &At<Vec<At<String>>>) -> Option<Vec<Address>> {
        if list.value.is_empty() && !self.pruned(&list.span) {
            self.problems
                .error(format!("`{key}` is an empty list"))
                .at(list.span.clone())
                .help("list at least one address: \"HOST:PORT\"");
            return None;
        }
        let parsed = list.value.iter().map(|at| self.store_address(key, at));
        // Report the errors of all addresses.
        let parsed: Vec<_> = parsed.collect();
        parsed.into_iter().collect()
    }

    fn store_address(&mut self, key: &str, at: &At<String>) -> Option<Address> {
        let trouble = match at.value.parse::<Address>() {
            Ok(Address::Unix(_)) => "a UNIX socket cannot be in a list".to_owned(),
            Ok(address) => return Some(address),
            Err(AddressError::MissingPort) => "the port is missing".to_owned(),
            Err(error) => error.to_string(),
        };
        self.problems
            .error(format!("`{key}`: {:?}: {trouble}", at.value))
            .at(at.span.clone())
            .help("write \"HOST:PORT\"");
        None
    }
}

fn parse(text: &str) -> Result<Url, UrlError> {
    let Some((scheme, rest)) = text.split_once("://") else {
        return Err(UrlError::new(format!("{text:?} is not a URL"), EXAMPLES));
    };
    let uses_tls = match scheme {
        "redis" | "valkey" => false,
        "rediss" | "valkeys" => true,
        "unix" => return unix(rest),
        _ => {
            let help = match nearest(scheme, SCHEMES) {
                Some(meant) => format!("did you mean `{meant}://`?"),
                None => EXAMPLES.to_owned(),
            };
            return Err(UrlError::new(format!("unknown scheme `{scheme}`"), help));
        }
    };
    if rest.contains('@') {
        // Do not show the URL: it contains a password.
        return Err(UrlError::new(
            "the URL contains a user or a password",
            "use the keys `user` and `password`; `password` is a file",
        ));
    }
    if rest.contains(['?', '#']) {
        return Err(UrlError::new(
            "parameters in the URL are not supported",
            EXAMPLES,
        ));
    }
    let (host, database) = rest.split_once('/').unwrap_or((rest, ""));
    if !matches!(database, "" | "0") {
        return Err(UrlError::new(
            format!("the path `/{database}` is not supported: only database 0 is used"),
            "remove it; fleets in one database do not conflict, because all keys contain the name of their fleet",
        ));
    }
    let address = match host.parse::<Address>() {
        Err(AddressError::MissingPort) => format!("{host}:{DEFAULT_PORT}").parse(),
        parsed => parsed,
    };
    match address {
        Ok(Address::Unix(_)) | Err(AddressError::Url) => Err(UrlError::new(
            format!("{text:?} is not a URL of a server"),
            EXAMPLES,
        )),
        Ok(address) => Ok(Url { address, uses_tls }),
        Err(error) => Err(UrlError::new(
            format!("{text:?}: {error}"),
            format!("write \"{scheme}://HOST:PORT\""),
        )),
    }
}

/// Parses the part of a `unix` URL after `://`.
fn unix(rest: &str) -> Result<Url, UrlError> {
    if !rest.starts_with('/') {
        return Err(UrlError::new(
            format!("the path of the socket is not absolute: \"unix://{rest}\""),
            format!("write \"unix:///{rest}\", with three slashes"),
        ));
    }
    match format!("unix:{rest}").parse() {
        Ok(address) => Ok(Url {
            address,
            uses_tls: false,
        }),
        Err(error) => Err(UrlError::new(
            error.to_string(),
            "write \"unix:///run/valkey/valkey.sock\"",
        )),
    }
}
