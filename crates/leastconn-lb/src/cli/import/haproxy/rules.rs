//! `acl`, `tcp-request`, `use_backend` and `default_backend` lines.

mod dynamic;
mod proxies;

use std::{
    collections::{HashMap, HashSet},
    path::Path,
};

use super::{
    super::{
        access::{Condition, List, TooMany, Verdict, always, chain, first_of, when},
        dn,
        model::{Note, Place, Rate},
    },
    PEERS,
    acl::{self, Counters, Limit, Parsed, Periods, Scope},
    lexer::Line,
    sections::Proxy,
};
use dynamic::dynamic_backends;
use proxies::accept_proxies;

/// The rules of a section, in the order of the file.
#[derive(Clone, Debug, Default)]
pub(crate) struct Rules {
    proxy: String,
    is_front: bool,
    /// Whether these are the rules of a `listen` section for connections from other sections.
    is_listen: bool,
    acls: HashMap<String, Vec<Vec<String>>>,
    /// The expression of each variable. `None` if the variable depends on a condition.
    variables: HashMap<String, Option<String>>,
    /// The variables that are set in the stage `connection`.
    early_variables: HashSet<String>,
    /// The `tcp-request` lines of each of the three stages.
    stages: [Vec<Line>; 3],
    uses: Vec<Line>,
    default: Option<Line>,
    refused: Option<String>,
    notes: Vec<Note>,
}

/// The rules as they apply to one listener.
#[derive(Debug, Default)]
pub(crate) struct Evaluated {
    pub(crate) list: List,
    pub(crate) limits: Vec<LimitRule>,
    pub(crate) notes: Vec<Note>,
    pub(crate) refused: Vec<String>,
    /// The only addresses from which PROXY headers are accepted. If there are none, all are.
    pub(crate) proxies: Vec<String>,
}

/// A rule that refuses clients above a limit.
#[derive(Clone, Debug)]
pub(crate) struct LimitRule {
    pub(crate) limit: Limit,
    pub(crate) place: Place,
    /// Accepts the clients to which the limit applies, and refuses the others. `None` if they are not
    /// known.
    pub(crate) applies: Option<List>,
}

/// Properties of the listener and of the file.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Surroundings<'a> {
    pub(crate) tls: bool,
    pub(crate) certificates: bool,
    /// Whether clients must send a PROXY header.
    pub(crate) has_header: bool,
    pub(crate) dir: Option<&'a Path>,
    pub(crate) tables: &'a HashMap<String, Periods>,
    /// The ports of the listener.
    pub(crate) ports: &'a [u16],
    /// The names of all sections with servers.
    pub(crate) backends: &'a [&'a str],
    /// Whether rules that refuse clients by a condition without an equivalent are ignored. The result
    /// only describes the other rules: it must not admit clients.
    pub(crate) ignores_unknown: bool,
}

const STAGES: [&str; 3] = ["connection", "session", "content"];

impl Rules {
    pub(crate) fn new(proxy: &Proxy) -> Self {
        Self {
            proxy: proxy.name.clone(),
            is_front: proxy.is_front,
            ..Self::default()
        }
    }

    /// Refuses all clients.
    pub(crate) fn refuse(&mut self, reason: &str) {
        self.refused = Some(reason.to_owned());
    }

    /// Returns why all clients are refused.
    pub(crate) fn refused(&self) -> Option<&str> {
        self.refused.as_deref()
    }

    /// Whether a rule compares the port that a client connects to.
    pub(crate) fn compares_port(&self) -> bool {
        let acls = self.acls.values().flatten().flatten();
        let lines = self.stages.iter().flatten().chain(&self.uses);
        let mut words = lines.flat_map(|line| &line.words).chain(acls);
        words.any(|word| word.starts_with("dst_port"))
    }

    /// Returns the rules of this backend for connections from other sections. Of a `listen` section,
    /// only the rules of the stage `content` apply to them.
    pub(crate) fn for_backend(&self) -> Self {
        let mut rules = self.clone();
        if self.is_front {
            let [_, _, content] = rules.stages;
            rules.stages = [Vec::new(), Vec::new(), content];
            rules.is_front = false;
            rules.is_listen = true;
            rules.notes.clear();
        }
        rules
    }

