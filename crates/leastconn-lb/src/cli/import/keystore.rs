//! Keystores that are no PEM files.

use super::{
    model::{Note, Place, Table, Value},
    toml::readable,
};

/// Whether the name of a file ends as those of PKCS#12 keystores do.
pub(crate) fn is_pkcs12(file: &str) -> bool {
    let ending = parts(file).1;
    matches!(ending.as_str(), "p12" | "pfx" | "pkcs12")
}

/// Returns a path without its ending, and the ending in lower case.
pub(crate) fn parts(file: &str) -> (&str, String) {
    match file.rsplit_once('.') {
        Some((stem, ending)) if !ending.contains('/') => (stem, ending.to_ascii_lowercase()),
        _ => (file, String::new()),
    }
}

/// Sets `cert` to the PEM file that `openssl` makes from a PKCS#12 keystore.
pub(crate) fn pkcs12(file: &str, place: &Place, tls: &mut Table) {
    let stem = parts(file).0;
    let pem = format!("{stem}.pem");
    let command = to_pem(&readable(file), &readable(&pem));
    tls.note(converted(place, &pem, vec![command]));
    tls.set("cert", Value::text(pem));
}

/// Returns the command that converts a PKCS#12 keystore. It asks for the password.
pub(crate) fn to_pem(file: &str, pem: &str) -> String {
    format!(
        "openssl pkcs12 -in {} -nodes -out {}",
        quoted(file),
        quoted(pem)
    )
}

/// Returns the note about a keystore that must be converted to `pem`.
pub(crate) fn converted(place: &Place, pem: &str, commands: Vec<String>) -> Note {
    let quoted: Vec<_> = commands
        .iter()
        .map(|command| format!("`{command}`"))
        .collect();
    let reason = format!(
        "the keystore is not in PEM, so `cert` is {}: before `check`, run {}. Repeat this when the \
         certificate is renewed",
        readable(pem),
        quoted.join(" and ")
    );
    place.differs(reason).with_commands(commands)
}

/// Quotes a word for the shell if needed.
pub(crate) fn quoted(word: &str) -> String {
    let is_plain = |c: char| c.is_ascii_alphanumeric() || "/._-+:@%=${}".contains(c);
    if !word.is_empty() && word.chars().all(is_plain) {
        return word.to_owned();
    }
    format!("'{}'", word.replace('\'', "'\\''"))
}

#[cfg(test)]
mod tests {
    use super::{is_pkcs12, quoted, to_pem};

    #[test]
    fn keystores_are_converted() {
        assert!(is_pkcs12("/etc/lb/server.P12") && is_pkcs12("a.pfx"));
        assert!(!is_pkcs12("a.p12/server.pem") && !is_pkcs12("server.pem"));
        let command = to_pem("/etc/lb/my server.p12", "/etc/lb/server.pem");
        let expected = "openssl pkcs12 -in '/etc/lb/my server.p12' -nodes -out /etc/lb/server.pem";
        assert_eq!(command, expected);
        assert_eq!(quoted("it's"), r"'it'\''s'");
    }
}
