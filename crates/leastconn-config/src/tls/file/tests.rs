//! Files in the formats of other programs are either read, or reported with a command that
//! converts them.

use std::{
    fs,
    process::{Command, Stdio},
};

use leastconn_testkit::TestCa;
use proptest::prelude::*;
use rcgen::KeyPair;
use tempfile::TempDir;

use super::*;

/// Returns two certificates in PEM, and the same certificates in DER.
fn two() -> (String, String, Vec<CertificateDer<'static>>) {
    let [a, b] = ["First CA", "Second CA"].map(TestCa::new);
    let ders = [&a, &b].map(|ca| ca.cert().der().clone());
    (a.cert_pem(), b.cert_pem(), ders.to_vec())
}

fn parse(bytes: impl AsRef<[u8]>, wanted: Wanted) -> Result<Pem, FileError> {
    Pem::parse(bytes.as_ref().to_vec(), wanted, Path::new("file"))
}

fn error(bytes: impl AsRef<[u8]>, wanted: Wanted) -> String {
    match parse(bytes, wanted) {
        Ok(_) => panic!("no error"),
        Err(error) => format!("{}; {}", error.message, error.help.unwrap_or_default()),
    }
}

fn utf16(text: &str, to_bytes: fn(u16) -> [u8; 2]) -> Vec<u8> {
    text.encode_utf16().flat_map(to_bytes).collect()
}

#[test]
fn all_pem_variants_are_read_completely() {
    let (a, b, ders) = two();
    let bytes = |parts: &[&[u8]]| parts.concat();
    let (a_, b_) = (a.as_bytes(), b.as_bytes());
    let indented = |text: &str| {
        text.lines()
            .map(|l| format!("\t  {l}  \n"))
            .collect::<String>()
    };
    let one_line = |text: &str| text.replace('\n', "");
    let forms: Vec<(&str, Vec<u8>)> = vec![
        ("plain", bytes(&[a_, b_])),
        ("mark at the start", bytes(&[b"\xef\xbb\xbf", a_, b_])),
        ("mark in the middle", bytes(&[a_, b"\xef\xbb\xbf", b_])),
        ("joined", bytes(&[a.trim_end().as_bytes(), b_])),
        (
            "joined by blanks",
            bytes(&[a.trim_end().as_bytes(), b"  ", b_]),
        ),
        ("indented", bytes(&[a_, indented(&b).as_bytes()])),
        ("CRLF", bytes(&[a_, b.replace('\n', "\r\n").as_bytes()])),
        (
            "CR",
            bytes(&[
                a.replace('\n', "\r").as_bytes(),
                b.replace('\n', "\r").as_bytes(),
            ]),
        ),
        (
            "one line each",
            bytes(&[one_line(&a).as_bytes(), b"\n", one_line(&b).as_bytes()]),
        ),
        (
            "one line in all",
            bytes(&[one_line(&a).as_bytes(), one_line(&b).as_bytes()]),
        ),
        (
            "no-break blanks",
            bytes(&[a_, b.replace('\n', "\u{a0}\n").as_bytes()]),
        ),
        (
            "text between",
            bytes(&[b"Bag Attributes\n  x: y\n", a_, b"subject=CN = b\n\n", b_]),
        ),
        (
            "UTF-16 LE",
            utf16(&format!("\u{feff}{a}{b}"), u16::to_le_bytes),
        ),
        (
            "UTF-16 BE",
            utf16(&format!("\u{feff}{a}{b}"), u16::to_be_bytes),
        ),
        (
            "UTF-16 LE, no mark",
            utf16(&format!("{a}{b}"), u16::to_le_bytes),
        ),
        (
            "UTF-16 BE, no mark",
            utf16(&format!("{a}{b}"), u16::to_be_bytes),
        ),
        (
            "second in UTF-16 LE",
            bytes(&[a_, &utf16(&b, u16::to_le_bytes)]),
        ),
        (
            "second in UTF-16 BE",
            bytes(&[a_, &utf16(&format!("\u{feff}{b}"), u16::to_be_bytes)]),
        ),
        (
            "old label",
            bytes(&[a_, b.replace("CERTIFICATE", "X509 CERTIFICATE").as_bytes()]),
        ),
    ];
    for (form, bytes) in forms {
        match parse(&bytes, Wanted::Certificates) {
            Ok(pem) => assert_eq!(pem.certificates, ders, "{form}"),
            Err(error) => panic!("{form}: {}", error.message),
        }
    }
}

