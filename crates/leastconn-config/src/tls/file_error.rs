//! Reasons why a file that a `tls` table names cannot be used.

/// The content that a file must have.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Wanted {
    Certificates,
    Key,
    Crls,
}

/// Why a file cannot be used.
pub(super) struct FileError {
    pub(super) message: String,
    pub(super) note: Option<String>,
    pub(super) help: Option<String>,
}

impl Wanted {
    /// The message for a file that lacks this content.
    pub(super) const fn lacks(self) -> &'static str {
        match self {
            Self::Certificates => "there is no certificate in it",
            Self::Key => "there is no private key in it",
            Self::Crls => "there is no CRL in it",
        }
    }
}

impl FileError {
    pub(super) fn new(message: impl Into<String>) -> Self {
        Self {
            message: message.into(),
            note: None,
            help: None,
        }
    }

    pub(super) fn help(self, help: impl Into<String>) -> Self {
        Self {
            help: Some(help.into()),
            ..self
        }
    }
}

/// Quotes a file name for a shell command.
pub(super) fn quoted(name: &str) -> String {
    let is_plain = |c: char| c.is_ascii_alphanumeric() || "/._-+=:@%".contains(c);
    // A leading hyphen would be parsed as an option.
    let dir = if name.starts_with('-') { "./" } else { "" };
    if !name.is_empty() && name.chars().all(is_plain) {
        format!("{dir}{name}")
    } else {
        format!("'{dir}{}'", name.replace('\'', "'\\''"))
    }
}
