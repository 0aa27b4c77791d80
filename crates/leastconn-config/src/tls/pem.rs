//! Reads PEM sections. Accepts common deviations from the format. Never ignores a section
//! silently.
//!
//! Files come from Windows, YAML, `cat` and clipboards: with byte order marks at the
//! start or in the middle, in UTF-16, indented, with trailing white space, with CR, LF or
//! both as line breaks, or with `-----END …-----` and `-----BEGIN …-----` on one line. All
//! of these are accepted. Any other occurrence of `-----BEGIN` is an error.

use std::borrow::Cow;

use rustls::pki_types::pem::{PemObject, SectionKind};

use super::file_error::{FileError, quoted};

const BEGIN: &[u8] = b"-----BEGIN";
const END: &[u8] = b"-----END";
const DASHES: &[u8] = b"-----";

/// Number of base64 characters that are decoded at once, a multiple of 4. The decoder needs three
/// times the memory of its text, and the text of a CRL can be many megabytes long.
const CHUNK: usize = 64 * 1024;

pub(super) struct Section {
    pub(super) kind: Kind,
    pub(super) der: Vec<u8>,
    /// The line of the `-----BEGIN`, counted from 1.
    pub(super) line: usize,
}

#[derive(Clone, Copy)]
pub(super) enum Kind {
    Certificate,
    Crl,
    Key(SectionKind),
    EncryptedKey,
    OpenSshKey,
    /// Key parameters, which `openssl ecparam` writes before the key. Ignored.
    Parameters,
}

/// Returns the text without NUL bytes (from UTF-16) and byte order marks. Returns `None` if the
/// text contains no section.
pub(super) fn text(bytes: &[u8]) -> Option<Cow<'_, [u8]>> {
    // All bytes that are replaced below are NUL or outside ASCII.
    if bytes.iter().all(|byte| matches!(byte, 1..=0x7f)) {
        return find(bytes, BEGIN).is_some().then_some(Cow::Borrowed(bytes));
    }
    let mut text = Vec::with_capacity(bytes.len());
    let mut rest = bytes;
    while let Some((&byte, after)) = rest.split_first() {
        rest = match rest {
            // UTF-8: byte order mark, zero-width space, no-break space. UTF-16: byte order
            // marks.
            [0xef, 0xbb, 0xbf, after @ ..] | [0xe2, 0x80, 0x8b, after @ ..] => after,
            [0xc2, 0xa0, after @ ..] => {
                text.push(b' ');
                after
            }
            [0 | 0xfe | 0xff, after @ ..] => after,
            _ => {
                text.push(byte);
                after
            }
        };
    }
    find(&text, BEGIN).is_some().then_some(Cow::Owned(text))
}

/// All sections of a text. `name` is the file, for the commands in errors.
///
/// # Errors
/// If a section is not well-formed, or is of a kind that is never used.
pub(super) fn sections(text: &[u8], name: &str) -> Result<Vec<Section>, FileError> {
    let mut all = Vec::new();
    let mut from = 0;
    // Count lines from the previous section: counting from the start of the file would take
    // quadratic time.
    let (mut counted, mut line) = (0, 1);
    while let Some(at) = find(&text[from..], BEGIN).map(|at| from + at) {
        stray(text, from, at)?;
        line += line_breaks(text, counted, at);
        counted = at;
        let (label, body_at) = label(text, at + BEGIN.len(), line)?;
        let mut kind = kind(&label, line, name)?;
        let (body, next) = body(text, body_at, &label, line)?;
        if find(body, b"Proc-Type:").is_some() && find(body, b"ENCRYPTED").is_some() {
            kind = Kind::EncryptedKey;
        }
        let der = match kind {
            // Do not decode the body: in the old format, headers precede the base64.
            Kind::EncryptedKey => Vec::new(),
            _ => decode(text, body, body_at, line)?,
        };
        all.push(Section {
            kind,
            der: if label == "TRUSTED CERTIFICATE" {
                without_trailer(der)
            } else {
                der
            },
            line,
        });
        from = next;
    }
    stray(text, from, text.len())?;
    Ok(all)
}

