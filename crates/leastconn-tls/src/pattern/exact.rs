//! Texts that are compared literally: organizational units, issuer names, public keys.

use super::PatternError;

/// A name in a certificate, compared byte by byte.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct ExactText(Box<str>);

impl ExactText {
    /// # Errors
    /// If the text is empty, has control characters, or has a `*`, which would look like a
    /// wildcard.
    pub fn parse(text: &str) -> Result<Self, PatternError> {
        if text.is_empty() {
            Err(PatternError::Empty)
        } else if text.chars().any(char::is_control) {
            Err(PatternError::ControlCharacter)
        } else if text.contains('*') {
            Err(PatternError::NoWildcards)
        } else {
            Ok(Self(text.into()))
        }
    }

    pub fn as_str(&self) -> &str {
        &self.0
    }
}

/// The SHA-256 of a `SubjectPublicKeyInfo` in DER.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Spki(Box<str>);

impl Spki {
    /// Parses 64 hexadecimal digits, optionally with a `:` after every second digit.
    ///
    /// # Errors
    /// If the text is anything else.
    pub fn parse(text: &str) -> Result<Self, PatternError> {
        let digits = if text.len() == 95 {
            let pairs = text.as_bytes().chunks(3);
            if pairs
                .clone()
                .any(|pair| !matches!(pair, [_, _] | [_, _, b':']))
            {
                return Err(PatternError::NotSpki);
            }
            text.replace(':', "")
        } else {
            text.to_owned()
        };
        if digits.len() != 64 || !digits.bytes().all(|b| b.is_ascii_hexdigit()) {
            return Err(PatternError::NotSpki);
        }
        Ok(Self(digits.to_ascii_lowercase().into()))
    }

    /// The hash as 64 hexadecimal digits in lower case.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn texts_are_kept_unchanged() {
        for text in ["Payments & Co., Büro", "*", "a*", "", "a\0"] {
            let parsed = ExactText::parse(text);
            match text {
                "*" | "a*" => assert_eq!(parsed, Err(PatternError::NoWildcards)),
                "" => assert_eq!(parsed, Err(PatternError::Empty)),
                "a\0" => assert_eq!(parsed, Err(PatternError::ControlCharacter)),
                text => assert_eq!(parsed.unwrap().as_str(), text),
            }
        }
    }

    #[test]
    fn keys_have_64_digits() {
        let digits = "0123456789abcdef".repeat(4);
        let pairs: Vec<_> = (0..32)
            .map(|n| digits[2 * n..2 * n + 2].to_owned())
            .collect();
        for text in [
            digits.clone(),
            digits.to_uppercase(),
            pairs.join(":"),
            pairs.join(":").to_uppercase(),
        ] {
            assert_eq!(Spki::parse(&text).unwrap().as_str(), digits, "{text}");
        }
        for text in [
            String::new(),
            digits[1..].to_owned(),
            format!("{digits}0"),
            format!("{}g", &digits[1..]),
            format!("sha256:{digits}"),
            pairs.join(" "),
            format!("{digits}{}", ":".repeat(31)),
            "é".repeat(32),
        ] {
            assert_eq!(Spki::parse(&text), Err(PatternError::NotSpki), "{text}");
        }
    }
}
