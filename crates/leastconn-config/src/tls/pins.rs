//! Pinned public keys.

use leastconn_tls::{pattern::Spki, settings::ClientAuth};

use super::loader::Loader;
use crate::raw::value::{At, OneOrMany};

impl Loader<'_> {
    /// The keys of a list. What is wrong with it is reported.
    pub(super) fn pins(&mut self, key: &str, pins: Option<&At<OneOrMany>>) -> Vec<Spki> {
        let Some(at) = pins else {
            return Vec::new();
        };
        let texts = at.each();
        if texts.is_empty() {
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

    /// Warns of `client_pins` that do nothing, or let clients choose names that an
    /// authority gives to others.
    pub(super) fn pins_are_used(
        &mut self,
        at: &At<OneOrMany>,
        client_auth: ClientAuth,
        has_authority: bool,
    ) {
        if client_auth == ClientAuth::None {
            self.problems
                .warning(
                    "`client_pins` does nothing: `client_auth = \"none\"` asks for no certificate",
                )
                .at(at.span.clone());
        } else if has_authority {
            self.problems
                .warning("pinned clients choose the names in their certificates themselves")
                .at(at.span.clone())
                .note("a rule by `cn`, `dns` or `uri` for a client of `client_ca` may match one of them")
                .help("give pinned clients a listener of their own, or know all clients by `spki`");
        }
    }
}