    /// Whether these are the rules of [`Self::for_backend`] for the `listen` section itself, which has
    /// evaluated them already.
    pub(crate) fn is_repeated_by(&self, front: &Self) -> bool {
        self.is_listen && self.proxy == front.proxy
    }

    /// Returns the backend of all clients. `None` if they may have different ones.
    fn target(&self) -> Option<&str> {
        if !self.is_front {
            return Some(&self.proxy);
        }
        let uses = self.uses.iter().map(|line| line.word(1));
        let mut targets = uses.chain(self.default_backend());
        let first = targets.next()?;
        targets.all(|target| target == first).then_some(first)
    }

    /// Returns the rules with this backend as the default.
    pub(crate) fn with_default(&self, backend: &str) -> Self {
        let mut rules = self.clone();
        rules.default = self.default.clone().or_else(|| {
            let place = Place {
                file: "".into(),
                line: 0,
                text: String::new(),
            };
            let words = vec!["default_backend".to_owned(), backend.to_owned()];
            Some(Line { place, words })
        });
        rules
    }

    pub(crate) fn default_backend(&self) -> Option<&str> {
        self.default.as_ref().map(|line| line.word(1))
    }

    /// Reads a line. Returns whether it is a rule.
    pub(crate) fn line(&mut self, line: &Line) -> bool {
        let place = &line.place;
        match line.word(0) {
            "acl" => {
                let words = line.words.get(2..).unwrap_or(&[]).to_vec();
                self.acls
                    .entry(line.word(1).to_owned())
                    .or_default()
                    .push(words);
            }
            "tcp-request" if line.word(1) == "inspect-delay" => {}
            "tcp-request" if line.word(2) == "capture" => {
                self.notes.push(place.remark(
                    "only for logs: the access log has the server name (SNI) and the identity of the \
                     client",
                ));
            }
            "tcp-request" if line.word(2).starts_with("set-var(") => self.variable(line),
            "tcp-request" => match STAGES.iter().position(|stage| *stage == line.word(1)) {
                Some(stage) => self.stages[stage].push(line.clone()),
                None => self.notes.push(place.left_out("has no equivalent")),
            },
            "use_backend" => self.uses.push(line.clone()),
            "default_backend" => self.default = Some(line.clone()),
            // The period of the table is read separately.
            "stick-table" if is_shared_table(line) => self.notes.push(place.left_out(PEERS)),
            "stick-table" => {}
            "email-alert" => self
                .notes
                .push(place.remark("alert rules are in deploy/prometheus")),
            "rate-limit" => {
                let reason = "new connections are limited per source and client only";
                self.notes.push(place.left_out(reason));
            }
            "tcp-response" => self
                .notes
                .push(place.left_out("data of servers is not inspected")),
            "http-request"
            | "http-response"
            | "http-after-response"
            | "redirect"
            | "reqadd"
            | "rspadd"
            | "http-error" => {
                self.notes.push(place.remark("has no effect in mode tcp"));
            }
            _ => return false,
        }
        true
    }

    /// Reads `tcp-request … set-var(NAME) EXPRESSION`. Conditions that compare the variable compare the
    /// expression instead.
    fn variable(&mut self, line: &Line) {
        let name = line.word(2).trim_start_matches("set-var(");
        let name = name.trim_end_matches(')').to_owned();
        let is_constant = line.words.len() == 4 && !self.variables.contains_key(&name);
        let expression = is_constant.then(|| line.word(3).to_owned());
        self.notes.push(match expression {
            Some(_) => line
                .place
                .remark("replaced by its expression where conditions compare the variable"),
            None => line.place.left_out(
                "the variable depends on a condition, or is set twice: conditions that compare it have \
                 no equivalent",
            ),
        });
        if line.word(1) == STAGES[0] {
            self.early_variables.insert(name.clone());
        }
        self.variables.insert(name, expression);
    }