#[test]
fn key_after_parameters_or_marks_is_read() {
    let key = KeyPair::generate().unwrap();
    let pem = key.serialize_pem();
    let params = "-----BEGIN EC PARAMETERS-----\nBggqhkjOPQMBBw==\n-----END EC PARAMETERS-----\n";
    for text in [
        format!("\u{feff}{pem}"),
        format!("{params}{pem}"),
        pem.replace('\n', ""),
    ] {
        let read = parse(&text, Wanted::Key).ok().unwrap();
        assert_eq!(read.keys.len(), 1);
        assert_eq!(read.keys[0].secret_der(), key.serialized_der());
    }
}

#[test]
fn unreadable_sections_are_reported_with_their_line() {
    let (a, b, _) = two();
    let line = a.lines().count() + 1;
    let begin = "-----BEGIN CERTIFICATE-----";
    let end = "-----END CERTIFICATE-----";
    for (second, expected) in [
        (
            b.replace(end, ""),
            "the line `-----END CERTIFICATE-----` is missing",
        ),
        (
            b.replace(end, begin),
            "the line `-----END CERTIFICATE-----` is missing",
        ),
        (
            b.replace(end, "-----END X509 CRL-----"),
            "`-----END CERTIFICATE-----` is missing",
        ),
        (
            b.replace("CERTIFICATE", "PGP MESSAGE"),
            "a section `PGP MESSAGE` is neither",
        ),
        (
            b.replace("CERTIFICATE", "certificate"),
            "a section `certificate` is neither",
        ),
        (b.replace("CERTIFICATE", "PKCS7"), "this is PKCS#7"),
        (
            b.replace("CERTIFICATE", "PUBLIC KEY"),
            "this is a public key",
        ),
        (
            b.replace("CERTIFICATE", "CERTIFICATE REQUEST"),
            "this is a certificate signing request",
        ),
        (
            b.replace("CERTIFICATE-----\n", "CERTIFICATE----\n"),
            "does not end with `-----`",
        ),
        (
            b.replace(begin, "----BEGIN CERTIFICATE-----"),
            "without a matching `-----BEGIN`",
        ),
        (
            b.replace(begin, "—BEGIN CERTIFICATE—").replace(end, ""),
            "without five hyphens",
        ),
        (format!("{begin}\n{end}\n"), "there is nothing between"),
    ] {
        let actual = error(format!("{a}{second}"), Wanted::Certificates);
        assert!(actual.contains(expected), "{actual}\n expected: {expected}");
        let expected = if expected.contains("without a matching `-----BEGIN`") {
            line + second.lines().count() - 1
        } else {
            line
        };
        assert!(
            actual.starts_with(&format!("line {expected}: ")),
            "{actual}"
        );
    }
    // An error inside a section is reported with the line of the error, not with the line of
    // the section.
    let commented: String = b.lines().map(|line| format!("# {line}\n")).collect();
    let problems = error(format!("{a}{commented}"), Wanted::Certificates);
    assert!(
        problems.starts_with(&format!("line {}: ", line + 1)),
        "{problems}"
    );
    assert!(problems.contains("commented out"), "{problems}");
    let json = b.replace('\n', "\\n");
    let problems = error(format!("{a}{json}"), Wanted::Certificates);
    assert!(problems.contains("(two characters)"), "{problems}");
}

