//! Health checks of a `backend`.

use super::{
    super::{
        model::{Note, Place, Table, Value},
        units,
    },
    lexer::Line,
    server::{Checks, INTERVAL},
};

/// The health check settings of a backend.
#[derive(Debug, Default)]
pub(crate) struct Health {
    kind: Option<(&'static str, Place)>,
    path: Option<String>,
    status: Vec<u64>,
    user: Option<String>,
    /// Steps of `tcp-check`.
    steps: Vec<Line>,
    notes: Vec<Note>,
    /// Milliseconds.
    pub(crate) timeout: Option<u64>,
}

impl Health {
    /// Reads an `option`, `http-check` or `tcp-check` line. Returns `false` if the line does not
    /// concern health checks.
    pub(crate) fn line(&mut self, line: &Line) -> bool {
        let place = &line.place;
        match (line.word(0), line.word(1)) {
            ("tcp-check", _) => self.steps.push(line.clone()),
            ("http-check", _) => self.http(line),
            ("option", "tcp-check") => self.kind = Some(("tcp", place.clone())),
            ("option", "httpchk") => {
                self.kind = Some(("http", place.clone()));
                let (method, path) = match (line.word(2), line.word(3)) {
                    ("", _) => ("OPTIONS", "/"),
                    (path, "") => ("OPTIONS", path),
                    (method, path) => (method, path),
                };
                self.path = Some(path.to_owned());
                self.method(method, place);
                if line.words.len() > 5 || line.word(4).contains(['\r', '\n']) {
                    self.notes
                        .push(place.differs("the headers of the request are not sent"));
                }
            }
            ("option", "mysql-check") => {
                self.kind = Some(("mysql", place.clone()));
                self.user = (line.word(2) == "user").then(|| line.word(3).to_owned());
            }
            ("option", "pgsql-check") => {
                self.kind = Some(("postgres", place.clone()));
                self.user = (line.word(2) == "user").then(|| line.word(3).to_owned());
            }
            ("option", "redis-check") => self.kind = Some(("redis", place.clone())),
            (
                "option",
                "smtpchk" | "ssl-hello-chk" | "ldap-check" | "spop-check" | "external-check",
            ) => {
                self.kind = Some(("tcp", place.clone()));
                self.notes.push(place.differs("the check only connects"));
            }
            ("external-check", _) => {}
            _ => return false,
        }
        true
    }

    fn method(&mut self, method: &str, place: &Place) {
        if method != "GET" {
            self.notes
                .push(place.remark(format!("the method of the check is GET, not {method}")));
        }
    }

    fn http(&mut self, line: &Line) {
        let place = &line.place;
        let words = line.words.get(2..).unwrap_or(&[]);
        let value = |name: &str| {
            let at = words.iter().position(|word| word == name)?;
            words.get(at + 1).cloned()
        };
        match line.word(1) {
            "send" => {
                if let Some(method) = value("meth") {
                    self.method(&method, place);
                }
                self.path = value("uri").or_else(|| self.path.take());
                if value("hdr").is_some() || value("body").is_some() {
                    self.notes
                        .push(place.differs("headers and body of the request are not sent"));
                }
            }
            "expect" if line.word(2) == "status" => {
                let codes = line.word(3).split(',').map(|range| {
                    let (first, last) = range.split_once('-').unwrap_or((range, range));
                    first.parse::<u64>().ok().zip(last.parse::<u64>().ok())
                });
                match codes.collect::<Option<Vec<_>>>() {
                    Some(ranges) => {
                        self.status = ranges
                            .into_iter()
                            .flat_map(|(a, b)| a..=b.min(599))
                            .collect();
                    }
                    None => self
                        .notes
                        .push(place.left_out("the status is not a number")),
                }
            }
            _ => self
                .notes
                .push(place.left_out("the check has no equivalent of this step")),
        }
    }

