//! Client rules. They are tried in order, and the first rule that matches decides.
//!
//! Only the rules that the index of [`Clients`] returns for the client are tried, so the cost does
//! not grow with the number of rules. Rules in shadow mode decide nothing, and expired rules match
//! no client. The current time is passed as an argument.

mod grant;
mod input;

use std::{
    collections::{BTreeMap, HashMap},
    sync::Arc,
};

use jiff::Timestamp;
use leastconn::{ClientId, Selector, UpstreamId};
use leastconn_config::{Allow, Clients, Config, Granted, MatchKey, Mode, Rule};
use leastconn_tls::certificate::Certificate;

use crate::upstream::Upstream;

pub use grant::{Denied, Grant, Matched, Routing};
pub use input::RuleInput;

use grant::GrantedServers;

/// The client rules of one snapshot.
#[derive(Debug)]
pub struct Policy {
    clients: Arc<Clients>,
    /// For each entry of [`Clients::allows`], the servers that it grants.
    granted: Vec<GrantedServers>,
    /// The times at which rules expire, in ascending order.
    expiries: Vec<Timestamp>,
    /// For each kind of match key, the number of the first enforced rule that uses it.
    first_with: BTreeMap<MatchKey, usize>,
}

/// The result of matching one rule, regardless of the other rules.
#[derive(Clone, Debug)]
pub enum RuleMatch<'a> {
    /// The rule matches and is enforced.
    Enforced(Matched<'a>),
    /// The rule matches and is in shadow mode.
    Shadow(Matched<'a>),
    /// The rule would match, but expired at this time.
    Expired(Timestamp),
    /// The rule does not match, because of this key.
    Mismatch(MatchKey),
}

impl Policy {
    /// Creates the policy for the rules of `config`. `upstreams` are the started upstreams.
    pub fn new(config: &Config, upstreams: &HashMap<UpstreamId, Arc<Upstream>>) -> Self {
        let clients = Arc::clone(&config.clients);
        let allows = clients.allows().iter();
        let granted = allows
            .map(|allow| granted_servers(allow, upstreams))
            .collect();
        let mut expiries: Vec<_> = clients.expiries().collect();
        expiries.sort_unstable();
        expiries.dedup();
        let mut first_with = BTreeMap::new();
        for (number, rule) in clients.iter().enumerate() {
            for key in MatchKey::TEXTS {
                if rule.mode() == Mode::Enforce && rule.texts(key).len() > 0 {
                    first_with.entry(key).or_insert(number);
                }
            }
        }
        Self {
            clients,
            granted,
            expiries,
            first_with,
        }
    }

    /// Returns the first enforced rule that matches the client at `now`.
    ///
    /// # Errors
    /// If no rule matches, or if an earlier rule uses a name that cannot be read from the
    /// certificate.
    pub fn identify(&self, input: &RuleInput<'_>, now: Timestamp) -> Result<Matched<'_>, Denied> {
        let mut expired = None;
        for number in self.candidates(input) {
            match self.try_rule(number, input, now) {
                RuleMatch::Enforced(matched) => {
                    self.check_readable_before(number, input)?;
                    return Ok(matched);
                }
                RuleMatch::Expired(at) => {
                    let enforced = self.clients.rule(number).mode() == Mode::Enforce;
                    expired = expired.or(enforced.then_some((number, at)));
                }
                RuleMatch::Shadow(_) | RuleMatch::Mismatch(_) => {}
            }
        }
        self.check_readable_before(self.clients.len(), input)?;
        Err(match expired {
            None => Denied::UnknownClient,
            Some((number, at)) => Denied::Expired {
                client: self.clients.rule(number).name().into(),
                at,
            },
        })
    }

    /// Fails if a rule before `number` uses a kind of name that the certificate contains in an
    /// unreadable encoding, because that rule might have matched.
    fn check_readable_before(&self, number: usize, input: &RuleInput<'_>) -> Result<(), Denied> {
        let Some(certificate) = input.certificate else {
            return Ok(());
        };
        let is_used = |key: MatchKey| {
            let first = self.first_with.get(&key);
            first.is_some_and(|&first| first < number)
        };
        let unreadable = |key: &MatchKey| Some((*key, key.unreadable_in(certificate)?));
        let mut unreadable = MatchKey::TEXTS.iter().filter_map(unreadable);
        match unreadable.find(|(key, _)| is_used(*key)) {
            Some((_, error)) => Err(Denied::Ambiguous(error)),
            None => Ok(()),
        }
    }

    /// Returns the first rule that matches the client at `now`, if that rule is in shadow mode.
    pub fn shadow(&self, input: &RuleInput<'_>, now: Timestamp) -> Option<Matched<'_>> {
        for number in self.candidates(input) {
            match self.try_rule(number, input, now) {
                RuleMatch::Shadow(matched) => return Some(matched),
                RuleMatch::Enforced(_) => return None,
                RuleMatch::Expired(_) | RuleMatch::Mismatch(_) => {}
            }
        }
        None
    }

    /// The first time after `now` at which a rule expires.
    pub fn next_expiry(&self, now: Timestamp) -> Option<Timestamp> {
        let passed = self.expiries.partition_point(|&expiry| expiry <= now);
        self.expiries.get(passed).copied()
    }

    pub fn clients(&self) -> &Clients {
        &self.clients
    }

    /// Matches one rule by its number, from 0, regardless of the other rules.
    ///
    /// # Panics
    /// If there is no rule with that number.
    pub fn try_rule(&self, number: usize, input: &RuleInput<'_>, now: Timestamp) -> RuleMatch<'_> {
        let rule = self.clients.rule(number);
        let identity = match match_rule(&rule, input) {
            Ok(identity) => identity,
            Err(key) => return RuleMatch::Mismatch(key),
        };
        if let Some(expiry) = rule.expires().filter(|&expiry| expiry <= now) {
            return RuleMatch::Expired(expiry);
        }
        let mode = rule.mode();
        let matched = Matched {
            clients: &self.clients,
            rule,
            granted: &self.granted[rule.allow_number()],
            identity,
        };
        match mode {
            Mode::Enforce => RuleMatch::Enforced(matched),
            Mode::Shadow => RuleMatch::Shadow(matched),
        }
    }

    /// Numbers of the rules that may match, in order.
    fn candidates(&self, input: &RuleInput<'_>) -> impl Iterator<Item = usize> {
        let texts = |key: MatchKey| {
            let texts = texts(key, input.certificate);
            texts.iter().map(move |text| (key, text.as_str()))
        };
        let certificate = MatchKey::TEXTS.into_iter().flat_map(texts);
        self.clients.may_match(certificate, input.source)
    }
}

fn texts(key: MatchKey, certificate: Option<&Certificate>) -> &[String] {
    certificate.map_or(&[], |certificate| key.values_in(certificate))
}

fn granted_servers(
    allow: &[Allow],
    upstreams: &HashMap<UpstreamId, Arc<Upstream>>,
) -> GrantedServers {
    upstreams
        .iter()
        .filter_map(|(id, upstream)| {
            let selector = match Granted::of(allow, id)? {
                Granted::All => Selector::all(),
                Granted::Only(names) => Selector::named(names.iter().cloned()),
            };
            Some((id.clone(), (Arc::clone(upstream), selector)))
        })
        .collect()
}

/// Matches a client against `rule`, and returns the client's identity: the value that matched the
/// rule's first [identity key](MatchKey::is_identity). A rule without an identity key may match
/// many clients, each of which then has its default identity.
///
/// # Errors
/// The first key that does not match.
fn match_rule(rule: &Rule<'_>, input: &RuleInput<'_>) -> Result<ClientId, MatchKey> {
    let mut name = None;
    for key in MatchKey::TEXTS {
        let patterns = rule.texts(key);
        if patterns.len() == 0 {
            continue;
        }
        let text = texts(key, input.certificate)
            .iter()
            .find(|text| {
                let mut patterns = patterns.clone();
                patterns.any(|pattern| key.matches(pattern, text))
            })
            .ok_or(key)?;
        if key.is_identity() {
            name.get_or_insert((key, text));
        }
    }
    let sources = rule.sources();
    if !sources.is_empty() && !sources.iter().any(|net| net.contains(input.source)) {
        return Err(MatchKey::Source);
    }
    Ok(name.map_or_else(|| input.identity(), |(key, text)| key.identity(text)))
}

#[cfg(test)]
mod tests;