#[test]
fn errors_do_not_quote_damaged_keys() {
    let key = KeyPair::generate().unwrap().serialize_pem();
    let body: Vec<_> = key.lines().collect();
    let damaged = key.replace(body[2], &format!("{}!", body[2]));
    let problems = error(damaged, Wanted::Key);
    assert!(
        problems.starts_with("line 3: not well-formed PEM"),
        "{problems}"
    );
    for line in &body[1..body.len() - 1] {
        assert!(!problems.contains(&line[..12]), "{problems}");
    }
}

#[test]
fn files_without_pem_are_recognized() {
    for (content, expected) in [
        (&b""[..], "the file is empty"),
        (b" \r\n\t\n", "only white space"),
        (b"\xef\xbb\xbf\n", "only white space"),
        (b"<!DOCTYPE html><html>", "an HTML or XML page"),
        (b"{\"a\": 1}", "this is JSON"),
        (b"---\n- x\n", "this is YAML"),
        (b"# written manually\nca: none\n", "this is YAML"),
        (b"hello\n", "the file must be in PEM format"),
        (b"ssh-ed25519 AAAA x@y", "a public key in OpenSSH format"),
        (b"BEGIN CERTIFICATE\nxyz!\n", "five hyphens"),
        (b"PuTTY-User-Key-File-3: ssh-rsa\n", "PuTTY format"),
        (b"\xfe\xed\xfe\xed\0\0", "Java keystore"),
    ] {
        let actual = error(content, Wanted::Certificates);
        assert!(actual.contains(expected), "{actual}\n expected: {expected}");
    }
}

proptest! {
    #[test]
    fn arbitrary_pem_does_not_panic(bytes in prop::collection::vec(
        prop_oneof![
            Just(b"-----BEGIN CERTIFICATE-----".to_vec()),
            Just(b"-----END CERTIFICATE-----".to_vec()),
            Just(b"-----".to_vec()),
            Just(b"\n".to_vec()),
            Just(b"AAAA".to_vec()),
            prop::collection::vec(any::<u8>(), 0..6),
        ], 0..20)) {
        let bytes = bytes.concat();
        for wanted in [Wanted::Certificates, Wanted::Key, Wanted::Crls] {
            let begins = pem::find(&bytes, b"-----BEGIN").is_some();
            if let Ok(pem) = parse(&bytes, wanted) {
                prop_assert!(begins || wanted == Wanted::Crls);
                prop_assert!(!pem.certificates.is_empty() || wanted != Wanted::Certificates);
            }
        }
    }
}

/// A directory for running `openssl` and other tools.
struct Tools(TempDir);

impl Tools {
    fn new() -> Self {
        Self(tempfile::tempdir().unwrap())
    }

    fn run(&self, command: &str) {
        let output = Command::new("sh")
            .args(["-c", command])
            .current_dir(self.0.path())
            .stdin(Stdio::null())
            .output()
            .unwrap();
        assert!(output.status.success(), "{command}: {output:?}");
    }

    /// Reads the file, runs the command from the error, and reads the converted file.
    fn converts(&self, name: &str, wanted: Wanted, what: &str) -> Pem {
        let error = match Pem::read(&self.0.path().join(name), wanted) {
            Ok(_) => panic!("{name} was read"),
            Err(error) => error,
        };
        assert!(error.message.contains(what), "{name}: {}", error.message);
        let help = error.help.unwrap();
        let command = help.split('`').nth(1).unwrap();
        let command = if command.contains("pkcs12")
            || command.contains("pkey -in")
            || command.contains("pkcs8")
        {
            format!("{command} -passin pass:x")
        } else {
            command.to_owned()
        };
        self.run(&command);
        for suffix in ["pem", "plain"] {
            let made = self.0.path().join(format!("{name}.{suffix}"));
            if made.exists() {
                return match Pem::read(&made, wanted) {
                    Ok(pem) => pem,
                    Err(error) => panic!("{command}: {} {:?}", error.message, error.help),
                };
            }
        }
        panic!("{command} made no file")
    }
}

