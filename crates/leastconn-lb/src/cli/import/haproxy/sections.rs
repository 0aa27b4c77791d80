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
#[derive(Clone, Debug)]
enum Current {
    None,
    Global,
    /// The `defaults` section of this name.
    Defaults(String),
    /// The index of a section in [`Sections::proxies`].
    Proxy(usize),
    /// The `resolvers` section of this name.
    Resolvers(String),
    /// The `peers` section of this name.
    Peers(String),
    Other,
}

/// The words that start a section.
const HEADS: [&str; 19] = [
    "global",
    "defaults",
    "frontend",
    "backend",
    "listen",
    "resolvers",
    "peers",
    "userlist",
    "mailers",
    "program",
    "cache",
    "ring",
    "http-errors",
    "fcgi-app",
    "log-forward",
    "log-profile",
    "crt-store",
    "traces",
    "acme",
];

/// The conditions that are not known.
#[derive(Default)]
struct Conditions {
    blocks: Vec<Block>,
    /// Conditions after which a section started, and that have ended since, each with the section
    /// before it. The next line belongs to that section if the condition is false.
    ended: Vec<(Current, Line)>,
}

/// A block that starts with `.if`.
struct Block {
    /// The `.if`, `.elif` or `.else` line of the current branch.
    line: Line,
    /// The section that the `.if` line is in.
    before: Current,
    /// Whether a section starts in the block.
    has_head: bool,
    /// Whether the current section has this condition.
    is_attached: bool,
}

impl Conditions {
    /// Reads a line that starts, continues or ends a block.
    fn line(&mut self, line: Line, current: &Current) {
        let mut block = Block {
            before: current.clone(),
            has_head: false,
            is_attached: false,
            line,
        };
        let is_end = block.line.word(0) == ".endif";
        if block.line.word(0) != ".if"
            && let Some(last) = self.blocks.pop()
        {
            if last.has_head {
                self.ended.push((last.before.clone(), last.line));
            }
            (block.before, block.has_head) = (last.before, last.has_head);
        }
        if !is_end {
            self.blocks.push(block);
        }
    }

    /// Reads the head of a section. Returns the conditions that the section before it does not have.
    fn head(&mut self) -> Vec<Line> {
        self.ended.clear();
        let mut unused = Vec::new();
        for block in &mut self.blocks {
            if !block.is_attached {
                unused.push(block.line.clone());
            }
            (block.has_head, block.is_attached) = (true, true);
        }
        unused
    }

    /// Reads another line. Returns the sections that depend on conditions because of it.
    fn ordinary(&mut self, current: &Current) -> Vec<(Current, Line)> {
        let mut found = std::mem::take(&mut self.ended);
        for block in &mut self.blocks {
            if !block.is_attached {
                found.push((current.clone(), block.line.clone()));
            }
            block.is_attached = true;
        }
        found
    }

    /// Returns the conditions of the current branches.
    fn open(&self) -> impl Iterator<Item = Line> {
        self.blocks.iter().map(|block| block.line.clone())
    }
}

pub(crate) fn sections(lines: Vec<Line>) -> Result<Sections, String> {
    let mut all = Sections::default();
    let mut named: HashMap<String, Vec<Line>> = HashMap::new();
    // The lines of the last `defaults` section, and its name.
    let (mut defaults, mut name) = (Vec::<Line>::new(), String::new());
    let mut current = Current::None;
    let mut conditions = Conditions::default();
    for line in lines {
        match line.word(0) {
            ".if" | ".elif" | ".else" | ".endif" => {
                conditions.line(line, &current);
                continue;
            }
            word if word.starts_with('.') => {
                all.stray.push(line);
                continue;
            }
            word if HEADS.contains(&word) => {
                let has_conditions = matches!(word, "defaults" | "frontend" | "backend" | "listen");
                let unused = conditions.head();
                if !has_conditions {
                    all.stray.extend(unused);
                }
            }
            _ => {
                for (section, condition) in conditions.ordinary(&current) {
                    match section {
                        Current::Defaults(of) if of != name => {
                            named.entry(of).or_default().push(condition);
                        }
                        Current::Defaults(_) => defaults.push(condition),
                        Current::Proxy(number) => all.proxies[number].lines.push(condition),
                        _ => all.stray.push(condition),
                    }
                }
            }
        }
        match line.word(0) {
            "global" => current = Current::Global,
            "defaults" => {
                named.insert(name, defaults);
                let (own, from) = head_names(&line);
                name = own;
                defaults = inherited(&line, from, &named, &[])?;
                defaults.extend(conditions.open());
                current = Current::Defaults(name.clone());
            }
            kind @ ("frontend" | "backend" | "listen") => {
                let (own, from) = head_names(&line);
                let mut lines = match from {
                    Some(from) if from == name => defaults.clone(),
                    from => inherited(&line, from, &named, &defaults)?,
                };
                lines.extend(conditions.open());
                current = Current::Proxy(all.proxies.len());
                all.proxies.push(Proxy {
                    name: own,
                    is_front: kind != "backend",
                    is_back: kind != "frontend",
                    head: line,
                    lines,
                });
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
            word if HEADS.contains(&word) => {
                all.others.push(line);
                current = Current::Other;
            }
            _ => match &current {
                Current::None => all.stray.push(line),
                Current::Global => all.global.push(line),
                Current::Defaults(_) => defaults.push(line),
                Current::Proxy(number) => all.proxies[*number].lines.push(line),
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
