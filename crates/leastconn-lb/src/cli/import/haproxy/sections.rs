//! Sections of an HAProxy configuration, and what they inherit from `defaults`.

use std::collections::HashMap;

use super::lexer::Line;

/// A `frontend`, `backend` or `listen` section. It starts with the lines of its `defaults`
/// section.
#[derive(Debug)]
pub(crate) struct Proxy {
    pub(crate) name: String,
    pub(crate) head: Line,
    pub(crate) is_front: bool,
    pub(crate) is_back: bool,
    pub(crate) lines: Vec<Line>,
}

impl Proxy {
    fn has(&self, name: &str) -> bool {
        self.lines.iter().any(|line| line.word(0) == name)
    }

    /// Whether the section is only a page of statistics.
    pub(crate) fn is_statistics(&self) -> bool {
        let with_servers = ["server", "default_backend", "use_backend"];
        self.has("stats") && !with_servers.iter().any(|name| self.has(name))
    }

    /// Whether the section is a backend with a stick table and without servers.
    pub(crate) fn is_table(&self) -> bool {
        let with_servers = ["server", "server-template", "dispatch"];
        let has_servers = with_servers.iter().any(|name| self.has(name));
        !self.is_front && self.has("stick-table") && !has_servers
    }

    /// Returns the mode, which is `tcp` by default.
    pub(crate) fn mode(&self) -> &str {
        let mode = self.lines.iter().rev().find(|line| line.word(0) == "mode");
        mode.map_or("tcp", |line| line.word(1))
    }
}

#[derive(Debug, Default)]
pub(crate) struct Sections {
    pub(crate) global: Vec<Line>,
    pub(crate) proxies: Vec<Proxy>,
    /// `resolvers` sections by name, without their headers.
    pub(crate) resolvers: HashMap<String, Vec<Line>>,
    /// `table` lines of `peers` sections, with the names of the tables: `SECTION/NAME`.
    pub(crate) tables: Vec<(String, Line)>,
    /// Headers of the other sections: `peers` and others.
    pub(crate) others: Vec<Line>,
    /// Preprocessor lines and lines before the first section.
    pub(crate) stray: Vec<Line>,
}

/// The section that the current lines belong to.
enum Current {
    None,
    Global,
    Defaults,
    Proxy,
    /// The `resolvers` section of this name.
    Resolvers(String),
    /// The `peers` section of this name.
    Peers(String),
    Other,
}

pub(crate) fn sections(lines: Vec<Line>) -> Result<Sections, String> {
    let mut all = Sections::default();
    let mut named: HashMap<String, Vec<Line>> = HashMap::new();
    // The lines of the last `defaults` section, and its name.
    let (mut defaults, mut name) = (Vec::<Line>::new(), String::new());
    let mut current = Current::None;
    // The open conditions that are not known.
    let mut conditions: Vec<Line> = Vec::new();
    for line in lines {
        match line.word(0) {
            ".if" | ".elif" | ".else" | ".endif" => {
                if line.word(0) != ".if" {
                    conditions.pop();
                }
                if line.word(0) != ".endif" {
                    conditions.push(line.clone());
                    match &current {
                        Current::Defaults => defaults.push(line),
                        Current::Proxy => {
                            if let Some(proxy) = all.proxies.last_mut() {
                                proxy.lines.push(line);
                            }
                        }
                        _ => all.stray.push(line),
                    }
                }
            }
            "global" => current = Current::Global,
            "defaults" => {
                named.insert(name, defaults);
                let (own, from) = head_names(&line);
                name = own;
                defaults = inherited(&line, from, &named, &[])?;
                defaults.extend(conditions.iter().cloned());
                current = Current::Defaults;
            }
            kind @ ("frontend" | "backend" | "listen") => {
                let (own, from) = head_names(&line);
                let mut lines = match from {
                    Some(from) if from == name => defaults.clone(),
                    from => inherited(&line, from, &named, &defaults)?,
                };
                lines.extend(conditions.iter().cloned());
                all.proxies.push(Proxy {
                    name: own,
                    is_front: kind != "backend",
                    is_back: kind != "frontend",
                    head: line,
                    lines,
                });
                current = Current::Proxy;
            }
            "resolvers" => {
                let name = line.word(1).to_owned();
                all.resolvers.entry(name.clone()).or_default();
                current = Current::Resolvers(name);
            }
            "peers" => {
                current = Current::Peers(line.word(1).to_owned());
                all.others.push(line);
            }
            "userlist" | "mailers" | "program" | "cache" | "ring" | "http-errors" | "fcgi-app"
            | "log-forward" | "log-profile" | "crt-store" | "traces" | "acme" => {
                all.others.push(line);
                current = Current::Other;
            }
            word if word.starts_with('.') => all.stray.push(line),
            _ => match &current {
                Current::None => all.stray.push(line),
                Current::Global => all.global.push(line),
                Current::Defaults => defaults.push(line),
                Current::Proxy => {
                    if let Some(proxy) = all.proxies.last_mut() {
                        proxy.lines.push(line);
                    }
                }
                Current::Resolvers(name) => {
                    all.resolvers.entry(name.clone()).or_default().push(line);
                }
                Current::Peers(name) if line.word(0) == "table" => {
                    let name = format!("{name}/{}", line.word(1));
                    all.tables.push((name, line));
                }
                Current::Peers(_) | Current::Other => {}
            },
        }
    }
    Ok(all)
}

/// Returns the name in a header, and the name of the section after `from`.
fn head_names(line: &Line) -> (String, Option<String>) {
    let words = &line.words[1..];
    let position = words.iter().position(|word| word == "from");
    let from = position.and_then(|position| words.get(position + 1));
    let own = match position {
        Some(0) => "",
        _ => line.word(1),
    };
    (own.to_owned(), from.cloned())
}

fn inherited(
    line: &Line,
    from: Option<String>,
    named: &HashMap<String, Vec<Line>>,
    last: &[Line],
) -> Result<Vec<Line>, String> {
    match from {
        None => Ok(last.to_vec()),
        Some(from) => named.get(&from).cloned().ok_or_else(|| {
            let place = &line.place;
            format!(
                "{}:{}: there is no `defaults {from}` before",
                place.file, place.line
            )
        }),
    }
}
