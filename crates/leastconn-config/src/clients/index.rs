//! Finding the rules that may match a client, or hide a later rule, without trying
//! all of them.
//!
//! Each rule is found by one of the keys that it asks for: without one of its texts, or
//! one of its networks, it does not hold. The key is the one that the fewest rules
//! have in common, so that rules which all ask for the same unit, say, and each for
//! another address, are found by the address. A network is looked up by each length
//! of prefix that there is, and a pattern by each form that there is.
//!
//! What is found may match, and is to be judged; what is not cannot.

use std::{
    cmp::{Ordering, Reverse},
    collections::{BinaryHeap, HashSet},
};

use super::{Clients, MatchKey, number};
use crate::cidr::{IpNet, Prefixes};
use leastconn_tls::pattern::Form;

/// Of each rule, 8 bytes for each of the texts or networks that it is found by.
#[derive(Clone, Debug, Default, PartialEq)]
pub(super) struct Index {
    /// By key and text, then in the rules' order.
    texts: Vec<Asked>,
    /// By network, then in the rules' order.
    nets: Vec<Asked>,
    /// The forms of those texts that are patterns, each once.
    forms: Vec<(MatchKey, Form)>,
    /// The lengths of the networks' prefixes, each once, by family: first IPv4.
    prefixes: [Vec<u8>; 2],
}

/// One of the texts or networks that a rule can be found by.
#[derive(Clone, Copy, Debug, PartialEq)]
struct Asked {
    /// Its number in [`Clients`].
    what: u32,
    rule: u32,
}

impl Index {
    pub(super) fn of(clients: &Clients) -> Self {
        let mut index = Self::default();
        for (rule, client) in clients.iter().enumerate() {
            let rule = number(rule);
            let asked = |what| Asked {
                what: number(what),
                rule,
            };
            let texts = MatchKey::TEXTS
                .into_iter()
                .flat_map(|key| client.numbers(key));
            index.texts.extend(texts.map(asked));
            index.nets.extend(client.source_numbers().map(asked));
        }
        // Stable: rules of the same text stay in order.
        let text = |asked: &Asked| clients.asked(asked.what);
        index.texts.sort_by(|a, b| text(a).cmp(&text(b)));
        let net = |asked: &Asked| clients.sources[asked.what as usize];
        index.nets.sort_by_key(net);

        let same = index.texts.chunk_by(|a, b| text(a) == text(b));
        let texts = how_many(same, clients.keys.len());
        let same = index.nets.chunk_by(|a, b| net(a) == net(b));
        let nets = how_many(same, clients.sources.len());
        let found_by: Vec<_> = (0..clients.len())
            .map(|rule| found_by(clients, rule, &texts, &nets))
            .collect();
        index.texts.retain(|asked| {
            let (key, _) = clients.asked(asked.what);
            key.is_some() && key == found_by[asked.rule as usize]
        });
        index
            .nets
            .retain(|asked| found_by[asked.rule as usize] == Some(MatchKey::Source));
        index.texts.shrink_to_fit();
        index.nets.shrink_to_fit();

        let mut forms = HashSet::new();
        for asked in &index.texts {
            if let (Some(key), text) = clients.asked(asked.what)
                && key.is_wildcard(text)
            {
                forms.insert((key, Form::of(text, key.separator())));
            }
        }
        index.forms = forms.into_iter().collect();
        index.forms.sort_unstable();
        let [v4, v6] = &mut index.prefixes;
        for net in index.nets.iter().map(net) {
            let prefixes = if net.is_ipv4() { &mut *v4 } else { &mut *v6 };
            if !prefixes.contains(&net.prefix()) {
                prefixes.push(net.prefix());
            }
        }
        index
    }