    /// Returns the decision for each client: refused, or the backend. In a backend section, the
    /// decision is refused or accepted.
    pub(crate) fn evaluate(&self, surroundings: Surroundings<'_>) -> Result<Evaluated, TooMany> {
        let mut evaluated = Evaluated {
            notes: self.notes.clone(),
            ..Evaluated::default()
        };
        evaluated.refused.extend(self.refused.clone());
        let has_header = surroundings.has_header;
        let mut variables = self.variables.clone();
        // They may have the address of the proxy.
        variables.retain(|name, _| !has_header || !self.early_variables.contains(name));
        let mut scope = Scope {
            acls: self.acls.clone(),
            variables: &variables,
            tls: surroundings.tls,
            certificates: surroundings.certificates,
            tracked: Counters::default(),
            dir: surroundings.dir,
            tables: surroundings.tables,
            ports: surroundings.ports,
            proxy: &self.proxy,
            target: self.target(),
            has_header,
            is_early: false,
        };
        for (stage_number, stage) in self.stages.iter().enumerate() {
            scope.is_early = stage_number == 0;
            for (number, line) in stage.iter().enumerate() {
                if !line.word(2).starts_with("track-sc") {
                    continue;
                }
                // Limits in the condition itself are not translated.
                let applies = applies(line, &stage[..number], &scope, &mut evaluated.notes);
                let applies = match applies {
                    Some(condition) if limited(&condition)? == always(Verdict::Accept) => {
                        Some(Condition::Constant(true))
                    }
                    applies => applies,
                };
                if let Some((counter, tracking)) = acl::tracked(line, applies, &scope) {
                    scope.tracked.add(counter, tracking);
                }
            }
        }
        scope.is_early = false;
        let mut list = if self.is_front {
            self.backends(&scope, surroundings, &mut evaluated)?
        } else {
            always(Verdict::Accept)
        };
        for (number, stage) in self.stages.iter().enumerate().rev() {
            scope.is_early = number == 0;
            let passes = self.stage(stage, &scope, surroundings, &mut evaluated)?;
            if scope.is_early && has_header && passes.len() > 1 {
                accept_proxies(&passes, stage, &mut evaluated);
            } else {
                list = chain(&passes, &Verdict::Accept, &list)?;
            }
        }
        evaluated.list = list;
        Ok(evaluated)
    }

    /// Evaluates one stage of `tcp-request` rules.
    fn stage(
        &self,
        lines: &[Line],
        scope: &Scope<'_>,
        surroundings: Surroundings<'_>,
        evaluated: &mut Evaluated,
    ) -> Result<List, TooMany> {
        let mut list = always(Verdict::Accept);
        for (number, line) in lines.iter().enumerate().rev() {
            let earlier = &lines[..number];
            let (place, action) = (&line.place, line.word(2));
            let words = condition_words(line);
            match action {
                "accept" => {
                    let parsed = acl::condition(words, false, scope);
                    note_wider(&parsed, place, &mut evaluated.notes);
                    let refuses = |(_, verdict): &(_, Verdict)| *verdict == Verdict::Refuse;
                    let consequence = if list.iter().all(refuses) {
                        "the clients are refused"
                    } else {
                        "the rule is dropped"
                    };
                    note_unknown(&parsed, place, &mut evaluated.notes, consequence);
                    let condition = resolved(&parsed, false);
                    list = when(&condition, &always(Verdict::Accept), &list)?;
                }
                "reject" | "silent-drop" => {
                    let parsed = acl::condition(words, true, scope);
                    note_wider(&parsed, place, &mut evaluated.notes);
                    if let Some(limits) = only_limits(&parsed) {
                        let accepted = not_accepted(earlier, scope);
                        for (limit, own) in limits {
                            let applies = match (&accepted, own) {
                                (Some(open), Some(own)) => {
                                    let all = [open.as_slice(), &own].concat();
                                    Some(limited(&Condition::All(all))?)
                                }
                                _ => None,
                            };
                            evaluated.limits.push(LimitRule {
                                limit,
                                place: place.clone(),
                                applies,
                            });
                        }
                        continue;
                    }
                    note_unknown(
                        &parsed,
                        place,
                        &mut evaluated.notes,
                        "the clients are refused",
                    );
                    let condition = resolved(&parsed, !surroundings.ignores_unknown);
                    list = when(&condition, &always(Verdict::Refuse), &list)?;
                }
                "expect-proxy" => {
                    evaluated
                        .refused
                        .push("only some clients send a PROXY header".to_owned());
                    let reason = "set `proxy_protocol` and `proxy_protocol_from` of the listener";
                    evaluated.notes.push(place.left_out(reason));
                }
                word if word.starts_with("track-sc") => {}
                "set-dst" | "set-dst-port" | "set-src" | "set-src-port" | "do-resolve" | "lua" => {
                    evaluated
                        .refused
                        .push(format!("{action:?} has no equivalent"));
                    evaluated.notes.push(place.left_out("has no equivalent"));
                }
                _ => evaluated.notes.push(place.left_out("has no equivalent")),
            }
        }
        Ok(list)
    }

