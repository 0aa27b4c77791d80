//! `[admin]`

use std::{os::unix::ffi::OsStrExt, path::PathBuf};

use super::{MAX_SOCKET_PATH, Resolver, secret_file};
use crate::{
    model::{Admin, Token},
    raw::{RawAdmin, value::At},
};

impl Resolver<'_> {
    pub(super) fn admin(&mut self, raw: &At<RawAdmin>) -> Option<Admin> {
        let RawAdmin {
            bind,
            socket,
            token,
            hosts,
        } = &raw.value;
        if bind.is_none() && socket.is_none() {
            if !self.pruned(&raw.span) {
                self.problems
                    .error("`[admin]` needs `bind` or `socket`")
                    .at(raw.span.clone())
                    .help("write `bind = \"127.0.0.1:9901\"`, `socket = \"leastconn.sock\"` or both, or remove the table");
            }
            return None;
        }
        let address = bind.as_ref().and_then(|bind| {
            let address = self.bind(&At {
                value: &*bind.value,
                span: bind.span.clone(),
            })?;
            if !address.ip().to_canonical().is_loopback() {
                self.problems
                    .warning(format!(
                        "the admin address {address} is not a loopback address"
                    ))
                    .at(bind.span.clone())
                    .note("everyone who can connect to it can read which clients are connected to which servers");
            }
            Some(address)
        });
        let of_address = [
            ("token", token.as_ref().map(|at| &at.span)),
            ("hosts", hosts.as_ref().map(|at| &at.span)),
        ];
        for (key, span) in of_address {
            if let Some(span) = span.filter(|_| bind.is_none() && !self.pruned(&raw.span)) {
                self.problems
                    .warning(format!("`{key}` has no effect without `bind`"))
                    .at(span.clone())
                    .note("access to the socket is controlled by its file mode");
            }
        }
        Some(Admin {
            bind: address,
            socket: socket.as_ref().and_then(|at| self.socket(at)),
            token: token.as_ref().and_then(|at| self.token(at)),
            hosts: hosts
                .iter()
                .flat_map(|at| &at.value)
                .filter_map(|at| self.host(at))
                .collect(),
        })
    }

    fn socket(&mut self, at: &At<String>) -> Option<PathBuf> {
        let path = self.path(&at.value);
        let length = path.as_os_str().as_bytes().len();
        let trouble = if at.value.is_empty() {
            "`socket` is empty".to_owned()
        } else if at.value.contains('\0') {
            "`socket` cannot contain a NUL".to_owned()
        } else if length > MAX_SOCKET_PATH {
            format!(
                "{} cannot be a socket: its path has {length} bytes, and the maximum is {MAX_SOCKET_PATH}",
                path.display()
            )
        } else {
            return Some(path);
        };
        self.problems
            .error(trouble)
            .at(at.span.clone())
            .help("services usually use `/run/leastconn/leastconn.sock`");
        None
    }

    fn token(&mut self, at: &At<String>) -> Option<Token> {
        let path = self.path(&at.value);
        let help = format!(
            "create one: (umask 077; openssl rand -hex 32 > {})",
            path.display()
        );
        let read = secret_file::read_word;
        let token = self.read_secret("token", &path, &at.span, read, help)?;
        Some(Token::new(&token))
    }

    fn host(&mut self, at: &At<String>) -> Option<String> {
        let allowed = |c: char| c.is_ascii_alphanumeric() || matches!(c, '-' | '_' | '.');
        let name = &at.value;
        if name.is_empty() || !name.chars().all(allowed) {
            self.problems
                .error(format!("{name:?} is not a host name"))
                .at(at.span.clone())
                .help("write the name without a port: \"lb.internal\"");
            return None;
        }
        Some(name.trim_end_matches('.').to_ascii_lowercase())
    }
}
