//! The syntax of names, such as those of listeners, servers, client rules and fleet members.

/// Maximum length of a name.
pub const MAX_LENGTH: usize = 64;

/// Whether names can contain this character.
pub const fn is_allowed(c: char) -> bool {
    c.is_ascii_alphanumeric() || matches!(c, '_' | '.' | '-')
}

/// Whether the text is a valid name.
pub fn is_name(text: &str) -> bool {
    (1..=MAX_LENGTH).contains(&text.len()) && text.chars().all(is_allowed)
}