    /// Returns the `health_check` table. `checks` are the settings of the servers with `check`.
    pub(crate) fn table(mut self, checks: Option<&Checks>, table: &mut Table) {
        let Some(checks) = checks else {
            table.disable_health_checks();
            return;
        };
        let mut keys = vec![];
        let mut kind = self.kind.as_ref().map_or("tcp", |(kind, _)| *kind);
        if checks.other_tls {
            if let Some((_, place)) = self.kind.as_ref().filter(|_| kind != "tcp") {
                self.notes.push(place.differs(
                    "health checks use TLS exactly if `upstream.tls` is set, but those of the source \
                     do not: the check only connects",
                ));
            }
            kind = "tcp";
            self.steps.clear();
        }
        keys.push(("type", Value::text(kind)));
        let interval = checks.interval.unwrap_or(INTERVAL);
        keys.push(("interval", units::duration(interval)));
        let timeout = self.timeout.unwrap_or(interval).min(interval);
        keys.push(("timeout", units::duration(timeout)));
        keys.push(("rise", Value::Integer(checks.rise.unwrap_or(2))));
        keys.push(("fall", Value::Integer(checks.fall.unwrap_or(3))));
        let mut port = checks.port;
        if kind == "tcp" {
            self.steps(&mut port, &mut keys);
        }
        if let Some(port) = port {
            keys.push(("port", Value::Integer(port)));
        }
        if kind == "http" {
            let path = self.path.take().unwrap_or_else(|| "/".to_owned());
            keys.push(("path", Value::Text(path)));
            if !self.status.is_empty() {
                let codes = self.status.iter().copied().map(Value::Integer);
                keys.push(("status", Value::List(codes.collect())));
            }
        }
        // An earlier `option` may have set it.
        if let Some(user) = self
            .user
            .take()
            .filter(|_| matches!(kind, "mysql" | "postgres"))
        {
            keys.push(("user", Value::Text(user)));
        }
        table.set("health_check", Value::Table(keys));
        table.notes.append(&mut self.notes);
    }

    /// Translates the steps of `tcp-check`. The texts before the most specific `expect` are sent at
    /// once; the other steps are omitted. An `expect` before the first `send` is the only step.
    fn steps(&mut self, port: &mut Option<u64>, keys: &mut Vec<(&'static str, Value)>) {
        let mut steps: Vec<(Step, Place)> = Vec::new();
        for line in std::mem::take(&mut self.steps) {
            let place = &line.place;
            match (line.word(1), line.word(2)) {
                ("comment", _) => {}
                ("connect", _) => self.connect(&line, port),
                ("send" | "send-lf", text) => {
                    steps.push((Step::Send(text.to_owned()), place.clone()));
                }
                ("send-binary", hex) => match text(hex) {
                    Some(text) => steps.push((Step::Send(text), place.clone())),
                    None => self
                        .notes
                        .push(place.left_out("`send` is text, and this is not UTF-8")),
                },
                ("expect", "string") => {
                    steps.push((Step::Expect(line.word(3).to_owned()), place.clone()));
                }
                ("expect", "binary") => match text(line.word(3)) {
                    Some(text) => steps.push((Step::Expect(text), place.clone())),
                    None => self
                        .notes
                        .push(place.left_out("`expect` is text, and this is not UTF-8")),
                },
                _ => self.notes.push(
                    place.left_out("a check sends one text, then expects one text in the answer"),
                ),
            }
        }
        let speaks_first = matches!(steps.first(), Some((Step::Expect(_), _)));
        let expected = steps
            .iter()
            .enumerate()
            .filter_map(|(at, step)| match step {
                (Step::Expect(text), _) if !speaks_first || at == 0 => Some((text.len(), at)),
                _ => None,
            });
        // The longest text is the most specific. The first one of this length decides.
        let chosen = expected.max_by_key(|(length, at)| (*length, std::cmp::Reverse(*at)));
        let chosen = chosen.map(|(_, at)| at);
        let mut send = String::new();
        for (at, (step, place)) in steps.iter().enumerate() {
            match step {
                Step::Expect(text) if Some(at) == chosen => {
                    if !send.is_empty() {
                        keys.push(("send", Value::text(std::mem::take(&mut send))));
                    }
                    keys.push(("expect", Value::text(text)));
                }
                Step::Send(text) if chosen.is_none_or(|chosen| at < chosen) => send.push_str(text),
                _ => self.notes.push(place.left_out(
                    "the texts up to the most specific `expect` are sent at once; only this \
                     `expect` is checked",
                )),
            }
        }
        if !send.is_empty() {
            keys.push(("send", Value::Text(send)));
        }
    }

    /// Translates the options of `tcp-check connect`.
    fn connect(&mut self, line: &Line, port: &mut Option<u64>) {
        let mut words = line.words.iter().skip(2);
        while let Some(word) = words.next() {
            match word.as_str() {
                "port" => *port = words.next().and_then(|port| port.parse().ok()),
                // Checks use TLS and PROXY headers if connections do.
                "default" | "linger" | "ssl" | "send-proxy" => {}
                _ => {
                    let reason = format!("{word:?} has no equivalent in a health check");
                    self.notes.push(line.place.left_out(reason));
                    return;
                }
            }
        }
    }
}

/// A step of `tcp-check`.
enum Step {
    Send(String),
    Expect(String),
}

/// Decodes hexadecimal digits to text.
fn text(hex: &str) -> Option<String> {
    let digits: Vec<u32> = hex.chars().map(|c| c.to_digit(16)).collect::<Option<_>>()?;
    let bytes = digits.chunks(2).map(|pair| match pair {
        [high, low] => u8::try_from(high * 16 + low).ok(),
        _ => None,
    });
    String::from_utf8(bytes.collect::<Option<_>>()?).ok()
}
