//! Splits command lines into words and flags.

use std::{collections::HashMap, rc::Rc};

use super::super::{
    model::{Note, Place},
    toml::{VARIABLE_END, VARIABLE_START, readable},
    units,
};

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
    /// Notes for flags without an equivalent.
    pub(crate) left_out: Vec<Note>,
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
                let place = Place {
                    text: readable(word),
                    ..place.clone()
                };
                this.left_out.push(place.left_out("is not a flag"));
                continue;
            };
            let (name, value) = match flag.split_once('=') {
                Some((name, value)) => (name, value.to_owned()),
                None if SWITCHES.contains(&flag) => (flag, "true".to_owned()),
                None => (flag, words.next().cloned().unwrap_or_default()),
            };
            if matches!(name, "metrics-graphite" | "metrics-url") {
                let note = this.place_of(name, &value).left_out(
                    "metrics are not sent to a server: Prometheus reads `/metrics` of `[admin]`",
                );
                this.left_out.push(note);
            }
            let is_quiet = name.starts_with("metrics-")
                || name.starts_with("enable-")
                || matches!(
                    name,
                    "tls-min-version"
                        | "min-tls-version"
                        | "disable-landlock"
                        | "eventlog"
                        | "skip-resolve"
                );
            if !KNOWN.contains(&name) && !is_quiet {
                // The value may be a password.
                let note = this.place_of(name, "").left_out("has no equivalent");
                this.left_out.push(note);
            }
            this.flags.push((name.to_owned(), value));
        }
        this
    }

    /// Returns the line of the command, with one flag instead of the whole command.
    pub(crate) fn place_of(&self, name: &str, value: &str) -> Place {
        let value = readable(value);
        let text = match value.as_str() {
            "" => format!("--{name}"),
            value => format!("--{name} {value}"),
        };
        Place {
            text,
            ..self.place.clone()
        }
    }

    /// Like [`Self::place_of`], with the last value of the flag.
    pub(crate) fn flag(&self, name: &str) -> Place {
        self.place_of(name, self.one(name).unwrap_or(""))
    }

    /// Returns why ghostunnel does not start with the flags that authorize clients.
    pub(crate) fn conflict(&self) -> Option<&'static str> {
        let has = |names: &[&str]| {
            let mut flags = self.flags.iter();
            flags.any(|(name, _)| names.contains(&name.as_str()))
        };
        let by_name = has(&[
            "allow-cn",
            "allow-ou",
            "allow-dns",
            "allow-dns-san",
            "allow-ip",
            "allow-ip-san",
            "allow-uri",
            "allow-uri-san",
        ]);
        let (policy, query) = (has(&["allow-policy"]), has(&["allow-query"]));
        let (all, none) = (
            self.is_on("allow-all"),
            self.is_on("disable-authentication"),
        );
        Some(match (all || none, by_name, policy || query) {
            (true, true, _) | (true, _, true) if all => {
                "ghostunnel does not start with `--allow-all` and other `--allow-…` flags: remove \
                 `--allow-all` to admit only the clients of the others"
            }
            _ if all && none => {
                "ghostunnel does not start with `--disable-authentication` and `--allow-all`"
            }
            (true, true, _) | (true, _, true) => {
                "ghostunnel does not start with `--disable-authentication` and `--allow-…` flags: \
                 remove one of them"
            }
            (_, true, true) => {
                "ghostunnel does not start with `--allow-policy` and other `--allow-…` flags: remove \
                 one of them"
            }
            (false, false, false) => {
                "ghostunnel does not start without an `--allow-…` flag: add a client rule"
            }
            (_, _, true) if policy != query => {
                "ghostunnel does not start with only one of `--allow-policy` and `--allow-query`"
            }
            _ => return None,
        })
    }

    /// Returns the last value of a flag. An empty value is none.
    pub(crate) fn one(&self, name: &str) -> Option<&str> {
        let mut flags = self.flags.iter().rev();
        let value = flags.find(|(flag, _)| flag == name);
        value
            .map(|(_, value)| value.as_str())
            .filter(|value| !value.is_empty())
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

/// Finds the command lines in a text: a script, a systemd unit, or a Kubernetes or Compose manifest.
/// Each starts with the word `server` or `client` that follows `ghostunnel`, or with which the
/// arguments start.
pub(crate) fn commands(file: &Rc<str>, text: &str) -> Result<Vec<(Place, Vec<String>)>, String> {
    let mut commands = Vec::new();
    let mut variables: HashMap<String, String> = HashMap::new();
    for (first, line) in joined(text) {
        let line = line.trim_start().trim_start_matches("- ");
        let line = arguments_of_manifest(line);
        let words = words(&line).ok_or_else(|| format!("{file}:{first}: a quote is not closed"))?;
        let words: Vec<_> = words
            .iter()
            .map(|word| expanded(word, &variables))
            .collect();
        variables.extend(assignments(&words));
        let program = words.iter().position(|word| {
            let name = word.rsplit(['/', '=', '-']).next().unwrap_or(word);
            let name = name.split(':').next().unwrap_or(name);
            matches!(name, "ghostunnel" | "ghostunnel.exe")
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
                text: format!("ghostunnel {}", words[start]),
            };
            let end = words
                .iter()
                .position(|word| matches!(word.as_str(), "&" | "&&" | ";" | "|"));
            commands.push((place, words[start..end.unwrap_or(words.len())].to_vec()));
        }
    }
    Ok(commands)
}

/// Returns the arguments in `command: …`, `args: [a, b]` or `entrypoint: …`, separated by blanks.
fn arguments_of_manifest(line: &str) -> String {
    let keys = ["command:", "args:", "entrypoint:"];
    let value = keys.iter().find_map(|key| line.strip_prefix(key));
    let value = value.map(str::trim).unwrap_or(line);
    match value
        .strip_prefix('[')
        .and_then(|list| list.strip_suffix(']'))
    {
        Some(list) => list
            .replace("\", \"", "\" \"")
            .replace("', '", "' '")
            .replace(", ", " "),
        None => value.to_owned(),
    }
}

/// Returns logical lines with the number of their first line. Lines are joined after a backslash.
/// After a line that starts with `server` or `client`, the lines with arguments follow it: flags,
/// their values, and entries of a list (`- --listen=:8443`).
fn joined(text: &str) -> Vec<(usize, String)> {
    let mut all: Vec<(usize, String)> = Vec::new();
    let (mut continues, mut is_list) = (false, false);
    // Whether the last argument of a list is a flag without its value.
    let mut has_flag = false;
    for (number, line) in text.lines().enumerate() {
        let (line, next) = match line.trim_end().strip_suffix('\\') {
            Some(line) => (line, true),
            None => (line, false),
        };
        let argument = line.trim().trim_start_matches("- ");
        let bare = argument.trim_matches(['"', '\'']);
        let is_argument = bare.starts_with("--") || (has_flag && !bare.is_empty());
        match all.last_mut() {
            Some((_, last)) if continues => {
                last.push(' ');
                last.push_str(line);
            }
            Some((_, last)) if is_list && is_argument => {
                last.push(' ');
                last.push_str(argument);
                let flag = bare.split_whitespace().last();
                let flag = flag.and_then(|word| word.strip_prefix("--"));
                let flag = flag.filter(|flag| !flag.contains('='));
                has_flag = flag.is_some_and(|flag| !SWITCHES.contains(&flag));
            }
            _ => {
                let words: Vec<_> = bare.split_whitespace().collect();
                is_list = matches!(words.first(), Some(&("server" | "client")));
                let last = words.last().and_then(|word| word.strip_prefix("--"));
                has_flag =
                    last.is_some_and(|flag| !flag.contains('=') && !SWITCHES.contains(&flag));
                all.push((number + 1, line.to_owned()));
            }
        }
        continues = next;
    }
    all
}

/// Returns the variables that a line of a script or systemd unit sets: `NAME=VALUE`, `export
/// NAME=VALUE` or `Environment=NAME=VALUE`.
fn assignments(words: &[String]) -> Vec<(String, String)> {
    let words = words.iter().map(String::as_str);
    let words = words.map(|word| word.strip_prefix("Environment=").unwrap_or(word));
    let words = words.skip_while(|word| matches!(*word, "export" | "readonly" | "local"));
    let pairs = words.map_while(|word| {
        let (name, value) = word.split_once('=')?;
        let is_start = |c: char| c.is_ascii_alphabetic() || c == '_';
        (name.starts_with(is_start) && name.chars().all(is_name)).then_some((name, value))
    });
    pairs
        .map(|(name, value)| (name.to_owned(), value.to_owned()))
        .collect()
}

fn is_name(c: char) -> bool {
    c.is_ascii_alphanumeric() || c == '_'
}

/// Replaces the variables that the file sets.
fn expanded(word: &str, variables: &HashMap<String, String>) -> String {
    let mut parts = word.split(VARIABLE_START);
    let mut expanded = parts.next().unwrap_or("").to_owned();
    for part in parts {
        let (variable, text) = part.split_once(VARIABLE_END).unwrap_or((part, ""));
        let name = variable.split(":-").next().unwrap_or(variable);
        match variables.get(name) {
            Some(value) => expanded.push_str(value),
            None => expanded.push_str(&format!("{VARIABLE_START}{variable}{VARIABLE_END}")),
        }
        expanded.push_str(text);
    }
    expanded
}

/// Maximum length of a variable with its brackets and its default.
const LONGEST_VARIABLE: usize = 256;

/// Reads the name of a variable after the dollar sign: `NAME`, `{NAME}`, `{NAME:-DEFAULT}`, or
/// `(NAME)` as in Kubernetes. Other expansions of the shell are kept as text.
fn variable(chars: &mut std::iter::Peekable<std::str::Chars<'_>>) -> String {
    let rest: String = chars.clone().take(LONGEST_VARIABLE).collect();
    let brackets = [('{', '}'), ('(', ')')];
    let inner = brackets.iter().find_map(|(open, close)| {
        let (inner, _) = rest.strip_prefix(*open)?.split_once(*close)?;
        Some((inner, inner.chars().count() + 2))
    });
    let (inner, length) = inner.unwrap_or_else(|| {
        let end = rest.find(|c| !is_name(c)).unwrap_or(rest.len());
        (&rest[..end], end)
    });
    let (name, default) = match inner.split_once(":-").or(inner.split_once('-')) {
        Some((name, default)) => (name, Some(default)),
        None => (inner, None),
    };
    // In a shell, `$(NAME)` is the output of a command.
    let is_command = rest.starts_with('(') && name.contains(|c: char| c.is_ascii_lowercase());
    let is_number = name.starts_with(|c: char| c.is_ascii_digit());
    if name.is_empty() || is_command || is_number || !name.chars().all(is_name) {
        return "$".to_owned();
    }
    chars.nth(length - 1);
    let default = default.map_or_else(String::new, |default| format!(":-{default}"));
    format!("{VARIABLE_START}{name}{default}{VARIABLE_END}")
}

/// Splits a line into words like a shell: with quotes, backslashes and variables. Returns `None` if a quote is not closed.
fn words(line: &str) -> Option<Vec<String>> {
    let mut words = Vec::new();
    let mut word: Option<String> = None;
    let mut chars = line.chars().peekable();
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
                        '$' if quote == '"' => word.push_str(&variable(&mut chars)),
                        c => word.push(c),
                    }
                }
            }
            '$' => word.get_or_insert_default().push_str(&variable(&mut chars)),
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
    fn command_lines_of_manifests() {
        let expected = "server|--listen=:1|--target|localhost:2|--allow-all";
        for text in [
            "args:\n- server\n- --listen=:1\n- --target\n- localhost:2\n- \"--allow-all\"\nports:\n",
            "  args: [\"server\", \"--listen=:1\", \"--target\", \"localhost:2\", \"--allow-all\"]\n",
            "  command: server --listen=:1 --target localhost:2 --allow-all\n",
            "docker run x/ghostunnel:v1 server --listen=:1 --target localhost:2 --allow-all",
            "server\n--listen=:1\n--target\nlocalhost:2\n--allow-all\n",
            "command: >-\n  server --listen=:1 --target\n  localhost:2\n  --allow-all\nports:\n",
        ] {
            let commands = commands(&"t".into(), text).unwrap();
            let words: Vec<_> = commands.iter().map(|(_, words)| words.join("|")).collect();
            assert_eq!(words, [expected], "{text}");
        }
    }

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

    #[test]
    fn variables_of_a_script_are_replaced() {
        let text = "export HOST=::1 PORT=8443\nEnvironment=\"CN=a b\"\nX=1 ./run\n\
            ghostunnel server --listen [$HOST]:${PORT} --allow-cn \"$CN\" --target '$HOST' \
            \"--key=${KEY:-k.pem}\" --cert $(POD_CERT) $(pwd) $1 \\$CN\n";
        let commands = commands(&"t".into(), text).unwrap();
        let words = commands[0].1.join("|");
        let words = words.replace('\u{1}', "<").replace('\u{2}', ">");
        assert_eq!(
            words,
            "server|--listen|[::1]:8443|--allow-cn|a b|--target|$HOST|--key=<KEY:-k.pem>|--cert|\
             <POD_CERT>|$(pwd)|$1|$CN"
        );
    }
}
