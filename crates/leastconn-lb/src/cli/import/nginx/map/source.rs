//! The variables that a `map` compares, and the conditions for their values.

use super::{
    super::super::{
        access::{Condition, Key, Predicate, SNI_NEEDS_TLS},
        dn,
        networks::network,
        regex::{self, Pattern},
        values::is_accepted,
    },
    Reason, Scope,
    cases::{Order, OtherNames, Spelling},
    expression, is_common_name, without_escape,
};

/// The variable that a map compares.
pub(super) enum Source {
    Names(Key),
    /// The distinguished name of the subject or, with the key `issuer_cn`, of the issuer.
    Subject(Key),
    /// The address of the client, in a `geo` block or, if not set, in a `map`.
    Address {
        geo: bool,
    },
    /// A constant text.
    Constant(&'static str),
}

impl Source {
    pub(super) fn of(source: &str, geo: bool, scope: Scope<'_>) -> Result<Self, Reason> {
        Ok(match source {
            "$ssl_server_name" if scope.tls => Self::Names(Key::Sni),
            "$ssl_server_name" | "$ssl_client_s_dn" if !scope.tls => Self::Constant(""),
            "$ssl_client_s_dn" if scope.certificates => Self::Subject(Key::Cn),
            "$ssl_client_i_dn" if scope.certificates => Self::Subject(Key::IssuerCn),
            "$ssl_client_s_dn" | "$ssl_client_i_dn" => Self::Constant(""),
            "$ssl_client_verify" if scope.certificates => Self::Constant("SUCCESS"),
            "$ssl_client_verify" => Self::Constant("NONE"),
            "$remote_addr" => Self::Address { geo },
            "$ssl_preread_server_name"
            | "$ssl_preread_alpn_protocols"
            | "$ssl_preread_protocol" => {
                return Err(SNI_NEEDS_TLS.to_owned());
            }
            other if !is_common_name(other, scope) => {
                return Err(format!("{other} has no equivalent"));
            }
            _ if scope.certificates => Self::Names(Key::Cn),
            _ => Self::Constant(""),
        })
    }

    /// Whether the condition of [`Self::case`] matches more clients than `text` in the source.
    pub(super) fn is_widened(&self, text: &str) -> bool {
        let (Self::Subject(_), text) = (self, without_escape(text)) else {
            return false;
        };
        // A plain text is the whole subject.
        expression(text).is_none_or(|expression| {
            dn::common_names(expression).is_some_and(|found| found.is_wider)
        })
    }

    /// Returns how nginx compares the case of letters in this entry.
    pub(super) fn spelling(&self, text: &str, condition: &Condition) -> Spelling {
        let (Self::Subject(_) | Self::Names(Key::Cn), Condition::Is(predicate)) = (self, condition)
        else {
            return Spelling::Exact;
        };
        let has_letter = |name: &String| name.contains(|c: char| c.is_ascii_alphabetic());
        if !predicate
            .keys()
            .any(|(_, names)| names.iter().any(has_letter))
        {
            return Spelling::Exact;
        }
        let text = without_escape(text);
        // nginx also ignores case in plain texts.
        match expression(text) {
            None => Spelling::WholeName,
            Some(_) if text.starts_with("~*") => Spelling::Part,
            Some(_) => Spelling::Exact,
        }
    }

    /// Whether nginx does not match the entry against a component with several attributes, such as
    /// `CN=a+OU=b`, although the condition of [`Self::case`] matches it.
    pub(super) fn misses_combined_attributes(&self, text: &str) -> bool {
        match (self, expression(without_escape(text))) {
            (Self::Subject(_), Some(expression)) => match dn::common_names(expression) {
                Some(found) => !found.is_wider && found.is_bounded,
                None => dn::units(expression).is_some(),
            },
            // The variable has the value `a+OU=b`.
            (Self::Names(Key::Cn), _) => true,
            _ => false,
        }
    }

    /// Returns the names that nginx matches in addition to the condition of [`Self::case`].
    pub(super) fn other_names(&self, text: &str, condition: &Condition) -> Option<OtherNames> {
        let (text, Condition::Is(_)) = (without_escape(text), condition) else {
            return None;
        };
        match (self, expression(text)) {
            (Self::Subject(_), Some(expression)) => {
                let found = dn::common_names(expression).filter(|found| !found.is_exact)?;
                let (matched, exact) = dn::longer_names(expression, &found.names);
                Some(OtherNames {
                    matched: format!("\"{text}\" {matched}"),
                    advice: format!("Write {exact} for exactly this name"),
                })
            }
            (Self::Names(Key::Cn), found) => {
                let domain = match found {
                    Some(expression) => regex::patterns(expression)?
                        .iter()
                        .any(|pattern| matches!(pattern, Pattern::Below(_))),
                    None => text.starts_with(['*', '.']),
                };
                domain.then(|| OtherNames {
                    matched: format!(
                        "{text:?} also matches names with more than three further labels"
                    ),
                    advice: "Write the complete names".to_owned(),
                })
            }
            _ => None,
        }
    }

    /// Whether the entry is a literal text that no client can have.
    pub(super) fn never_matches(&self, text: &str, hostnames: bool) -> bool {
        let text = without_escape(text);
        if expression(text).is_some() {
            return false;
        }
        match self {
            Self::Names(Key::Sni) if !hostnames => {
                text.contains('*') || (!text.is_empty() && text.split('.').any(str::is_empty))
            }
            Self::Address { geo: false } => text.contains('/'),
            _ => false,
        }
    }

