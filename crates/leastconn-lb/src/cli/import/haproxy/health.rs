//! Health checks of a `backend`.

use super::{
    super::{
        model::{Note, Place, Table, Value},
        units,
    },
    lexer::Line,
    server::Checks,
};

/// HAProxy's default interval between two checks, in milliseconds.
const INTERVAL: u64 = 2_000;

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
                if line.words.len() > 4 {
                    self.notes.push(place.left_out("headers of the request"));
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
                self.notes.push(place.left_out("the check only connects"));
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
                        .push(place.left_out("headers and body of the request"));
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
        let kind = self.kind.as_ref().map_or("tcp", |(kind, _)| *kind);
        keys.push(("type", Value::text(kind)));
        let interval = checks.interval.unwrap_or(INTERVAL);
        keys.push(("interval", units::duration(interval)));
        let timeout = self.timeout.unwrap_or(interval).min(interval);
        keys.push(("timeout", units::duration(timeout)));
        keys.push(("rise", Value::Integer(checks.rise.unwrap_or(2))));
        keys.push(("fall", Value::Integer(checks.fall.unwrap_or(3))));
        if let Some(port) = checks.port {
            keys.push(("port", Value::Integer(port)));
        }
        if kind == "tcp" {
            self.steps(&mut keys);
        }
        if kind == "http" {
            let path = self.path.take().unwrap_or_else(|| "/".to_owned());
            keys.push(("path", Value::Text(path)));
            if !self.status.is_empty() {
                let codes = self.status.iter().copied().map(Value::Integer);
                keys.push(("status", Value::List(codes.collect())));
            }
        }
        if let Some(user) = self.user.take() {
            keys.push(("user", Value::Text(user)));
        }
        table.set("health_check", Value::Table(keys));
        table.notes.append(&mut self.notes);
    }

    /// Translates one `send` and the `expect string` that follows it. All other steps are omitted.
    fn steps(&mut self, keys: &mut Vec<(&'static str, Value)>) {
        let (mut send, mut expect) = (None, None);
        for line in std::mem::take(&mut self.steps) {
            let left_out = |reason: &str| line.place.left_out(reason);
            match (line.word(1), line.word(2)) {
                ("connect", "") => {}
                ("comment", _) => {}
                ("send" | "send-lf", text) if send.is_none() && expect.is_none() => {
                    send = Some(text.to_owned());
                }
                ("send-binary", hex) if send.is_none() && expect.is_none() => match text(hex) {
                    Some(text) => send = Some(text),
                    None => self
                        .notes
                        .push(left_out("`send` is text, and this is not UTF-8")),
                },
                ("expect", "string") if expect.is_none() => {
                    expect = Some(line.word(3).to_owned());
                }
                ("expect", "binary") if expect.is_none() => match text(line.word(3)) {
                    Some(text) => expect = Some(text),
                    None => self
                        .notes
                        .push(left_out("`expect` is text, and this is not UTF-8")),
                },
                _ => self
                    .notes
                    .push(left_out("a check sends once, then expects one text")),
            }
        }
        if let Some(text) = send {
            keys.push(("send", Value::Text(text)));
        }
        if let Some(text) = expect {
            keys.push(("expect", Value::Text(text)));
        }
    }
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
