//! Loading a file with arbitrary contents does not panic.

use std::path::Path;

use proptest::prelude::*;

use super::{PLAIN, reading};
use crate::{drive, tls};

/// Fragments of text that are meaningful somewhere in a configuration file.
const PIECES: &[&str] = &[
    "[",
    "]",
    "[[",
    "]]",
    "{",
    "}",
    "=",
    "\"",
    "\"\"\"",
    "'",
    "\n",
    "\r\n",
    "#",
    ".",
    ",",
    "$",
    "${",
    "${A:-",
    "\\u0000",
    "\t",
    "\u{1b}",
    "\u{202e}",
    "\u{fffd}",
    "\u{feff}",
    "\u{fc}",
    "0",
    "-1",
    "1e999",
    "nan",
    "99999999999999999999",
    "true",
    "2027-01-31T00:00:00Z",
    "[[listener]]\n",
    "[[client]]\n",
    "[[upstream]]\n",
    "[defaults.client]\n",
    "name = \"x\"\n",
    "match = {}\n",
    "tls = {}\n",
    "tls = { cert = \"/dev/zero\", key = \"/\", client_ca = \"\", crl = [] }\n",
    "servers = [[]]\n",
    "bind = \"[::]:0\"\n",
    "*",
    "**.*",
    "/",
    "/33",
    "::",
    "%",
    "0s",
    "9999999999999999999d",
];

/// Parts of PEM files.
const PEM_PIECES: &[&str] = &[
    "-----BEGIN CERTIFICATE-----",
    "-----END CERTIFICATE-----",
    "-----BEGIN X509 CRL-----",
    "-----END X509 CRL-----",
    "-----BEGIN PRIVATE KEY-----",
    "-----END PRIVATE KEY-----",
    "-----BEGIN TRUSTED CERTIFICATE-----",
    "-----END TRUSTED CERTIFICATE-----",
    "-----BEGIN EC PARAMETERS-----",
    "-----END EC PARAMETERS-----",
    "-----BEGIN \u{7}-----",
    "Proc-Type: 4,ENCRYPTED",
    "-----",
    "MAA=",
    "MA==",
    "\n",
    "\r\n",
    "\u{feff}",
    " ",
    "=",
    "\0",
];

fn render_everything(text: &str) {
    drive::check(&reading(text, Path::new("/nowhere")));
}

fn boundary(text: &str, at: usize) -> usize {
    let mut at = at % (text.len() + 1);
    while !text.is_char_boundary(at) {
        at -= 1;
    }
    at
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(400))]

    #[test]
    fn arbitrary_text_does_not_panic(text in any::<String>()) {
        drive::configuration(&text);
        render_everything(&text);
    }

    #[test]
    fn arbitrary_fragments_do_not_panic(pieces in prop::collection::vec(prop::sample::select(PIECES), 0..40)) {
        render_everything(&pieces.concat());
    }

    #[test]
    fn modified_file_does_not_panic(
        changes in prop::collection::vec(
            (any::<usize>(), 0_usize..12, prop::sample::select(PIECES)),
            1..6,
        ),
    ) {
        let mut text = PLAIN.to_owned();
        for (at, removed, inserted) in changes {
            let start = boundary(&text, at);
            let end = boundary(&text, (start + removed).min(text.len()));
            text.replace_range(start..end.max(start), inserted);
        }
        render_everything(&text);
    }

    #[test]
    fn arbitrary_file_does_not_panic(bytes in prop::collection::vec(any::<u8>(), 0..200)) {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("leastconn.toml");
        std::fs::write(&path, bytes).unwrap();
        if let Err(problems) = crate::load(&path) {
            let _ = problems.to_string();
        }
    }

    #[test]
    fn arbitrary_pem_file_has_items_or_an_error(
        wanted in any::<u8>(),
        pieces in prop::collection::vec(prop::sample::select(PEM_PIECES), 0..20),
    ) {
        tls::drive::pem(wanted, pieces.concat().as_bytes());
    }

    #[test]
    fn arbitrary_certificate_file_does_not_panic(bytes in prop::collection::vec(any::<u8>(), 0..200), der in any::<bool>()) {
        let dir = tempfile::tempdir().unwrap();
        let mut content = if der { vec![0x30, 0x81] } else { b"-----BEGIN CERTIFICATE-----\n".to_vec() };
        content.extend(bytes);
        std::fs::write(dir.path().join("f"), content).unwrap();
        let text = format!(
            "{}\n",
            PLAIN.replace(
                "upstream = \"web\"\n",
                "upstream = \"web\"\ntls = { cert = \"f\", key = \"f\", client_ca = \"f\", crl = \"f\" }\n",
            )
        );
        let _ = reading(&text, dir.path()).problems.to_string();
    }
}

#[test]
fn deep_nesting_does_not_overflow_the_stack() {
    for text in [
        "[".repeat(50_000),
        "a = ".to_owned() + &"[".repeat(50_000),
        "a = ".to_owned() + &"{ a = ".repeat(50_000),
        "a.".repeat(50_000) + "a = 1",
    ] {
        render_everything(&text);
    }
}