/// Returns an error if the text between two sections contains an END line, or a BEGIN line
/// without five hyphens. The first line of a section is then damaged.
fn stray(text: &[u8], from: usize, to: usize) -> Result<(), FileError> {
    let between = &text[from..to];
    if let Some(at) = find(between, END) {
        let line = line_of(text, from + at);
        return Err(FileError::new(format!(
            "line {line}: not well-formed PEM: `-----END` without a matching `-----BEGIN`"
        ))
        .help(
            "the first line of this section is missing or damaged: was the file copied completely?",
        ));
    }
    for label in [
        "BEGIN CERTIFICATE",
        "BEGIN TRUSTED CERTIFICATE",
        "BEGIN X509 CRL",
        "BEGIN PRIVATE KEY",
        "BEGIN EC PRIVATE KEY",
        "BEGIN RSA PRIVATE KEY",
    ] {
        if let Some(at) = find(between, label.as_bytes()) {
            let line = line_of(text, from + at);
            return Err(FileError::new(format!(
                "line {line}: not well-formed PEM: `{label}` without five hyphens before it"
            ))
            .help(format!("write the line as `-----{label}-----`")));
        }
    }
    Ok(())
}

/// The label of a section, and the start of its body.
fn label(text: &[u8], from: usize, line: usize) -> Result<(String, usize), FileError> {
    let rest = &text[from..];
    let first_line = rest
        .iter()
        .position(|byte| matches!(byte, b'\n' | b'\r'))
        .map_or(rest, |end| &rest[..end]);
    let Some(end) = find(first_line, DASHES) else {
        return Err(FileError::new(format!(
            "line {line}: not well-formed PEM: the line that starts with `-----BEGIN` does not \
            end with `-----`"
        ))
        .help("was the file copied with its line breaks?"));
    };
    let label = String::from_utf8_lossy(first_line[..end].trim_ascii()).into_owned();
    Ok((label, from + end + DASHES.len()))
}

fn kind(label: &str, line: usize, name: &str) -> Result<Kind, FileError> {
    Ok(match label {
        "CERTIFICATE" | "X509 CERTIFICATE" | "TRUSTED CERTIFICATE" => Kind::Certificate,
        "X509 CRL" => Kind::Crl,
        "PRIVATE KEY" => Kind::Key(SectionKind::PrivateKey),
        "RSA PRIVATE KEY" => Kind::Key(SectionKind::RsaPrivateKey),
        "EC PRIVATE KEY" => Kind::Key(SectionKind::EcPrivateKey),
        "EC PARAMETERS" | "DH PARAMETERS" | "X9.42 DH PARAMETERS" => Kind::Parameters,
        "ENCRYPTED PRIVATE KEY" => Kind::EncryptedKey,
        "OPENSSH PRIVATE KEY" => Kind::OpenSshKey,
        _ => return Err(unused(label, line, name)),
    })
}

/// The error for a section that is never used.
fn unused(label: &str, line: usize, name: &str) -> FileError {
    let (from, to) = (quoted(name), quoted(&format!("{name}.pem")));
    let known = match label {
        "PKCS7" | "PKCS #7 SIGNED DATA" | "CMS" => Some((
            "PKCS#7",
            format!("extract the certificates: `openssl pkcs7 -in {from} -print_certs -out {to}`"),
        )),
        "DSA PRIVATE KEY" => Some((
            "a DSA key, which TLS no longer supports",
            "generate a new key: `openssl ecparam -genkey -name prime256v1 -noout`".to_owned(),
        )),
        "CERTIFICATE REQUEST" | "NEW CERTIFICATE REQUEST" => Some((
            "a certificate signing request",
            "use the certificate that the authority issued for it".to_owned(),
        )),
        "PUBLIC KEY" | "RSA PUBLIC KEY" | "SSH2 PUBLIC KEY" => Some((
            "a public key",
            "use the certificate or the private key".to_owned(),
        )),
        _ => None,
    };
    match known {
        Some((what, help)) => FileError::new(format!("line {line}: this is {what}")).help(help),
        None => {
            let shown: String = label
                .chars()
                .take(40)
                .flat_map(char::escape_debug)
                .collect();
            FileError::new(format!(
                "line {line}: a section `{shown}` is neither a certificate, a private key nor a CRL"
            ))
            .help("remove it from the file")
        }
    }
}

