//! Environment variables and the lines `.if`, `.elif`, `.else` and `.endif`.

use super::{
    super::{model::Note, toml::VARIABLE_START},
    environment::Environment,
    lexer::Line,
};

/// Maximum nesting depth of parentheses in a condition.
const DEEPEST: usize = 32;

/// A block that starts with `.if`.
struct Block {
    /// Whether the lines around the block are used.
    outer: bool,
    /// Whether the current lines are used.
    used: bool,
    /// Whether an earlier condition of the block was true.
    decided: bool,
    /// Whether an earlier condition of the block, or the current one, is not known.
    uncertain: bool,
}

/// Replaces variables, and removes the lines whose condition is false. Lines whose condition is
/// not known are kept, between their `.if` and `.endif`. Returns the lines, and remarks for the
/// others.
pub(super) fn preprocess(lines: Vec<Line>) -> (Vec<Line>, Vec<Note>) {
    let mut environment = Environment::default();
    let mut blocks: Vec<Block> = Vec::new();
    let (mut kept, mut notes) = (Vec::new(), Vec::new());
    for mut line in lines {
        let used = blocks.last().is_none_or(|block| block.used);
        match line.word(0) {
            ".if" => {
                environment.apply(&mut line);
                let condition = used.then(|| evaluate(&line, &environment)).flatten();
                blocks.push(Block {
                    outer: used,
                    used: used && condition != Some(false),
                    decided: condition == Some(true),
                    uncertain: used && condition.is_none(),
                });
                keep_or_note(line, used, condition, &mut kept, &mut notes);
            }
            ".elif" | ".else" => {
                let Some(block) = blocks.last_mut() else {
                    kept.push(line);
                    continue;
                };
                environment.apply(&mut line);
                let is_else = line.word(0) == ".else";
                let condition = match is_else {
                    true => Some(true),
                    false => evaluate(&line, &environment),
                };
                let open = block.outer && !block.decided;
                block.used = open && condition != Some(false);
                block.decided |= condition == Some(true);
                block.uncertain |= open && condition.is_none();
                if block.uncertain {
                    kept.extend(block.outer.then_some(line));
                } else if open && !is_else {
                    keep_or_note(line, true, condition, &mut kept, &mut notes);
                }
            }
            ".endif" => match blocks.pop() {
                Some(block) if !block.uncertain => {}
                _ => kept.push(line),
            },
            _ if !used => {}
            ".notice" | ".warning" | ".diag" => {
                notes.push(line.place.remark("messages are not translated"));
            }
            _ => {
                environment.apply(&mut line);
                kept.push(line);
            }
        }
    }
    (kept, notes)
}

fn keep_or_note(
    line: Line,
    used: bool,
    condition: Option<bool>,
    kept: &mut Vec<Line>,
    notes: &mut Vec<Note>,
) {
    match condition {
        _ if !used => {}
        None => kept.push(line),
        Some(true) => notes.push(line.place.remark("true: the lines after it are used")),
        Some(false) => notes.push(line.place.remark("false: the lines after it are omitted")),
    }
}

/// Returns the value of a condition, or `None` if it is not known.
fn evaluate(line: &Line, environment: &Environment) -> Option<bool> {
    let text = line.words.get(1..).unwrap_or(&[]).join(" ");
    let mut parser = Parser {
        rest: text.trim(),
        environment,
    };
    if parser.rest.is_empty() {
        return Some(false);
    }
    let value = parser.any(0)?;
    parser.rest.is_empty().then_some(value)?
}

struct Parser<'a> {
    rest: &'a str,
    environment: &'a Environment,
}

/// The value of a part of a condition. The outer `None` is a syntax error.
type Parsed = Option<Option<bool>>;

