//! Recognizes files that are not PEM, and suggests the command that converts them.

use std::path::Path;

use rustls::pki_types::pem::{PemObject, SectionKind};
use x509_parser::{
    certificate::X509Certificate,
    certification_request::X509CertificationRequest,
    der_parser::asn1_rs::{Any, Tag},
    prelude::FromDer,
};

use leastconn_tls::crl::EncodedList;

use super::{
    file_error::{FileError, Wanted, quoted},
    pem,
};

/// The base64 encoding of `-----BEGIN `.
const ENCODED_BEGIN: &[u8] = b"LS0tLS1CRUdJTi";

/// A DER structure, recognized by its first elements.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Der {
    Certificate,
    Crl,
    Request,
    Key,
    EncryptedKey,
    PublicKey,
    Pkcs7,
    Pkcs12,
    Unknown,
}

impl Der {
    /// Recognizes a DER structure. `None`: the bytes are not exactly one DER sequence.
    pub(super) fn of(bytes: &[u8]) -> Option<Self> {
        let (rest, whole) = Any::from_der(bytes).ok()?;
        if whole.tag() != Tag::Sequence || !rest.is_empty() {
            return None;
        }
        if is_whole(X509Certificate::from_der(bytes)) {
            return Some(Self::Certificate);
        }
        if EncodedList::is_crl(bytes) {
            return Some(Self::Crl);
        }
        if is_whole(X509CertificationRequest::from_der(bytes)) {
            return Some(Self::Request);
        }
        let mut content = whole.data;
        let mut tags = Vec::new();
        let mut first = None;
        while let Ok((after, element)) = Any::from_der(content) {
            tags.push(element.tag());
            first.get_or_insert(element.data);
            content = after;
        }
        const PKCS7_SIGNED: &[u8] = &[0x2a, 0x86, 0x48, 0x86, 0xf7, 0x0d, 0x01, 0x07, 0x02];
        Some(match &tags[..] {
            [Tag::Oid, ..] if first == Some(PKCS7_SIGNED) => Self::Pkcs7,
            [Tag::Integer, Tag::Sequence, ..] if first == Some(&[3]) => Self::Pkcs12,
            // A private key in PKCS #8, PKCS #1 or SEC 1.
            [Tag::Integer, Tag::Sequence, Tag::OctetString, ..]
            | [Tag::Integer, Tag::OctetString, ..] => Self::Key,
            [Tag::Integer, Tag::Integer, Tag::Integer, rest @ ..] if rest.len() >= 6 => Self::Key,
            [Tag::Sequence, Tag::OctetString] => Self::EncryptedKey,
            [Tag::Sequence, Tag::BitString] => Self::PublicKey,
            _ => Self::Unknown,
        })
    }

    const fn name(self) -> &'static str {
        match self {
            Self::Certificate => "a certificate in DER",
            Self::Crl => "a CRL in DER",
            Self::Request => "a certificate signing request in DER",
            Self::Key => "a private key in DER",
            Self::EncryptedKey => "an encrypted private key in DER",
            Self::PublicKey => "a public key in DER",
            Self::Pkcs7 => "PKCS#7 in DER",
            Self::Pkcs12 => "PKCS#12",
            Self::Unknown => "an unknown DER structure",
        }
    }

    /// The `openssl` subcommand that converts this structure to PEM, without the input and
    /// output options.
    const fn tool(self, wanted: Wanted) -> Option<&'static str> {
        Some(match (self, wanted) {
            (Self::Certificate, Wanted::Certificates) => "x509 -inform DER",
            (Self::Crl, Wanted::Crls) => "crl -inform DER",
            (Self::Key, Wanted::Key) => "pkey -inform DER",
            (Self::EncryptedKey, Wanted::Key) => "pkcs8 -inform DER",
            (Self::Pkcs7, Wanted::Certificates | Wanted::Crls) => "pkcs7 -inform DER -print_certs",
            (Self::Pkcs12, Wanted::Certificates) => "pkcs12 -nokeys",
            (Self::Pkcs12, Wanted::Key) => "pkcs12 -nocerts -nodes",
            _ => return None,
        })
    }
}

fn is_whole<T, E>(parsed: Result<(&[u8], T), E>) -> bool {
    matches!(parsed, Ok((rest, _)) if rest.is_empty())
}

/// Removes trailing white space after a single DER element. Other input is returned
/// unchanged.
pub(super) fn without_blanks_behind(bytes: &[u8]) -> &[u8] {
    match Any::from_der(bytes) {
        Ok((rest, _)) if rest.iter().all(u8::is_ascii_whitespace) => {
            &bytes[..bytes.len() - rest.len()]
        }
        _ => bytes,
    }
}

