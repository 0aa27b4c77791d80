//! Syntax errors, and help for common causes.

use super::Problems;

impl Problems {
    /// Adds the first syntax error of each line. Further errors in a line are usually
    /// consequences of the first error. The total is limited, because the file may not be TOML
    /// at all.
    pub(crate) fn syntax(&mut self, errors: &[toml::de::Error]) {
        const MAX_ERRORS: usize = 20;
        if let Some(other) = other_syntax(&self.text) {
            self.error(format!("this looks like {other}; the file must be TOML"))
                .help("tables are written `[process]` and `[[listener]]`, values `key = \"text\"`");
            return;
        }
        let mut last = None;
        for error in errors {
            if self.list.len() >= MAX_ERRORS {
                self.error("further syntax errors are not shown");
                return;
            }
            let Some(span) = error.span() else {
                self.error(error.message());
                continue;
            };
            let start = self.boundary(span.start);
            let same_line = last.is_some_and(|last: usize| {
                !self.text[last.min(start)..last.max(start)].contains('\n')
            });
            if !same_line {
                let line = line_at(&self.text, start);
                let help = match error.message() {
                    "duplicate key" => Some(duplicate_help(&self.text, start, line)),
                    message => syntax_help(message, line),
                };
                let problem = self.error(error.message()).at(span);
                if let Some(help) = help {
                    problem.help(help);
                }
            }
            last = Some(start);
        }
    }
}

/// The line that contains a byte offset.
fn line_at(text: &str, at: usize) -> &str {
    let before = text.get(..at).and_then(|text| text.rfind('\n'));
    let start = before.map_or(0, |end| end + 1);
    let line = text[start..].lines().next().unwrap_or_default();
    line.trim_start_matches('\u{feff}')
}

/// Help for a table or key that is defined twice. `at` is the position in the second line.
fn duplicate_help(text: &str, at: usize, line: &str) -> String {
    let header = |line: &str| {
        let name = line.trim_start().strip_prefix('[')?.split(']').next()?;
        (!name.starts_with('[')).then(|| name.trim().to_owned())
    };
    let Some(name) = header(line) else {
        return "remove one of the two lines".to_owned();
    };
    if matches!(&*name, "listener" | "upstream" | "client") {
        return format!("write `[[{name}]]` for each table");
    }
    let before: Vec<_> = text.get(..at).unwrap_or_default().lines().collect();
    // `[listener.tls]` belongs to the last `[[listener]]`.
    let begins_parent = |line: &str| {
        let parent = line.trim_start().strip_prefix("[[");
        let parent = parent.and_then(|line| line.split(']').next());
        parent.is_some_and(|parent| {
            let below = name.strip_prefix(parent.trim());
            below.is_some_and(|below| below.starts_with('.'))
        })
    };
    let start = before.iter().rposition(|line| begins_parent(line));
    let start = start.unwrap_or_default();
    let first = before[start..]
        .iter()
        .position(|line| header(line).is_some_and(|other| other == name));
    match first.map(|first| start + first) {
        Some(number) => format!(
            "`[{name}]` begins in line {} already: move these keys there",
            number + 1
        ),
        None => format!("write all keys of `{name}` in one table"),
    }
}

/// Help for a line that is not valid TOML.
fn syntax_help(message: &str, line: &str) -> Option<String> {
    let line = without_comment(line);
    if line.contains(['\u{201c}', '\u{201d}', '\u{2018}', '\u{2019}']) {
        return Some("write straight quotes (\") instead of typographic quotes".to_owned());
    }
    if message.starts_with("missing comma between key-value pairs") {
        return Some("a `}` or a comma is missing before this place".to_owned());
    }
    // If the line is valid TOML on its own, the error has another cause, such as a duplicate
    // key.
    if toml::from_str::<toml::Table>(line).is_ok() {
        return None;
    }
    let Some((key, value)) = line.split_once('=') else {
        let (key, value) = line.trim().split_once(char::is_whitespace)?;
        let is_key = !key.is_empty() && key.chars().all(|c| c.is_ascii_lowercase() || c == '_');
        return is_key.then(|| format!("write `{key} = …`, with the value {}", value.trim()));
    };
    let (key, value) = (key.trim(), value.trim());
    if value.is_empty() && !key.is_empty() {
        return Some(format!(
            "the value of `{key}` is missing: it must begin on this line"
        ));
    }
    let quotes = value.matches('"').count();
    let is_word = |c: char| c.is_ascii_alphanumeric() || ".:/_-*@".contains(c);
    if quotes % 2 == 1 {
        return Some("a quote is not closed on this line".to_owned());
    }
    let bare = quotes == 0 && !value.is_empty() && value.chars().all(is_word);
    (bare && !key.is_empty()).then(|| format!("write strings in quotes: `{key} = \"{value}\"`"))
}

/// The line up to a `#` that is not in quotes.
fn without_comment(line: &str) -> &str {
    let mut quote = None;
    for (at, c) in line.char_indices() {
        match (quote, c) {
            (None, '#') => return &line[..at],
            (None, '"' | '\'') => quote = Some(c),
            (Some(open), c) if c == open => quote = None,
            _ => {}
        }
    }
    line
}

/// The language that a file appears to be written in, if its first lines are not TOML.
fn other_syntax(text: &str) -> Option<&'static str> {
    const HAPROXY: [&str; 5] = ["global", "defaults", "frontend", "backend", "listen"];
    let lines = text.lines().map(str::trim_end);
    let mut lines = lines.filter(|line| !line.trim().is_empty() && !line.starts_with('#'));
    let first = lines.next()?;
    let mut words = first.split_whitespace();
    let word = words.next()?;
    if first.starts_with('{') {
        return Some("JSON");
    }
    if HAPROXY.contains(&word) && !first.contains(['=', ':', '[']) && words.count() <= 1 {
        return Some("an HAProxy configuration");
    }
    let is_key = |key: &str| !key.is_empty() && !key.contains([' ', '=', '"', '[']);
    let is_yaml = first == "---"
        || first.split_once(':').is_some_and(|(key, rest)| {
            is_key(key) && (rest.is_empty() || rest.starts_with(' ')) && !rest.contains('=')
        });
    is_yaml.then_some("YAML")
}