impl Parser<'_> {
    fn take(&mut self, token: &str) -> bool {
        let Some(rest) = self.rest.strip_prefix(token) else {
            return false;
        };
        self.rest = rest.trim_start();
        true
    }

    fn any(&mut self, depth: usize) -> Parsed {
        let mut value = self.all(depth)?;
        while self.take("||") {
            let next = self.all(depth)?;
            value = match (value, next) {
                (Some(true), _) | (_, Some(true)) => Some(true),
                (Some(false), Some(false)) => Some(false),
                _ => None,
            };
        }
        Some(value)
    }

    fn all(&mut self, depth: usize) -> Parsed {
        let mut value = self.term(depth)?;
        while self.take("&&") {
            let next = self.term(depth)?;
            value = match (value, next) {
                (Some(false), _) | (_, Some(false)) => Some(false),
                (Some(true), Some(true)) => Some(true),
                _ => None,
            };
        }
        Some(value)
    }

    fn term(&mut self, depth: usize) -> Parsed {
        let mut is_negated = false;
        while self.take("!") {
            is_negated = !is_negated;
        }
        let value = if self.take("(") {
            if depth == DEEPEST {
                return None;
            }
            let value = self.any(depth + 1)?;
            self.take(")").then_some(value)?
        } else {
            self.predicate()?
        };
        Some(value.map(|value| value != is_negated))
    }

    /// Parses a number, or a predicate with its arguments.
    fn predicate(&mut self) -> Parsed {
        let is_name = |c: char| c.is_ascii_alphanumeric() || c == '_';
        let end = self.rest.find(|c| !is_name(c)).unwrap_or(self.rest.len());
        let name = &self.rest[..end];
        if name.is_empty() {
            return None;
        }
        self.rest = &self.rest[end..];
        let Some(arguments) = self.rest.strip_prefix('(') else {
            self.rest = self.rest.trim_start();
            let number: i64 = name.parse().ok()?;
            return Some(Some(number != 0));
        };
        let (arguments, rest) = arguments.split_once(')')?;
        self.rest = rest.trim_start();
        let (first, second) = arguments.split_once(',').unwrap_or((arguments, ""));
        let are_known = !arguments.contains(VARIABLE_START);
        Some(match name {
            "defined" => self.environment.is_defined(arguments),
            "streq" => are_known.then_some(first == second),
            "strneq" => are_known.then_some(first != second),
            "strstr" => are_known.then_some(first.contains(second)),
            "feature" if arguments == "OPENSSL" => Some(true),
            // The file is for a current version.
            "version_atleast" | "openssl_version_atleast" => Some(true),
            "version_before" | "openssl_version_before" => Some(false),
            _ => None,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::{super::lexer::lines, preprocess};

    /// Returns the remaining lines.
    fn kept(text: &str) -> String {
        let (lines, _) = preprocess(lines(&"t".into(), text).unwrap());
        let lines = lines.iter().map(|line| line.words.join(" "));
        lines.collect::<Vec<_>>().join(" / ")
    }

    #[test]
    fn conditions_are_evaluated() {
        for (condition, expected) in [
            ("", "no"),
            ("0", "no"),
            ("1", "yes"),
            ("!0", "yes"),
            ("! 0", "yes"),
            ("defined(A)&&defined(A)", "yes"),
            ("streq(\"$A\",one)", "yes"),
            ("strneq(\"$A\",\"one\") || version_before(2.0)", "no"),
            ("(defined(A) && !streq(\"$A\",\"x y\")) || 0", "yes"),
            ("feature(OPENSSL) && version_atleast(2.4)", "yes"),
            ("defined(NO)", "no"),
            ("defined(OTHER) && 0", "no"),
            ("defined(OTHER) || 1", "yes"),
        ] {
            let text =
                format!("setenv A one\nunsetenv NO\n.if {condition}\nyes\n.else\nno\n.endif");
            let kept = kept(&text);
            assert!(
                kept.ends_with(&format!(" / {expected}")),
                "{condition}: {kept}"
            );
            assert!(!kept.contains(".if"), "{condition}: {kept}");
        }
    }

    #[test]
    fn one_branch_is_used() {
        for (text, expected) in [
            (".if 1\na\n.elif 1\nb\n.else\nc\n.endif\nd", "a / d"),
            (".if 0\na\n.elif 1\nb\n.else\nc\n.endif\nd", "b / d"),
            (".if 0\na\n.elif 0\nb\n.else\nc\n.endif\nd", "c / d"),
            (".if 0\n.if 1\na\n.else\nb\n.endif\n.endif\nc", "c"),
            (".if 1\n.if 0\na\n.else\nb\n.endif\n.endif\nc", "b / c"),
            // A line that is not used sets no variable.
            (
                ".if 0\nsetenv A 1\n.endif\nx \"${A-2}\"",
                "x \u{1}A:-2\u{2}",
            ),
            (".notice \"a\"\n.if 0\n.alert x\n.endif\nb", "b"),
        ] {
            assert_eq!(kept(text), expected, "{text}");
        }
    }

    #[test]
    fn unknown_conditions_keep_their_lines() {
        for (text, expected) in [
            (
                ".if defined(X)\na\n.else\nb\n.endif\nc",
                ".if defined(X) / a / .else / b / .endif / c",
            ),
            (
                ".if 0\na\n.elif defined(X)\nb\n.endif",
                ".elif defined(X) / b / .endif",
            ),
            (".if 1\na\n.elif defined(X)\nb\n.endif", "a"),
            (".if foo(1)\na\n.endif", ".if foo(1) / a / .endif"),
            (".if (1\na\n.endif", ".if (1 / a / .endif"),
            ("a\n.endif", "a / .endif"),
        ] {
            assert_eq!(kept(text), expected, "{text}");
        }
        let nested = format!(".if {}1\na\n.endif", "(".repeat(100_000));
        assert!(kept(&nested).contains("a / .endif"));
    }
}
