//! Parses an nginx configuration into directives.

use std::{
    cell::Cell,
    fs, io,
    ops::Range,
    path::{Path, PathBuf},
    rc::Rc,
};

use super::super::model::{Note, Place};

/// Maximum nesting depth of blocks, and of included files.
const DEEPEST: usize = 20;

/// A directive with its arguments, and the directives of its block.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Directive {
    pub(crate) place: Place,
    pub(crate) words: Vec<String>,
    pub(crate) block: Option<Vec<Self>>,
}

impl Directive {
    pub(crate) fn name(&self) -> &str {
        self.word(0)
    }

    pub(crate) fn word(&self, number: usize) -> &str {
        self.words.get(number).map_or("", String::as_str)
    }

    pub(crate) fn arguments(&self) -> &[String] {
        self.words.get(1..).unwrap_or(&[])
    }

    pub(crate) fn children(&self) -> &[Self] {
        self.block.as_deref().unwrap_or(&[])
    }
}

enum Token {
    Word(String),
    End,
    Open,
    Close,
}

/// Returns all directives of a text. Included files are read, except in `http` blocks. Adds a note
/// to `notes` for each `include` whose pattern is in a directory that does not exist.
///
/// # Errors
/// If the text is not well-formed, or a file or directory cannot be read.
pub(crate) fn parse(
    file: &Rc<str>,
    text: &str,
    dir: &Path,
    notes: &mut Vec<Note>,
) -> Result<Vec<Directive>, String> {
    expanded(Parser::parse(file, text)?, dir, 0, notes)
}

struct Parser<'a> {
    file: &'a Rc<str>,
    text: &'a str,
    tokens: std::vec::IntoIter<(usize, usize, Token)>,
    depth: usize,
}

impl<'a> Parser<'a> {
    /// Parses the directives of one file. `include` directives are kept.
    fn parse(file: &'a Rc<str>, text: &'a str) -> Result<Vec<Directive>, String> {
        let mut parser = Self {
            file,
            text,
            tokens: tokens(file, text)?.into_iter(),
            depth: 0,
        };
        parser.block(false)
    }

    fn block(&mut self, nested: bool) -> Result<Vec<Directive>, String> {
        let mut directives = Vec::new();
        let mut words: Vec<String> = Vec::new();
        let (mut first, mut start) = (0, 0);
        self.depth += 1;
        if self.depth > DEEPEST {
            return Err(format!("{}: blocks are nested too deeply", self.file));
        }
        while let Some((line, at, token)) = self.tokens.next() {
            if words.is_empty() {
                (first, start) = (line, at);
            }
            match token {
                Token::Word(word) => words.push(word),
                Token::End if words.is_empty() => {}
                Token::End => {
                    directives.push(self.directive(first, start..at, &mut words, None));
                }
                Token::Open => {
                    let block = self.block(true)?;
                    directives.push(self.directive(first, start..at, &mut words, Some(block)));
                }
                Token::Close if nested && words.is_empty() => {
                    self.depth -= 1;
                    return Ok(directives);
                }
                Token::Close => return Err(format!("{}:{line}: unexpected `}}`", self.file)),
            }
        }
        if nested || !words.is_empty() {
            return Err(format!("{}: unexpected end of file", self.file));
        }
        self.depth -= 1;
        Ok(directives)
    }

    fn directive(
        &self,
        line: usize,
        range: Range<usize>,
        words: &mut Vec<String>,
        block: Option<Vec<Directive>>,
    ) -> Directive {
        let text = self.text.get(range).unwrap_or("");
        let text = text.lines().next().unwrap_or("");
        Directive {
            place: Place {
                file: self.file.clone(),
                line,
                text: text.trim().to_owned(),
            },
            words: std::mem::take(words),
            block,
        }
    }
}