    /// The rules that one of these texts, each for its key, or this network may be in,
    /// in their order.
    pub(super) fn near<'a, 't>(
        &'a self,
        clients: &Clients,
        texts: impl Iterator<Item = (MatchKey, &'t str)>,
        source: Option<IpNet>,
    ) -> Near<'a> {
        let mut rows = Vec::new();
        for (key, text) in texts {
            rows.push(self.with_text(clients, key, text));
            let forms = self.forms.iter().filter(|(of, _)| *of == key);
            for blank in forms.filter_map(|(_, form)| form.candidate(text)) {
                // One that is a pattern of this form already was looked up above.
                if blank != text {
                    rows.push(self.with_text(clients, key, &blank));
                }
            }
        }
        if let Some(net) = source {
            let [v4, v6] = &self.prefixes;
            let prefixes = if net.is_ipv4() { v4 } else { v6 };
            let wider = prefixes.iter().filter(|&&prefix| prefix <= net.prefix());
            rows.extend(wider.map(|&prefix| {
                let prefixes = Prefixes {
                    v4: prefix,
                    v6: prefix,
                };
                self.with_net(clients, IpNet::of(net.address(), prefixes))
            }));
        }
        Near::new(rows)
    }

    fn with_text(&self, clients: &Clients, key: MatchKey, text: &str) -> &[Asked] {
        equal(&self.texts, |asked| {
            clients.asked(asked.what).cmp(&(Some(key), text))
        })
    }

    fn with_net(&self, clients: &Clients, net: IpNet) -> &[Asked] {
        equal(&self.nets, |asked| {
            clients.sources[asked.what as usize].cmp(&net)
        })
    }
}

/// Of each text, or network, how many have the same.
fn how_many<'a>(same: impl Iterator<Item = &'a [Asked]>, of: usize) -> Vec<u32> {
    let mut counts = vec![0; of];
    for same in same {
        for asked in same {
            counts[asked.what as usize] = number(same.len());
        }
    }
    counts
}

/// The key by which a rule is found, when of each text and network it is known how
/// many there are. `None`: it asks for nothing, which no rule does.
fn found_by(clients: &Clients, rule: usize, texts: &[u32], nets: &[u32]) -> Option<MatchKey> {
    let rule = clients.rule(rule);
    let most = |counts: &[u32]| counts.iter().max().copied();
    let by_text = MatchKey::SELECTIVE.into_iter().filter_map(|key| {
        let wildcard = rule.texts(key).any(|text| key.is_wildcard(text));
        most(&texts[rule.numbers(key)]).map(|count| (count, wildcard, key))
    });
    let by_net = most(&nets[rule.source_numbers()]).map(|count| (count, true, MatchKey::Source));
    // The first of several that are as good.
    let best = by_text.chain(by_net);
    best.min_by_key(|&(count, wildcard, _)| (count, wildcard))
        .map(|(_, _, key)| key)
}

fn equal(sorted: &[Asked], compare: impl Fn(&Asked) -> Ordering) -> &[Asked] {
    let start = sorted.partition_point(|asked| compare(asked) == Ordering::Less);
    let rest = &sorted[start..];
    &rest[..rest.partition_point(|asked| compare(asked) == Ordering::Equal)]
}

/// Several lists of rules, each in order, as one, where each comes once. It is made as
/// far as it is read: mostly one of the first rules decides.
pub struct Near<'a> {
    rows: Vec<&'a [Asked]>,
    /// Of each list the next rule.
    next: BinaryHeap<Reverse<(u32, usize)>>,
}

impl<'a> Near<'a> {
    fn new(mut rows: Vec<&'a [Asked]>) -> Self {
        rows.retain(|row| !row.is_empty());
        let firsts = rows.iter().enumerate();
        let firsts = firsts.filter_map(|(row, list)| Some(Reverse((list.first()?.rule, row))));
        Self {
            next: firsts.collect(),
            rows,
        }
    }
}

impl Iterator for Near<'_> {
    type Item = usize;

    fn next(&mut self) -> Option<usize> {
        let Reverse((rule, _)) = *self.next.peek()?;
        while let Some(mut top) = self.next.peek_mut() {
            let Reverse((first, row)) = *top;
            if first != rule {
                break;
            }
            let rest = &mut self.rows[row];
            // A rule may have the same text twice.
            let same = rest.iter().take_while(|asked| asked.rule == rule).count();
            *rest = &rest[same..];
            match rest.first() {
                Some(asked) => *top = Reverse((asked.rule, row)),
                None => drop(std::collections::binary_heap::PeekMut::pop(top)),
            }
        }
        Some(rule as usize)
    }
}