/// The error for a file that contains DER together with PEM or with more DER. Reading only
/// one part would silently drop certificates or CRLs.
///
/// Searches the whole file. A long DER sequence starts with the byte 0x30 and a byte above
/// 0x7f. This pair of bytes does not occur in PEM or in other UTF-8 text.
pub(super) fn partly_der(
    bytes: &[u8],
    has_pem: bool,
    wanted: Wanted,
    path: &Path,
) -> Option<FileError> {
    let mut at = 0;
    let (der, length) = loop {
        at += bytes.get(at..)?.windows(2).position(is_long_sequence)?;
        let from = &bytes[at..];
        if let Ok((rest, _)) = Any::from_der(from) {
            let length = from.len() - rest.len();
            match Der::of(&from[..length]) {
                None | Some(Der::Unknown) => {}
                Some(der) => break (der, length),
            }
        }
        // No complete certificate, CRL or key starts here. The first element of a certificate
        // or CRL is its signed part, which is a long sequence. Therefore a long sequence right
        // after the header indicates truncated or damaged DER.
        let inner = from.get(usize::from(from[1] & 0x7f) + 2..);
        if has_pem
            && inner.is_some_and(|inner| inner.windows(2).next().is_some_and(is_long_sequence))
        {
            return Some(
                FileError::new(format!(
                    "the file contains truncated or damaged DER besides PEM, from byte {}",
                    at + 1
                ))
                .help("remove it, or convert it to PEM"),
            );
        }
        at += 1;
    };
    if !has_pem && at > 0 {
        return None;
    }
    let what = if has_pem {
        format!(
            "the file contains {} besides PEM, from byte {}: the two cannot be mixed",
            der.name(),
            at + 1
        )
    } else {
        format!(
            "the file contains {} and further data from byte {}: a DER file contains one structure",
            der.name(),
            length + 1
        )
    };
    let from = quoted(&path.display().to_string());
    let to = quoted(&format!("{}.part.pem", path.display()));
    Some(FileError::new(what).help(match der.tool(wanted) {
        Some(tool) => format!(
            "convert that part, and join all parts in PEM: `tail -c +{} {from} | head -c {length} | \
            openssl {tool} -out {to}`",
            at + 1
        ),
        None => "put it into a separate file".to_owned(),
    }))
}

/// Whether these two bytes start a SEQUENCE of more than 127 bytes.
fn is_long_sequence(bytes: &[u8]) -> bool {
    matches!(bytes, [0x30, 0x81..=0x84])
}

/// The error for a file without PEM sections.
pub(super) fn describe(bytes: &[u8], wanted: Wanted, path: &Path) -> FileError {
    let name = path.display().to_string();
    let (from, to) = (quoted(&name), quoted(&format!("{name}.pem")));
    if bytes.is_empty() {
        return FileError::new("the file is empty");
    }
    let lacks = wanted.lacks();
    if let Some(der) = Der::of(bytes) {
        return of_der(der, wanted, &format!("-in {from} -out {to}"), "");
    }
    if let [0x30, 0x80..=0xff, ..] = bytes {
        return FileError::new(format!("{lacks}: this looks like truncated or damaged DER"))
            .help("was the file copied completely, and in binary mode?");
    }
    if bytes.starts_with(&[0xfe, 0xed, 0xfe, 0xed]) {
        return FileError::new(format!("{lacks}: this is a Java keystore")).help(format!(
            "convert it: `keytool -importkeystore -srckeystore {from} -destkeystore {} \
             -deststoretype PKCS12`, then use the result here: the next error shows how to convert it",
            quoted(&format!("{name}.p12"))
        ));
    }
    let text: Vec<u8> = bytes.iter().copied().filter(|byte| *byte != 0).collect();
    let text = text.strip_prefix(b"\xef\xbb\xbf").unwrap_or(&text);
    let text = text.strip_prefix(b"\xff\xfe").unwrap_or(text);
    let text = text.strip_prefix(b"\xfe\xff").unwrap_or(text).trim_ascii();
    if text.is_empty() {
        return FileError::new("the file contains only white space");
    }
    if text.starts_with(b"PuTTY-User-Key-File-") {
        return FileError::new(format!("{lacks}: this is a private key in PuTTY format")).help(
            format!("convert it: `puttygen {from} -O private-openssh -o {to}`"),
        );
    }
    if let Some(error) = of_base64(text, wanted, &from, &to) {
        return error;
    }
    let help = "use a file in PEM format, with `-----BEGIN` lines";
    let what = match text.first() {
        Some(b'<') => "this is an HTML or XML page, possibly from a failed download",
        Some(b'{' | b'[') => "this is JSON",
        _ if text.starts_with(b"---") || is_yaml(text) => "this is YAML",
        _ if text.starts_with(b"ssh-") || text.starts_with(b"ecdsa-") => {
            "this is a public key in OpenSSH format"
        }
        _ if pem::find(text, b"BEGIN").is_some() => {
            return FileError::new(lacks).help(
                "its first line must be `-----BEGIN …-----`, with five hyphens on each side",
            );
        }
        _ => {
            return FileError::new(lacks)
                .help("the file must be in PEM format, with `-----BEGIN` lines");
        }
    };
    FileError::new(format!("{lacks}: {what}")).help(help)
}

