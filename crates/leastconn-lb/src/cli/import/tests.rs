//! Imports of damaged source files: `check` accepts each configuration that is printed.

mod closed;
mod merged;
mod names;
mod outputs;
mod rejected;

use std::{collections::BTreeMap, fs, path::Path, rc::Rc};

use leastconn_testkit::{TempDir, TestCa};

use super::{DONE, Program, Translation, translate_text};

/// Number of damaged copies of each source file.
const COPIES: u64 = 24;

/// Returns numbers that look random, always the same ones.
struct Random(u64);

impl Random {
    /// Returns a number below `end`.
    fn below(&mut self, end: usize) -> usize {
        self.0 = self.0.wrapping_mul(6_364_136_223_846_793_005);
        self.0 = self.0.wrapping_add(1_442_695_040_888_963_407);
        (self.0 >> 33) as usize % end.max(1)
    }
}

/// Damages one or two lines: removes, repeats or moves a line, or removes or repeats a word or the
/// value after `=`.
fn damaged(text: &str, random: &mut Random) -> String {
    let mut lines: Vec<String> = text.lines().map(str::to_owned).collect();
    for _ in 0..=random.below(2) {
        let used: Vec<_> = (0..lines.len())
            .filter(|at| !lines[*at].trim().is_empty() && !lines[*at].trim().starts_with('#'))
            .collect();
        let Some(&at) = used.get(random.below(used.len())) else {
            break;
        };
        let mut words: Vec<String> = lines[at].split(' ').map(str::to_owned).collect();
        let word = random.below(words.len());
        match random.below(7) {
            0 => {
                lines.remove(at);
            }
            1 => lines.insert(at, lines[at].clone()),
            2 => {
                let other = used[random.below(used.len())];
                lines.swap(at, other);
            }
            3 => {
                words.remove(word);
                lines[at] = words.join(" ");
            }
            4 => {
                words.insert(word, words[word].clone());
                lines[at] = words.join(" ");
            }
            5 => {
                words.truncate(word + 1);
                lines[at] = words.join(" ");
            }
            _ => {
                let name = lines[at].split('=').next().unwrap_or("").to_owned();
                lines[at] = name + "=";
            }
        }
    }
    lines.join("\n") + "\n"
}

/// Creates a directory with the source files and the certificates that they refer to.
fn site(sources: &Path) -> TempDir {
    let dir = TempDir::new().unwrap();
    let ca = TestCa::new("import test CA");
    let server = ca.write_set(&dir, &["lb.example.com"]);
    let client = ca.leaf("lb.example.com").build();
    for (stem, cert) in [("server", server), ("client", client)] {
        cert.write(dir.path(), stem);
        let both = format!("{}{}", cert.cert_pem, cert.key_pem);
        fs::write(dir.path().join(format!("{stem}.pem")), both).unwrap();
    }
    for entry in fs::read_dir(sources).unwrap() {
        let entry = entry.unwrap();
        if entry.path().is_file() {
            fs::copy(entry.path(), dir.path().join(entry.file_name())).unwrap();
        }
    }
    dir
}

/// Returns the errors of `check`, except those about files and variables that do not exist.
fn check_errors(translation: &Translation, dir: &Path) -> Vec<String> {
    let loaded = leastconn_config::load_text("imported.toml", &translation.toml, dir);
    let Err(problems) = loaded else {
        return Vec::new();
    };
    let rendered = problems.render(false);
    let errors = rendered.split("error: ").skip(1);
    let is_missing = |error: &&str| {
        let line = error.lines().next().unwrap_or("");
        [
            "does not exist",
            "No such file",
            "cannot be read",
            "is a directory",
            "environment variable",
            // The file has another certificate than that of an authority.
            "contains no valid authority",
        ]
        .iter()
        .any(|text| line.contains(text))
    };
    errors
        .filter(|error| !is_missing(error))
        .map(str::to_owned)
        .collect()
}

fn check_damaged(program: Program, ending: &str) {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/import");
    let sources = root.join(program.name());
    let dir = site(&sources);
    let mut names: Vec<_> = fs::read_dir(&sources)
        .unwrap()
        .map(|entry| entry.unwrap().file_name().into_string().unwrap())
        .filter(|name| name.ends_with(ending))
        .collect();
    names.sort();
    let mut random = Random(17);
    let mut failures: BTreeMap<String, String> = BTreeMap::new();
    for name in &names {
        let text = fs::read_to_string(sources.join(name)).unwrap();
        let file: Rc<str> = name.as_str().into();
        for copy in 0..COPIES {
            let source = match copy {
                0 => text.clone(),
                _ => damaged(&text, &mut random),
            };
            match translate_text(program, &file, &source, Some(dir.path())) {
                // An error names the file.
                Err(error) => assert!(error.contains('.') || error.contains('`'), "{error}"),
                // `check` needs a listener, and the summary says that there is none.
                Ok(translation) if translation.counts[0] == 0 => {
                    let summary = translation.summary(name);
                    assert!(summary.contains("no listener was translated"), "{summary}");
                    assert_ne!(translation.exit_code(), DONE, "{summary}");
                }
                Ok(translation) => {
                    for error in check_errors(&translation, dir.path()) {
                        let first = error.lines().next().unwrap_or("").to_owned();
                        failures
                            .entry(first)
                            .or_insert(format!("{name}:\n{source}\n{error}"));
                    }
                }
            }
        }
    }
    let shown: Vec<_> = failures.into_values().collect();
    assert!(shown.is_empty(), "{}", shown.join("\n=====\n"));
}

#[test]
fn damaged_haproxy_files() {
    check_damaged(Program::Haproxy, ".cfg");
}

#[test]
fn damaged_nginx_files() {
    check_damaged(Program::Nginx, ".conf");
}

#[test]
fn damaged_stunnel_files() {
    check_damaged(Program::Stunnel, ".conf");
}

#[test]
fn damaged_ghostunnel_command_lines() {
    check_damaged(Program::Ghostunnel, ".sh");
}