/// Splits a text into tokens. Blanks, `;` and `{` end a word. Words in quotes may contain these
/// characters. Backslashes escape quotes, backslashes and blanks. `${NAME}` is part of a word. Returns
/// for each token its line, and the position in the text where a word starts or another token ends.
fn tokens(file: &str, text: &str) -> Result<Vec<(usize, usize, Token)>, String> {
    let mut tokens = Vec::new();
    let mut line = 1;
    let read = Cell::new(0);
    let count = |c: &char| read.set(read.get() + c.len_utf8());
    let mut chars = text.chars().inspect(count).peekable();
    while let Some(c) = chars.next() {
        // A peeked character was counted when it was peeked.
        let end = read.get();
        let at = end - c.len_utf8();
        match c {
            '\n' => line += 1,
            c if c.is_whitespace() => {}
            '#' => while chars.next_if(|c| *c != '\n').is_some() {},
            ';' => tokens.push((line, end, Token::End)),
            '{' if is_lua_block(&tokens) => {
                line += skip_lua(&mut chars)
                    .ok_or_else(|| format!("{file}:{line}: a block is not closed"))?;
                tokens.push((line, end, Token::End));
            }
            '{' => tokens.push((line, end, Token::Open)),
            '}' => tokens.push((line, end, Token::Close)),
            quote @ ('"' | '\'') => {
                let start = line;
                let mut word = String::new();
                loop {
                    match chars.next() {
                        None => return Err(format!("{file}:{start}: a quote is not closed")),
                        Some(c) if c == quote => break,
                        Some('\\') => escape(&mut word, chars.next()),
                        Some(c) => {
                            line += usize::from(c == '\n');
                            word.push(c);
                        }
                    }
                }
                tokens.push((start, at, Token::Word(word)));
            }
            c => {
                let mut word = String::new();
                let mut next = Some(c);
                while let Some(c) = next {
                    match c {
                        '\\' => escape(&mut word, chars.next()),
                        '$' if chars.peek() == Some(&'{') => {
                            word.push(c);
                            for c in chars.by_ref() {
                                word.push(c);
                                if c == '}' {
                                    break;
                                }
                            }
                        }
                        c => word.push(c),
                    }
                    next = chars.next_if(|c| !c.is_whitespace() && !matches!(c, ';' | '{'));
                }
                tokens.push((line, at, Token::Word(word)));
            }
        }
    }
    Ok(tokens)
}

/// Whether the last word is a directive whose block is Lua code.
fn is_lua_block(tokens: &[(usize, usize, Token)]) -> bool {
    let last = tokens.last().map(|(_, _, token)| token);
    matches!(last, Some(Token::Word(word)) if word.ends_with("_by_lua_block"))
}

/// Skips Lua code up to the brace that closes its block. Returns the number of lines, or `None` if
/// the block is not closed.
fn skip_lua(chars: &mut impl Iterator<Item = char>) -> Option<usize> {
    let (mut lines, mut depth, mut before) = (0, 0_usize, ' ');
    let mut quote = None;
    let mut is_comment = false;
    loop {
        let c = chars.next()?;
        lines += usize::from(c == '\n');
        match (quote, c) {
            _ if is_comment => is_comment = c != '\n',
            (Some(_), '\\') => {
                chars.next()?;
            }
            (Some(open), c) if c == open => quote = None,
            (Some(_), _) => {}
            (None, '"' | '\'') => quote = Some(c),
            (None, '-') if before == '-' => is_comment = true,
            (None, '{') => depth += 1,
            (None, '}') if depth == 0 => return Some(lines),
            (None, '}') => depth -= 1,
            (None, _) => {}
        }
        before = c;
    }
}

/// Appends an escaped character. If the character needs no escape, the backslash is kept, because
/// it may be part of a regular expression.
fn escape(word: &mut String, escaped: Option<char>) {
    match escaped {
        Some('n') => word.push('\n'),
        Some('t') => word.push('\t'),
        Some('r') => word.push('\r'),
        Some(c @ ('"' | '\'' | '\\' | ' ' | ';' | '{' | '}')) => word.push(c),
        Some(c) => word.extend(['\\', c]),
        None => word.push('\\'),
    }
}

/// Replaces `include` directives with the directives of the included files.
fn expanded(
    directives: Vec<Directive>,
    dir: &Path,
    depth: usize,
    notes: &mut Vec<Note>,
) -> Result<Vec<Directive>, String> {
    let mut all = Vec::new();
    for mut directive in directives {
        if directive.name() == "include" {
            let place = &directive.place;
            if depth > DEEPEST {
                return Err(format!(
                    "{}:{}: too many nested files",
                    place.file, place.line
                ));
            }
            let files = files(dir, directive.word(1))
                .map_err(|error| format!("{}:{}: {error}", place.file, place.line))?;
            let Some(files) = files else {
                let reason = "the directory does not exist, so no file is included";
                notes.push(place.remark(reason));
                continue;
            };
            for path in files {
                let text = fs::read_to_string(&path).map_err(|error| {
                    let path = path.display();
                    format!("{}:{}: cannot read {path}: {error}", place.file, place.line)
                })?;
                let name = path
                    .strip_prefix(dir)
                    .unwrap_or(&path)
                    .display()
                    .to_string();
                let name: Rc<str> = name.into();
                let directives = Parser::parse(&name, &text)?;
                all.extend(expanded(directives, dir, depth + 1, notes)?);
            }
            continue;
        }
        if directive.name() != "http"
            && let Some(block) = directive.block.take()
        {
            directive.block = Some(expanded(block, dir, depth, notes)?);
        }
        all.push(directive);
    }
    Ok(all)
}

