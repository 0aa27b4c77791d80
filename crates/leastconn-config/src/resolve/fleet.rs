//! `[fleet]`

mod store;

use std::{num::NonZeroU32, ops::Range, path::PathBuf, sync::Arc, time::Duration};

use leastconn::Address;

use super::{Resolver, Zero, secret_file};
use crate::{
    defaults, duration,
    model::{Fleet, FleetStore, Listener, Secret},
    names,
    raw::{
        RawFleet, RawUpstreamTls, StoreEntry,
        value::{At, DurationText},
    },
    tls::{self, UpstreamTls},
};
use store::Url;

/// Limits for `gone_after`. Members perform an exchange every 100 ms, and are cut off after one
/// second without one.
const MIN_GONE_AFTER: Duration = Duration::from_secs(1);
const MAX_GONE_AFTER: Duration = Duration::from_mins(10);

/// After this time, an exchange with the store has failed, so that no connection needs to wait
/// longer.
const MAX_ASK_TIMEOUT: Duration = Duration::from_millis(250);

impl Resolver<'_> {
    pub(super) fn fleet(
        &mut self,
        raw: &At<RawFleet>,
        listeners: &[At<Listener>],
    ) -> Option<Fleet> {
        let RawFleet {
            name,
            store,
            user,
            password,
            secret,
            ca: _,
            server_name: _,
            cert: _,
            key: _,
            member,
            limits,
            counts,
            size,
            gone_after,
            ask_timeout,
        } = &raw.value;
        let mut secret_files = Vec::new();
        let name = self.name("fleet", name.as_ref());
        let member = self.member(member.as_ref(), &raw.span);
        let secret = secret
            .as_ref()
            .and_then(|at| self.fleet_secret(at, &mut secret_files));
        let password = password
            .as_ref()
            .map(|at| self.password("password", at, &mut secret_files));
        self.check_user("user", user.as_ref(), password.is_some(), &raw.span);
        let store = store
            .as_ref()
            .and_then(|at| self.store_of(at, &mut secret_files));
        let tls = store.as_ref().and_then(|store| self.store_tls(raw, store));
        let gone_after = self.gone_after(gone_after.as_ref());
        let ask_timeout = self.ask_timeout(ask_timeout.as_ref(), &raw.span, listeners);
        let size = size.as_ref().map_or(defaults::FLEET_SIZE, |at| at.value);
        Some(Fleet {
            name: name?.value,
            store: store?.value,
            user: user.as_ref().map(|at| at.value.clone()),
            password: password.flatten(),
            secret: secret?,
            tls,
            member: member?,
            limits: limits.as_ref().map_or_else(Default::default, |at| at.value),
            counts: counts.as_ref().map_or_else(Default::default, |at| at.value),
            size: NonZeroU32::new(size).unwrap_or(NonZeroU32::MIN),
            gone_after,
            ask_timeout,
            secret_files,
        })
    }

    /// The name of this member. An empty `member`, for example from an unset environment variable,
    /// stands for the host name.
    fn member(&mut self, member: Option<&At<String>>, table: &Range<usize>) -> Option<Arc<str>> {
        if let Some(at) = member.filter(|at| !at.value.is_empty()) {
            let is_valid = self.check_name("member", &at.value, &at.span);
            return is_valid.then(|| at.value.as_str().into());
        }
        let system = rustix::system::uname();
        let host = system.nodename().to_string_lossy();
        if names::is_name(&host) {
            return Some(host.into());
        }
        let span = member.map_or(table, |at| &at.span);
        self.problems
            .error(format!(
                "the host name {host:?} cannot be the name of the member"
            ))
            .at(span.clone())
            .help("set `member` to letters, digits, `_`, `.` and `-`");
        None
    }

    fn fleet_secret(&mut self, at: &At<String>, files: &mut Vec<PathBuf>) -> Option<Secret> {
        let path = self.path(&at.value);
        files.push(path.clone());
        let help = format!(
            "create one, and copy it to all members: (umask 077; openssl rand -hex 32 > {})",
            path.display()
        );
        let read = secret_file::read_word;
        let secret = self.read_secret("secret", &path, &at.span, read, help)?;
        Some(Secret::new(secret))
    }

    fn password(&mut self, key: &str, at: &At<String>, files: &mut Vec<PathBuf>) -> Option<Secret> {
        let path = self.path(&at.value);
        files.push(path.clone());
        let help = format!("`{key}` is a file that contains the password");
        let read = secret_file::read_password;
        let password = self.read_secret("password", &path, &at.span, read, help)?;
        Some(Secret::new(password))
    }

    fn check_user(
        &mut self,
        key: &str,
        user: Option<&At<String>>,
        has_password: bool,
        table: &Range<usize>,
    ) {
        let Some(at) = user else {
            return;
        };
        let password = key.replace("user", "password");
        if at.value.is_empty() || at.value.contains(|c: char| c.is_control() || c == ' ') {
            self.problems
                .error(format!("`{key}` is not the name of a user"))
                .at(at.span.clone());
        } else if !has_password && !self.pruned(table) {
            self.problems
                .error(format!("`{key}` needs `{password}`"))
                .at(at.span.clone())
                .help(format!("add `{password}`, a file with the user's password"));
        }
    }

    fn store_of(&mut self, at: &At<StoreEntry>, files: &mut Vec<PathBuf>) -> Option<Store> {
        match &at.value {
            StoreEntry::Url(text) => {
                let Url { address, uses_tls } = self.store_url(text, &at.span)?;
                Some(Store {
                    span: at.span.clone(),
                    value: FleetStore::Server(address),
                    uses_tls: Some(uses_tls),
                })
            }
            StoreEntry::Table(table) => Some(Store {
                span: at.span.clone(),
                value: self.store_table(table, &at.span, files)?,
                uses_tls: None,
            }),
        }
    }

    /// Loads the TLS files. `None`: the store is used without TLS, or an error was reported.
    fn store_tls(&mut self, raw: &At<RawFleet>, store: &Store) -> Option<UpstreamTls> {
        let RawFleet {
            ca,
            server_name,
            cert,
            key,
            ..
        } = &raw.value;
        let keys = [
            ("ca", ca),
            ("server_name", server_name),
            ("cert", cert),
            ("key", key),
        ];
        let uses_tls = store.uses_tls.unwrap_or(ca.is_some());
        if !uses_tls {
            let unused = keys
                .iter()
                .find_map(|(name, at)| Some((name, at.as_ref()?)));
            if let Some((name, at)) = unused
                && !self.pruned(&raw.span)
            {
                let help = match &store.value {
                    FleetStore::Server(Address::Unix(_)) => {
                        "remove the key: UNIX sockets need no TLS"
                    }
                    FleetStore::Server(_) => "for TLS, write `rediss://` in `store`",
                    _ => "for TLS, add `ca`, the authorities that issue the store's certificates",
                };
                self.problems
                    .error(format!("`{name}` has no effect without TLS"))
                    .at(at.span.clone())
                    .help(help);
            }
            self.warn_of_plain_text(store);
            return None;
        }
        if ca.is_none() {
            if !self.pruned(&raw.span) {
                self.problems
                    .error("`rediss://` needs `ca`")
                    .at(store.span.clone())
                    .help("set `ca` to the authorities that issue the store's certificates");
            }
            return None;
        }
        let table = At {
            value: RawUpstreamTls {
                ca: ca.clone(),
                server_name: server_name.clone(),
                cert: cert.clone(),
                key: key.clone(),
                ..RawUpstreamTls::default()
            },
            span: raw.span.clone(),
        };
        let tls = tls::upstream::load(&table, &[], self.surroundings, self.problems)?;
        if let FleetStore::Server(address) = &store.value
            && tls.settings.name_of(address).is_none()
        {
            self.problems
                .error(format!(
                    "no certificate can contain the host `{}`",
                    address.host()
                ))
                .at(store.span.clone())
                .help("add `server_name`, a name that the store's certificates contain");
        }
        Some(tls)
    }

    fn warn_of_plain_text(&mut self, store: &Store) {
        let remote = store.value.addresses().find(|address| !is_local(address));
        // These name further addresses, to which the password is sent.
        let named = match &store.value {
            FleetStore::Server(_) => None,
            FleetStore::Sentinel { .. } => {
                Some("connections to the servers that the sentinels name")
            }
            FleetStore::Cluster(_) => Some("connections to the other nodes of the cluster"),
        };
        let warning = match (remote, named) {
            (Some(address), _) => Some(format!("the connection to {address} is not encrypted")),
            (None, Some(named)) => Some(format!("{named} are not encrypted")),
            (None, None) => None,
        };
        if let Some(warning) = warning {
            self.problems
                .warning(warning)
                .at(store.span.clone())
                .note("everyone on the network path can read the password, and change limits and counts")
                .help(match store.uses_tls {
                    Some(_) => "write `rediss://` and set `ca`",
                    None => "set `ca`",
                });
        }
    }

    fn gone_after(&mut self, at: Option<&At<DurationText>>) -> Duration {
        let time = self.duration("gone_after", at, defaults::GONE_AFTER, Zero::Refused);
        if let Some(at) = at
            && !(MIN_GONE_AFTER..=MAX_GONE_AFTER).contains(&time)
        {
            self.problems
                .error(format!(
                    "`gone_after` must be from {:?} to {:?}",
                    duration::text(MIN_GONE_AFTER),
                    duration::text(MAX_GONE_AFTER)
                ))
                .at(at.span.clone())
                .note("the connections of a failed member count for this long");
        }
        time
    }

    fn ask_timeout(
        &mut self,
        at: Option<&At<DurationText>>,
        table: &Range<usize>,
        listeners: &[At<Listener>],
    ) -> Duration {
        let time = self.duration("ask_timeout", at, defaults::ASK_TIMEOUT, Zero::Refused);
        let span = at.map_or(table, |at| &at.span);
        if time > MAX_ASK_TIMEOUT {
            self.problems
                .error(format!(
                    "`ask_timeout` must be at most {:?}",
                    duration::text(MAX_ASK_TIMEOUT)
                ))
                .at(span.clone())
                .note("an exchange with the store fails after this time");
            return time;
        }
        let shorter = listeners
            .iter()
            .map(|at| &at.value)
            .find(|listener| listener.timeouts.handshake <= time);
        if let Some(listener) = shorter {
            self.problems
                .error(format!(
                    "`ask_timeout` ({}) is not shorter than `handshake_timeout` of listener `{}` ({})",
                    duration::text(time),
                    listener.name,
                    duration::text(listener.timeouts.handshake)
                ))
                .at(span.clone())
                .help("set a shorter `ask_timeout` or a longer `handshake_timeout`");
        }
        time
    }
}

/// The store with its position.
struct Store {
    span: Range<usize>,
    value: FleetStore,
    /// Whether the URL's scheme requires TLS. `None`: the store is a table, and `ca` decides.
    uses_tls: Option<bool>,
}

/// Whether no network lies between the balancer and this address.
fn is_local(address: &Address) -> bool {
    match address {
        Address::Ip(address) => address.ip().to_canonical().is_loopback(),
        Address::Name { host, .. } => host.eq_ignore_ascii_case("localhost"),
        Address::Unix(_) => true,
    }
}
