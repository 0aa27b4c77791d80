//! Pinned public keys.

use leastconn_tls::{pattern::Spki, settings::ClientAuth};

use super::loader::Loader;
use crate::raw::value::{At, OneOrMany};

impl Loader<'_> {
    /// Converts a list of pinned keys, and reports problems.
    pub(super) fn pins(&mut self, key: &str, pins: Option<&At<OneOrMany>>) -> Vec<Spki> {
        let Some(at) = pins else {
            return Vec::new();
        };
        let texts = at.each();
        if texts.is_empty() && !self.is_pruned(&at.span) {
            self.problems
                .error(format!("`{key}` is an empty list"))
                .at(at.span.clone())
                .help("remove the key, or list the SHA-256 of public keys");
        }
        let mut all = Vec::new();
        for text in texts {
            match Spki::parse(text.value) {
                Ok(pin) => all.push(pin),
                Err(error) => {
                    self.problems
                        .error(format!("`{key}`: {error}"))
                        .at(text.span)
                        .help(
                            "print it: `openssl x509 -in CERT -noout -pubkey | openssl pkey -pubin \
                             -outform DER | sha256sum`",
                        );
                }
            }
        }
        all
    }

    /// Warns about `client_pins` that have no effect. Also warns if the listener has both pins and
    /// a CA, because a pinned client can use the name of another client.
    pub(super) fn check_client_pins(
        &mut self,
        at: &At<OneOrMany>,
        client_auth: ClientAuth,
        has_authority: bool,
    ) {
        if client_auth == ClientAuth::None {
            self.problems
                .warning(
                    "`client_pins` has no effect: with `client_auth = \"none\"` no certificate is requested",
                )
                .at(at.span.clone());
        } else if has_authority {
            self.problems
                .warning("pinned clients can choose the names in their certificates")
                .at(at.span.clone())
                .note("a rule with `cn`, `dns` or `uri` for clients of `client_ca` may match a pinned client")
                .help("use a separate listener for pinned clients, or match all clients by `spki`");
        }
    }
}