    /// Evaluates `use_backend` and `default_backend`.
    fn backends(
        &self,
        scope: &Scope<'_>,
        surroundings: Surroundings<'_>,
        evaluated: &mut Evaluated,
    ) -> Result<List, TooMany> {
        let to = |name: &str| always(Verdict::To(name.to_owned()));
        let holds = !surroundings.ignores_unknown;
        let default = match self.default_backend() {
            Some(name) => to(name),
            None => always(Verdict::Refuse),
        };
        let mut list = default.clone();
        for line in self.uses.iter().rev() {
            let place = &line.place;
            let words = line.words.get(2..).unwrap_or(&[]);
            let parsed = acl::condition(words, false, scope);
            note_wider(&parsed, place, &mut evaluated.notes);
            let applies = resolved(&parsed, false);
            if line.word(1).contains("%[") {
                match dynamic_backends(line.word(1), scope, surroundings.backends) {
                    Ok(found) => {
                        let notes = found.omitted.iter().map(|reason| place.differs(reason));
                        evaluated.notes.extend(notes);
                        // Later rules are not evaluated if there is no such backend.
                        let target = |name: Option<String>| {
                            name.map_or_else(|| default.clone(), |name| to(&name))
                        };
                        let cases = found.cases.into_iter();
                        let cases: Vec<_> = cases
                            .map(|(predicate, backend)| (predicate, target(backend)))
                            .collect();
                        let chosen = first_of(&cases, &target(found.default))?;
                        list = when(&applies, &chosen, &list)?;
                    }
                    Err(reason) => {
                        evaluated
                            .notes
                            .push(place.left_out(format!("{reason}; the clients are refused")));
                        if holds {
                            let condition = resolved(&parsed, true);
                            list = when(&condition, &always(Verdict::Refuse), &list)?;
                        }
                    }
                }
                continue;
            }
            if parsed.client_dependent {
                note_unknown(
                    &parsed,
                    place,
                    &mut evaluated.notes,
                    "the clients are refused",
                );
                let maybe = resolved(&parsed, holds);
                list = when(&maybe, &always(Verdict::Refuse), &list)?;
            } else {
                note_unknown(&parsed, place, &mut evaluated.notes, "the rule is dropped");
            }
            list = when(&applies, &to(line.word(1)), &list)?;
        }
        Ok(list)
    }
}

/// Whether the line defines a stick table that is shared with `peers`.
pub(crate) fn is_shared_table(line: &Line) -> bool {
    line.word(0) == "stick-table" && line.words.iter().any(|word| word == "peers")
}

/// Returns the condition of a rule, with `if` or `unless`. Empty if there is none.
fn condition_words(line: &Line) -> &[String] {
    let mut words = line.words.iter();
    let at = words.position(|word| word == "if" || word == "unless");
    at.and_then(|at| line.words.get(at..)).unwrap_or(&[])
}

/// Returns the clients to which a rule applies, or `None` if they are not known: those that fulfil its
/// condition, unless a rule before it accepts them.
fn applies(
    line: &Line,
    earlier: &[Line],
    scope: &Scope<'_>,
    notes: &mut Vec<Note>,
) -> Option<Condition> {
    let parsed = acl::condition(condition_words(line), false, scope);
    note_wider(&parsed, &line.place, notes);
    let mut all = not_accepted(earlier, scope)?;
    all.push(known(parsed)?);
    Some(Condition::All(all))
}