/// Returns the files of an `include`, sorted: a single file, or all files that match a pattern in
/// the last component of the path. Returns `None` if the directory of a pattern does not exist,
/// which nginx accepts.
fn files(dir: &Path, pattern: &str) -> Result<Option<Vec<PathBuf>>, String> {
    let path = dir.join(pattern);
    if !pattern.contains(['*', '?', '[']) {
        return Ok(Some(vec![path]));
    }
    let name = path
        .file_name()
        .map(|name| name.to_string_lossy().into_owned());
    let (Some(parent), Some(name)) = (path.parent(), name) else {
        return Ok(Some(Vec::new()));
    };
    if parent.to_string_lossy().contains(['*', '?', '[']) || name.contains('[') {
        return Err(format!(
            "the pattern {pattern:?} is not supported in `include`"
        ));
    }
    let unreadable = |error| format!("cannot read {}: {error}", parent.display());
    let entries = match fs::read_dir(parent) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
        entries => entries.map_err(unreadable)?,
    };
    let mut found = Vec::new();
    for entry in entries {
        let entry = entry.map_err(unreadable)?;
        let file = entry.file_name();
        let file = file.to_string_lossy();
        if !file.starts_with('.') && matches(&name, &file) {
            found.push(entry.path());
        }
    }
    found.sort();
    Ok(Some(found))
}

/// Whether a file name matches a pattern with `*` and `?`.
fn matches(pattern: &str, name: &str) -> bool {
    let mut rest = pattern.chars();
    match rest.next() {
        None => name.is_empty(),
        Some('*') => name
            .char_indices()
            .map(|(at, _)| at)
            .chain([name.len()])
            .any(|at| matches(rest.as_str(), &name[at..])),
        Some(c) => {
            let mut chars = name.chars();
            let next = chars.next();
            next.is_some_and(|next| c == '?' || c == next) && matches(rest.as_str(), chars.as_str())
        }
    }
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use super::{matches, parse};

    #[test]
    fn quotes_blocks_and_comments() {
        let text = "a 'x y' \"b;c\"; # comment\nb { c ~^\\w+\\.x$; } d ${e}f;";
        let mut notes = Vec::new();
        let directives = parse(&"t".into(), text, Path::new("/"), &mut notes).unwrap();
        let words: Vec<_> = directives.iter().map(|d| d.words.join("|")).collect();
        assert_eq!(words, ["a|x y|b;c", "b", "d|${e}f"]);
        assert_eq!(directives[1].children()[0].words, ["c", r"~^\w+\.x$"]);
        assert_eq!(directives[2].place.line, 2);
        // Each directive of a line is quoted without the others.
        let quoted: Vec<_> = directives.iter().map(|d| d.place.text.as_str()).collect();
        assert_eq!(quoted, ["a 'x y' \"b;c\";", "b {", "d ${e}f;"]);
        for text in ["a", "a {", "}", "a 'b;", "a b }"] {
            let parsed = parse(&"t".into(), text, Path::new("/"), &mut notes);
            assert!(parsed.is_err(), "{text}");
        }
    }

    #[test]
    fn lua_code_is_skipped() {
        let text = "a_by_lua_block {\n if x then t = {1} end -- }\n f('}', \"\\\"}\")\n} b;\nc;";
        let mut notes = Vec::new();
        let directives = parse(&"t".into(), text, Path::new("/"), &mut notes).unwrap();
        let words: Vec<_> = directives.iter().map(|d| d.words.join("|")).collect();
        assert_eq!(words, ["a_by_lua_block", "b", "c"]);
        assert_eq!(directives[2].place.line, 5);
        assert!(parse(&"t".into(), "a_by_lua_block {", Path::new("/"), &mut notes).is_err());
    }

    #[test]
    fn missing_include_directories_are_noted() {
        let dir = Path::new(env!("CARGO_MANIFEST_DIR"));
        let mut notes = Vec::new();
        let text = "a b;\ninclude missing/*.conf;";
        let directives = parse(&"t".into(), text, dir, &mut notes).unwrap();
        assert_eq!(directives.len(), 1);
        assert_eq!(notes.len(), 1);
        assert_eq!(notes[0].place.line, 2);
        // A file exists where the pattern needs a directory.
        let text = "a b;\ninclude Cargo.toml/*.conf;";
        let error = parse(&"t".into(), text, dir, &mut notes).unwrap_err();
        assert!(error.starts_with("t:2: cannot read "), "{error}");
    }

    #[test]
    fn patterns_of_included_files() {
        assert!(matches("*.conf", "a.conf"));
        assert!(matches("a?.c*", "ab.conf"));
        assert!(!matches("*.conf", "a.conf.bak"));
    }
}