fn of_der(der: Der, wanted: Wanted, files: &str, before: &str) -> FileError {
    let error = FileError::new(format!("{}: this is {}", wanted.lacks(), der.name()));
    match der.tool(wanted) {
        Some(tool) => error.help(format!("convert it: `{before}openssl {tool} {files}`")),
        None => error.help("are two files mixed up?"),
    }
}

/// The error for a file that consists of base64, or that contains base64-encoded PEM like a
/// Kubernetes secret.
fn of_base64(text: &[u8], wanted: Wanted, from: &str, to: &str) -> Option<FileError> {
    let is_base64 = |byte: &u8| byte.is_ascii_alphanumeric() || matches!(byte, b'+' | b'/' | b'=');
    let is_all = text
        .iter()
        .all(|byte| is_base64(byte) || byte.is_ascii_whitespace());
    if is_all {
        let decoded = decode(text)?;
        if pem::text(&decoded).is_some() {
            return Some(
                FileError::new(format!("{}: this is the base64 of PEM", wanted.lacks()))
                    .help(format!("decode it: `base64 -d {from} > {to}`")),
            );
        }
        let der = Der::of(&decoded)?;
        return Some(if der.tool(wanted).is_some() {
            let before = format!("base64 -d {from} | ");
            let error = of_der(der, wanted, &format!("-out {to}"), &before);
            FileError {
                message: format!(
                    "{}: this is {} in base64, without `-----BEGIN` lines",
                    wanted.lacks(),
                    der.name()
                ),
                ..error
            }
        } else {
            of_der(der, wanted, "", "")
        });
    }
    let mut number = 0;
    let mut rest = text;
    let mut any = false;
    while let Some(at) = pem::find(rest, ENCODED_BEGIN) {
        any = true;
        number += 1;
        let end = rest[at..].iter().position(|byte| !is_base64(byte));
        let end = end.map_or(rest.len(), |end| at + end);
        let holds = decode(&rest[at..end]).is_some_and(|decoded| has_section(wanted, &decoded));
        if holds {
            return Some(
                FileError::new(format!(
                    "{}: this contains the base64 of PEM, as a Kubernetes secret does",
                    wanted.lacks()
                ))
                .help(format!(
                    "extract it: `grep -o 'LS0tLS1CRUdJTi[A-Za-z0-9+/=]*' {from} | sed -n \
                     {number}p | base64 -d > {to}`"
                )),
            );
        }
        rest = &rest[end..];
    }
    any.then(|| {
        FileError::new(format!(
            "{}: this contains the base64 of PEM of another kind",
            wanted.lacks()
        ))
        .help("are two files mixed up?")
    })
}

fn decode(base64: &[u8]) -> Option<Vec<u8>> {
    let mut pem = b"-----BEGIN PRIVATE KEY-----\n".to_vec();
    pem.extend(base64.iter().filter(|byte| !byte.is_ascii_whitespace()));
    pem.extend(b"\n-----END PRIVATE KEY-----\n");
    let decoded = <(SectionKind, Vec<u8>)>::from_pem_slice(&pem).ok();
    decoded.map(|(_, bytes)| bytes)
}

/// Whether the first line that is not empty or a comment has the form `key: value`.
fn is_yaml(text: &[u8]) -> bool {
    let lines = text.split(|byte| matches!(byte, b'\n' | b'\r'));
    let mut lines = lines.map(<[u8]>::trim_ascii);
    let first = lines.find(|line| !line.is_empty() && !line.starts_with(b"#"));
    first.is_some_and(|line| {
        let key = line
            .iter()
            .take_while(|byte| byte.is_ascii_alphanumeric() || matches!(byte, b'_' | b'-' | b'.'));
        let length = key.count();
        length > 0 && matches!(line[length..], [b':'] | [b':', b' ', ..])
    })
}

/// Whether the text contains a PEM section of the wanted kind.
fn has_section(wanted: Wanted, text: &[u8]) -> bool {
    let labels: &[&[u8]] = match wanted {
        Wanted::Certificates => &[b"BEGIN CERTIFICATE", b"BEGIN TRUSTED CERTIFICATE"],
        Wanted::Key => &[b"PRIVATE KEY-----"],
        Wanted::Crls => &[b"BEGIN X509 CRL"],
    };
    labels.iter().any(|label| pem::find(text, label).is_some())
}