/// Returns conditions that together are true for the clients that no rule accepts, or `None` if they
/// are not known. A client that is accepted skips the later rules of the stage.
fn not_accepted(lines: &[Line], scope: &Scope<'_>) -> Option<Vec<Condition>> {
    let accepts = lines.iter().filter(|line| line.word(2) == "accept");
    let conditions = accepts.map(|line| {
        let parsed = acl::condition(condition_words(line), false, scope);
        Some(Condition::Not(Box::new(known(parsed)?)))
    });
    conditions.collect()
}

/// Returns the condition if all of it is known.
fn known(parsed: Parsed) -> Option<Condition> {
    let is_known = parsed.unknown.is_empty() && parsed.limits.is_empty();
    parsed.condition.filter(|_| is_known)
}

/// Returns the list that accepts the clients that fulfil a condition, and refuses the others.
fn limited(condition: &Condition) -> Result<List, TooMany> {
    when(
        condition,
        &always(Verdict::Accept),
        &always(Verdict::Refuse),
    )
}

fn resolved(parsed: &Parsed, holds: bool) -> Condition {
    match &parsed.condition {
        Some(condition) => condition.resolved(holds),
        None => Condition::Constant(holds),
    }
}

/// Adds a note for each test of a whole subject, even in rules that reject: `reject unless` admits
/// clients.
fn note_wider(parsed: &Parsed, place: &Place, notes: &mut Vec<Note>) {
    if parsed.compares_subject {
        notes.push(place.differs(dn::WIDER));
    }
    if parsed.ignores_case {
        notes.push(place.differs(acl::ANY_CASE));
    }
    if parsed.compares_unit {
        notes.push(place.differs(acl::FIRST_UNIT));
    }
    for names in &parsed.omitted {
        notes.push(place.differs(format!("the rule does not match {names}")));
    }
}

fn note_unknown(parsed: &Parsed, place: &Place, notes: &mut Vec<Note>, consequence: &str) {
    if !parsed.unknown.is_empty() {
        let reasons = parsed.unknown.join("; ");
        notes.push(place.left_out(format!("{reasons}; {consequence}")));
    } else if !parsed.limits.is_empty() {
        notes.push(place.left_out(format!("limits cannot be combined this way; {consequence}")));
    }
}

/// Returns the limits in a condition if each alternative has exactly one. Each limit comes with
/// conditions that together are true for the clients to which it applies, or `None` if they are not
/// known.
fn only_limits(parsed: &Parsed) -> Option<Vec<(Limit, Option<Vec<Condition>>)>> {
    let Some(Condition::Any(alternatives)) = &parsed.condition else {
        return None;
    };
    if !parsed.unknown.is_empty() || alternatives.len() != parsed.limits.len() {
        return None;
    }
    let is_limit = |term: &Condition| match term {
        Condition::Unknown => true,
        Condition::Any(list) => list.as_slice() == [Condition::Unknown],
        _ => false,
    };
    let mut limits = Vec::new();
    for (alternative, limit) in alternatives.iter().zip(&parsed.limits) {
        let Condition::All(terms) = alternative else {
            return None;
        };
        let (own, others): (Vec<_>, Vec<_>) = terms.iter().cloned().partition(is_limit);
        if own.len() != 1 {
            return None;
        }
        let applies = limit.applies.clone().map(|tracked| {
            let mut all = others;
            all.push(tracked);
            all
        });
        limits.push((limit.limit, applies));
    }
    Some(limits)
}

/// Returns the rate limit that allows `number` connections in `period` milliseconds.
pub(crate) fn rate(number: u64, period: u64) -> Rate {
    let number = number.clamp(1, 1_000_000_000);
    let rate = number as f64 * 1000.0 / period as f64;
    Rate {
        rate: rate.clamp(0.000_001, 1_000_000_000.0),
        burst: number,
    }
}