    /// Returns a sentence about how to translate an entry that [`Self::case`] does not translate.
    pub(super) fn hint(&self, text: &str) -> String {
        let found = match (self, expression(without_escape(text))) {
            (Self::Subject(Key::Cn), Some(expression)) => dn::example(expression),
            _ => None,
        };
        match found {
            Some((None, unit)) => {
                format!(". A rule with match = {{ ou = \"{unit}\" }} accepts exactly this unit")
            }
            Some((Some(name), unit)) => format!(
                ". A rule with match = {{ cn = \"{name}\", ou = \"{unit}\" }} needs both, but \
                 also matches subjects with further attributes"
            ),
            None => String::new(),
        }
    }

    /// Returns a predicate that matches all clients of an exact entry that [`Self::case`] does not
    /// translate.
    pub(super) fn superset(&self, text: &str) -> Option<Predicate> {
        let text = without_escape(text);
        match (self, expression(text)) {
            (Self::Subject(Key::Cn), None) => {
                dn::common_name(text).map(|name| Predicate::new(Key::Cn, vec![name]))
            }
            _ => None,
        }
    }

    /// Returns the order in which nginx evaluates a case.
    fn order(&self, text: &str, hostnames: bool) -> Order {
        let length = std::cmp::Reverse(text.len());
        match self {
            _ if expression(text).is_some() => Order::Expression,
            Self::Names(_) if hostnames && text.starts_with(['*', '.']) => Order::Specific(length),
            Self::Names(_) if hostnames && text.ends_with(".*") => Order::Trailing,
            _ => Order::Exact,
        }
    }

    /// Returns the condition for clients with this value, and when it is evaluated. If `refuses` is
    /// set, they are refused, so the condition must not match fewer clients than the source.
    pub(super) fn case(
        &self,
        text: &str,
        hostnames: bool,
        refuses: bool,
    ) -> (Order, Result<Condition, Reason>) {
        let text = without_escape(text);
        let order = self.order(text, hostnames);
        match (self, network(text)) {
            (Self::Address { .. }, Some(network)) => {
                let network = network.to_string();
                let prefix = network
                    .split_once('/')
                    .and_then(|(_, bits)| bits.parse().ok());
                let order = Order::Specific(std::cmp::Reverse(prefix.unwrap_or(usize::MAX)));
                let predicate = Predicate::new(Key::Source, vec![network]);
                (order, Ok(Condition::Is(predicate)))
            }
            _ => match self.condition(text, hostnames, refuses) {
                // The exact entry concerns no client of another entry.
                Err(reason) if order == Order::Exact => (Order::Unknown, Err(reason)),
                condition => (order, condition),
            },
        }
    }

    fn condition(&self, text: &str, hostnames: bool, refuses: bool) -> Result<Condition, Reason> {
        let expression = expression(text);
        let unknown = || format!("{text:?} has no equivalent");
        let is = |key: Key, values: Vec<String>| Condition::Is(Predicate::new(key, values));
        match self {
            Self::Constant(value) => match expression {
                None => Ok(Condition::Constant(value.eq_ignore_ascii_case(text))),
                Some(_) if value.is_empty() => Ok(Condition::Constant(false)),
                Some(_) => Err(unknown()),
            },
            Self::Address { .. } => Err(unknown()),
            Self::Names(key) => {
                let patterns = match expression {
                    Some(expression) => regex::patterns(expression).ok_or_else(unknown)?,
                    None if hostnames && text.starts_with("*.") => {
                        vec![Pattern::Below(text[2..].to_owned())]
                    }
                    None if hostnames && text.starts_with('.') => vec![
                        Pattern::Exact(text[1..].to_owned()),
                        Pattern::Below(text[1..].to_owned()),
                    ],
                    None => vec![Pattern::Exact(text.to_owned())],
                };
                let others = patterns.iter().find_map(|pattern| pattern.others(*key));
                if let Some(others) = others.filter(|_| refuses) {
                    return Err(format!("{others} cannot be matched"));
                }
                let names = patterns.iter().map(|pattern| pattern.names(*key));
                let names = names
                    .collect::<Option<Vec<_>>>()
                    .ok_or_else(unknown)?
                    .concat();
                let has_empty_label = |name: &String| name.split('.').any(str::is_empty);
                if names.iter().any(has_empty_label) {
                    return Err(unknown());
                }
                Ok(is(*key, names))
            }
            Self::Subject(key) => match expression {
                None if *key == Key::Cn => Ok(Condition::Is(dn::subject(text)?)),
                None => Err(unknown()),
                Some(expression) => {
                    let all = |key: Key, values: &[String]| {
                        values.iter().all(|value| is_accepted(key, value))
                    };
                    if let Some(found) = dn::common_names(expression) {
                        let names = Some(found.names).filter(|names| all(*key, names));
                        return Ok(is(*key, names.ok_or_else(unknown)?));
                    }
                    match dn::units(expression).filter(|units| all(Key::Ou, units)) {
                        Some(units) if *key == Key::Cn => Ok(is(Key::Ou, units)),
                        _ if expression.contains("OU=") => {
                            Err("import does not translate this expression".to_owned())
                        }
                        _ => Err(unknown()),
                    }
                }
            },
        }
    }
}
