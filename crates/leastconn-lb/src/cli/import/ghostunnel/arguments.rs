//! Splits command lines into words and flags.

use std::rc::Rc;

use super::super::{model::Place, units};

/// Flags without a value.
const SWITCHES: [&str; 16] = [
    "allow-all",
    "disable-authentication",
    "unsafe-target",
    "unsafe-listen",
    "proxy-protocol",
    "quiet",
    "syslog",
    "eventlog",
    "enable-pprof",
    "enable-shutdown",
    "use-workload-api",
    "allow-unsafe-cipher-suites",
    "disable-landlock",
    "skip-resolve",
    "auto-acme-agree-to-tos",
    "help",
];

/// Flags that are translated, and flags that need no equivalent.
const KNOWN: [&str; 43] = [
    "listen",
    "target",
    "keystore",
    "storepass",
    "keystorepass",
    "cert",
    "key",
    "cacert",
    "allow-all",
    "allow-cn",
    "allow-ou",
    "allow-dns",
    "allow-dns-san",
    "allow-uri",
    "allow-uri-san",
    "allow-ip",
    "allow-ip-san",
    "allow-policy",
    "allow-query",
    "disable-authentication",
    "proxy-protocol",
    "proxy-protocol-mode",
    "connect-timeout",
    "close-timeout",
    "shutdown-timeout",
    "max-conn-lifetime",
    "max-concurrent-conns",
    "status",
    "unsafe-target",
    "unsafe-listen",
    "quiet",
    "syslog",
    "timed-reload",
    "override-server-name",
    "verify-cn",
    "verify-ou",
    "verify-dns",
    "verify-dns-san",
    "verify-uri",
    "verify-uri-san",
    "verify-ip",
    "verify-ip-san",
    "verify-policy",
];

/// The flags of a command line.
#[derive(Debug)]
pub(crate) struct Arguments {
    pub(crate) place: Place,
    flags: Vec<(String, String)>,
    /// Flags without an equivalent, with the reason.
    pub(crate) left_out: Vec<(String, &'static str)>,
}

impl Arguments {
    pub(crate) fn parse(words: &[String], place: &Place) -> Self {
        let mut this = Self {
            place: place.clone(),
            flags: Vec::new(),
            left_out: Vec::new(),
        };
        let mut words = words.iter().peekable();
        while let Some(word) = words.next() {
            let Some(flag) = word.strip_prefix("--") else {
                this.left_out.push((word.clone(), "is not a flag"));
                continue;
            };
            let (name, value) = match flag.split_once('=') {
                Some((name, value)) => (name, value.to_owned()),
                None if SWITCHES.contains(&flag) => (flag, "true".to_owned()),
                None => (flag, words.next().cloned().unwrap_or_default()),
            };
            let is_quiet = name.starts_with("metrics-")
                || matches!(
                    name,
                    "tls-min-version"
                        | "min-tls-version"
                        | "disable-landlock"
                        | "eventlog"
                        | "skip-resolve"
                );
            if !KNOWN.contains(&name) && !is_quiet {
                this.left_out
                    .push((format!("--{name}"), "has no equivalent"));
            }
            this.flags.push((name.to_owned(), value));
        }
        this
    }

    /// Returns the last value of a flag.
    pub(crate) fn one(&self, name: &str) -> Option<&str> {
        let mut flags = self.flags.iter().rev();
        flags
            .find(|(flag, _)| flag == name)
            .map(|(_, value)| value.as_str())
    }

    /// Returns all values of flags with these names.
    pub(crate) fn all(&self, names: &[&str]) -> Vec<String> {
        let flags = self.flags.iter();
        let flags = flags.filter(|(flag, _)| names.contains(&flag.as_str()));
        flags.map(|(_, value)| value.clone()).collect()
    }

    pub(crate) fn is_on(&self, name: &str) -> bool {
        self.one(name).is_some_and(|value| value != "false")
    }

    /// Returns a duration in milliseconds.
    pub(crate) fn duration(&self, name: &str) -> Option<u64> {
        units::milliseconds(self.one(name)?, 1000)
    }
}

/// Finds the command lines in a text. Each starts with the word `server` or `client` that follows
/// `ghostunnel`.
pub(crate) fn commands(file: &Rc<str>, text: &str) -> Result<Vec<(Place, Vec<String>)>, String> {
    let mut commands = Vec::new();
    let mut joined = String::new();
    let mut first = 1;
    for (number, line) in text.lines().enumerate() {
        if joined.is_empty() {
            first = number + 1;
        }
        if let Some(line) = line.trim_end().strip_suffix('\\') {
            joined.push_str(line);
            joined.push(' ');
            continue;
        }
        joined.push_str(line);
        let words =
            words(&joined).ok_or_else(|| format!("{file}:{first}: a quote is not closed"))?;
        let program = words.iter().position(|word| {
            let name = word.rsplit(['/', '=', '-']).next().unwrap_or(word);
            name == "ghostunnel" || name == "ghostunnel.exe"
        });
        // A file may contain only the arguments, without the name of the program.
        let start = program.map_or(0, |at| at + 1);
        let is_command = words
            .get(start)
            .is_some_and(|word| word == "server" || word == "client");
        if is_command {
            let place = Place {
                file: file.clone(),
                line: first,
                text: joined.split_whitespace().collect::<Vec<_>>().join(" "),
            };
            let end = words
                .iter()
                .position(|word| matches!(word.as_str(), "&" | "&&" | ";" | "|"));
            commands.push((place, words[start..end.unwrap_or(words.len())].to_vec()));
        }
        joined.clear();
    }
    Ok(commands)
}

/// Splits a line into words like a shell: with quotes and backslashes, but without expansion.
/// Returns `None` if a quote is not closed.
fn words(line: &str) -> Option<Vec<String>> {
    let mut words = Vec::new();
    let mut word: Option<String> = None;
    let mut chars = line.chars();
    while let Some(c) = chars.next() {
        match c {
            '#' if word.is_none() => break,
            c if c.is_whitespace() => words.extend(word.take()),
            '\\' => word.get_or_insert_default().extend(chars.next()),
            quote @ ('"' | '\'') => {
                let word = word.get_or_insert_default();
                loop {
                    match chars.next()? {
                        c if c == quote => break,
                        '\\' if quote == '"' => word.extend(chars.next()),
                        c => word.push(c),
                    }
                }
            }
            c => word.get_or_insert_default().push(c),
        }
    }
    words.extend(word);
    Some(words)
}

#[cfg(test)]
mod tests {
    use super::{Arguments, commands};

    #[test]
    fn command_lines_of_scripts_and_units() {
        let text = "# ghostunnel server --no\n\
            ExecStart=/usr/bin/ghostunnel server --listen=0.0.0.0:1 \\\n  --allow-cn 'a b'\n\
            exec ghostunnel client --listen localhost:2 &\n\
            echo ghostunnel\n";
        let commands = commands(&"t".into(), text).unwrap();
        let lines: Vec<_> = commands
            .iter()
            .map(|(place, words)| (place.line, words.join("|")))
            .collect();
        assert_eq!(
            lines,
            [
                (2, "server|--listen=0.0.0.0:1|--allow-cn|a b".to_owned()),
                (4, "client|--listen|localhost:2".to_owned()),
            ]
        );
        let (place, words) = &commands[0];
        let arguments = Arguments::parse(&words[1..], place);
        assert_eq!(arguments.one("listen"), Some("0.0.0.0:1"));
        assert_eq!(arguments.all(&["allow-cn"]), ["a b"]);
    }
}