#[test]
fn suggested_commands_convert_the_files() {
    let tools = Tools::new();
    let ca = TestCa::new("some CA");
    let leaf = ca.leaf("x").build();
    let write = |name: &str, content: &[u8]| fs::write(tools.0.path().join(name), content).unwrap();
    write("ca.pem", ca.cert_pem().as_bytes());
    write("leaf.pem", leaf.cert_pem.as_bytes());
    write("key.pem", leaf.key_pem.as_bytes());
    write("a b.crl", ca.crl(&[]).as_bytes());
    for command in [
        "openssl crl2pkcs7 -nocrl -certfile ca.pem -out p7",
        "openssl crl2pkcs7 -nocrl -certfile ca.pem -outform DER -out p7.der",
        "openssl crl2pkcs7 -in 'a b.crl' -outform DER -out crl.p7",
        "openssl pkcs12 -export -in leaf.pem -inkey key.pem -passout pass:x -out 'store of.p12'",
        "openssl x509 -in ca.pem -outform DER -out ca.der",
        "openssl crl -in 'a b.crl' -outform DER -out crl.der",
        "openssl pkey -in key.pem -outform DER -out key.der",
        "openssl pkey -in key.pem -aes256 -passout pass:x -out encrypted.key",
        "openssl ec -in key.pem -aes256 -passout pass:x -out old.key",
        "openssl pkcs8 -topk8 -in key.pem -passout pass:x -outform DER -out encrypted.der",
        "cat ca.pem encrypted.key > both.pem",
        "base64 ca.pem > ca.b64",
        "base64 -w 0 ca.der > der.b64",
        "base64 -w 0 key.pem > key.b64",
        "base64 'store of.p12' > p12.b64",
        "openssl genrsa -traditional -out rsa.key 2048 2>&1",
        "openssl rsa -in rsa.key -outform DER -traditional -out rsa.der",
        "openssl ec -in key.pem -outform DER -out sec1.der",
        "openssl x509 -in ca.pem -trustout -addtrust serverAuth -out trusted",
        "printf 'kind: Secret\\ndata:\\n  tls.key: %s\\n  tls.crt: %s\\n' \"$(cat key.b64)\" \
         \"$(base64 -w 0 ca.pem)\" > secret.yaml",
        "printf '{\"data\": {\"tls.key\": \"%s\", \"tls.crt\": \"%s\"}}' \"$(cat key.b64)\" \
         \"$(base64 -w 0 ca.pem)\" > secret.json",
    ] {
        tools.run(command);
    }
    let certificate = |name, what| {
        let pem = tools.converts(name, Wanted::Certificates, what);
        assert_eq!(pem.certificates.len(), 1, "{name}");
        pem.certificates[0].clone()
    };
    for (name, what) in [
        ("p7", "line 1: this is PKCS#7"),
        ("p7.der", "this is PKCS#7 in DER"),
        ("ca.der", "a certificate in DER"),
        ("ca.b64", "the base64 of PEM"),
        ("der.b64", "a certificate in DER in base64"),
        ("both.pem", "also contains an encrypted private key"),
        ("secret.yaml", "a Kubernetes secret"),
        ("secret.json", "a Kubernetes secret"),
    ] {
        assert_eq!(certificate(name, what), *ca.cert().der(), "{name}");
    }
    assert_eq!(certificate("store of.p12", "PKCS#12"), *leaf.der());
    assert_eq!(certificate("p12.b64", "PKCS#12 in base64"), *leaf.der());
    for (name, what) in [
        ("store of.p12", "PKCS#12"),
        ("key.der", "a private key in DER"),
        ("encrypted.key", "line 1: the private key is encrypted"),
        ("old.key", "line 1: the private key is encrypted"),
        ("encrypted.der", "an encrypted private key in DER"),
        ("key.b64", "the base64 of PEM"),
        ("rsa.der", "a private key in DER"),
        ("sec1.der", "a private key in DER"),
        ("secret.yaml", "a Kubernetes secret"),
    ] {
        assert_eq!(
            tools.converts(name, Wanted::Key, what).keys.len(),
            1,
            "{name}"
        );
    }
    let lists = tools.converts("crl.p7", Wanted::Crls, "PKCS#7 in DER");
    assert_eq!(lists.crls.len(), 1);
    let read = |name| {
        Pem::read(&tools.0.path().join(name), Wanted::Crls)
            .ok()
            .unwrap()
    };
    assert_eq!(read("crl.der").crls, read("a b.crl").crls);
    let trusted = fs::read(tools.0.path().join("trusted")).unwrap();
    let trusted = parse(&trusted, Wanted::Certificates).ok().unwrap();
    assert_eq!(trusted.certificates, [ca.cert().der().clone()]);
}