/// The text between the BEGIN and END lines of a section, and the position after it.
fn body<'a>(
    text: &'a [u8],
    from: usize,
    label: &str,
    line: usize,
) -> Result<(&'a [u8], usize), FileError> {
    let rest = &text[from..];
    let end = find(rest, DASHES).unwrap_or(rest.len());
    let missing = || {
        let label: String = label.chars().take(40).collect();
        FileError::new(format!(
            "line {line}: not well-formed PEM: the line `-----END {label}-----` is missing"
        ))
        .help("the file is truncated: was it copied completely?")
    };
    if !rest[end..].starts_with(END) {
        return Err(missing());
    }
    let (closing, next) = self::label(text, from + end + END.len(), line).map_err(|_| missing())?;
    if closing != label {
        return Err(missing());
    }
    Ok((&rest[..end], next))
}

/// Decodes base64. Errors do not quote the text, because it may be a private key.
fn decode(text: &[u8], body: &[u8], body_at: usize, line: usize) -> Result<Vec<u8>, FileError> {
    let is_base64 = |byte: &u8| byte.is_ascii_alphanumeric() || matches!(byte, b'+' | b'/' | b'=');
    let wrong = body
        .iter()
        .position(|byte| !is_base64(byte) && !byte.is_ascii_whitespace());
    if let Some(at) = wrong {
        let line = line_of(text, body_at + at);
        let help = match body[at] {
            b'\\' => {
                "line breaks are written as `\\n` (two characters): replace them by line breaks, \
                as `printf '%b'` does"
            }
            b'#' | b';' => "remove sections that are commented out",
            b'"' | b'\'' | b',' => "remove quotes and commas around the lines",
            b':' => "remove header lines inside the section",
            _ => "was the file copied completely, and as text?",
        };
        return Err(FileError::new(format!(
            "line {line}: not well-formed PEM: the text between the `-----` lines is not base64"
        ))
        .help(help));
    }
    let not_base64 = || {
        FileError::new(format!(
            "line {line}: not well-formed PEM: the text between the `-----` lines is not base64"
        ))
        .help("was the file copied completely, and as text?")
    };
    let mut der = Vec::with_capacity(body.len() / 4 * 3);
    let mut chunk = Vec::with_capacity(CHUNK.min(body.len()) + 64);
    let mut rest = body
        .iter()
        .copied()
        .filter(|byte| !byte.is_ascii_whitespace())
        .peekable();
    while rest.peek().is_some() {
        chunk.clear();
        // The decoder of `rustls-pki-types` is constant-time, which private keys need.
        chunk.extend_from_slice(b"-----BEGIN PRIVATE KEY-----\n");
        chunk.extend(rest.by_ref().take(CHUNK));
        // Padding ends the text.
        if rest.peek().is_some() && chunk.ends_with(b"=") {
            return Err(not_base64());
        }
        chunk.extend_from_slice(b"\n-----END PRIVATE KEY-----\n");
        let (_, decoded) =
            <(SectionKind, Vec<u8>)>::from_pem_slice(&chunk).map_err(|_| not_base64())?;
        der.extend_from_slice(&decoded);
    }
    if der.is_empty() {
        return Err(FileError::new(format!(
            "line {line}: not well-formed PEM: there is nothing between the `-----` lines"
        )));
    }
    Ok(der)
}

/// Removes the trailer of OpenSSL's `TRUSTED CERTIFICATE`, which contains trust settings.
fn without_trailer(mut der: Vec<u8>) -> Vec<u8> {
    use x509_parser::der_parser::asn1_rs::{Any, FromDer};
    let rest = Any::from_der(&der).map_or(0, |(rest, _)| rest.len());
    der.truncate(der.len() - rest);
    der
}

/// The line of a position, from 1. Use this only for errors, because it counts from the start
/// of the text.
fn line_of(text: &[u8], at: usize) -> usize {
    1 + line_breaks(text, 0, at)
}

/// The number of line breaks (CR, LF or CR LF) between two positions.
fn line_breaks(text: &[u8], from: usize, to: usize) -> usize {
    let between = text[from..to].iter().zip(from..);
    let breaks = between.filter(|&(byte, position)| match byte {
        b'\n' => true,
        b'\r' => text.get(position + 1) != Some(&b'\n'),
        _ => false,
    });
    breaks.count()
}

pub(super) fn find(text: &[u8], part: &[u8]) -> Option<usize> {
    let first = *part.first()?;
    let mut from = 0;
    loop {
        from += text[from..].iter().position(|&byte| byte == first)?;
        if text[from..].starts_with(part) {
            return Some(from);
        }
        from += 1;
    }
}