#[test]
fn suggested_command_converts_openssh_keys() {
    let tools = Tools::new();
    for kind in ["ecdsa", "rsa", "ed25519"] {
        tools.run(&format!("ssh-keygen -q -t {kind} -N '' -f {kind}.key"));
        let name = format!("{kind}.key");
        let pem = tools.converts(&name, Wanted::Key, "a private key in OpenSSH format");
        assert_eq!(pem.keys.len(), 1);
    }
}

#[test]
fn der_mixed_with_pem_is_an_error() {
    let (a, b, ders) = two();
    let der = ders[1].as_ref();
    let cut = &der[..der.len() - 20];
    let start = format!("from byte {}", a.len() + 1);
    for (form, bytes, expected) in [
        ("behind", [a.as_bytes(), der].concat(), start.as_str()),
        ("before", [der, a.as_bytes()].concat(), "from byte 1:"),
        (
            "between",
            [a.as_bytes(), der, b"\n", b.as_bytes()].concat(),
            start.as_str(),
        ),
        (
            "cut off",
            [a.as_bytes(), cut].concat(),
            "truncated or damaged",
        ),
        (
            "two in DER",
            [ders[0].as_ref(), der].concat(),
            "and further data from byte",
        ),
    ] {
        for wanted in [Wanted::Certificates, Wanted::Key, Wanted::Crls] {
            let error = error(&bytes, wanted);
            assert!(error.contains(expected), "{form}, {wanted:?}: {error}");
        }
    }
}

#[test]
fn der_crl_may_have_trailing_white_space() {
    let ca = TestCa::new("CA");
    let read = parse(ca.crl(&[]), Wanted::Crls).ok().unwrap();
    let der = read.crls[0].to_vec();
    for end in [&b""[..], b"\n", b"\r\n", b" \n\n"] {
        let read = parse([&der[..], end].concat(), Wanted::Crls);
        assert_eq!(read.ok().unwrap().crls[0].as_ref(), der, "{end:?}");
    }
    let two = error([&der[..], b"\n", &der].concat(), Wanted::Crls);
    assert!(two.contains("and further data from byte"), "{two}");
}

#[test]
fn reading_time_is_linear_in_sections() {
    let (a, ..) = two();
    let best = |sections: usize| {
        let text = a.repeat(sections);
        let times = (0..3).map(|_| {
            let start = leastconn::net::now();
            let read = parse(&text, Wanted::Certificates).ok().unwrap();
            assert_eq!(read.certificates.len(), sections);
            start.elapsed()
        });
        times.min().unwrap().as_secs_f64()
    };
    let ratio = best(1000) / best(125);
    // With linear growth the ratio is 8, with quadratic growth 64.
    assert!(
        ratio < 24.0,
        "8 times as many sections took {ratio:.0} times as long"
    );
}
