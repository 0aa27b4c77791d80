//! Escapes text from clients for logs and terminals: hidden and control characters are
//! escaped, and the length is bounded.

use std::borrow::Cow;

/// Maximum length of a field in bytes, unless the caller needs a shorter one.
pub const MAX_FIELD: usize = 1024;

/// Invisible characters, as inclusive ranges: Unicode's `Default_Ignorable_Code_Point`,
/// general category Cf (format), and line and paragraph separators.
const INVISIBLE: [(char, char); 30] = [
    ('\u{ad}', '\u{ad}'),
    ('\u{34f}', '\u{34f}'),
    ('\u{600}', '\u{605}'),
    ('\u{61c}', '\u{61c}'),
    ('\u{6dd}', '\u{6dd}'),
    ('\u{70f}', '\u{70f}'),
    ('\u{890}', '\u{891}'),
    ('\u{8e2}', '\u{8e2}'),
    ('\u{115f}', '\u{1160}'),
    ('\u{17b4}', '\u{17b5}'),
    ('\u{180b}', '\u{180f}'),
    ('\u{200b}', '\u{200f}'),
    ('\u{2028}', '\u{202e}'),
    ('\u{2060}', '\u{206f}'),
    ('\u{2800}', '\u{2800}'),
    ('\u{3164}', '\u{3164}'),
    ('\u{fe00}', '\u{fe0f}'),
    ('\u{feff}', '\u{feff}'),
    ('\u{ffa0}', '\u{ffa0}'),
    ('\u{fff0}', '\u{fffb}'),
    ('\u{110bd}', '\u{110bd}'),
    ('\u{110cd}', '\u{110cd}'),
    ('\u{13430}', '\u{1343f}'),
    ('\u{1bca0}', '\u{1bca3}'),
    ('\u{1d173}', '\u{1d17a}'),
    ('\u{e0000}', '\u{e0fff}'),
    // Private use: the appearance of these characters depends on the font.
    ('\u{e000}', '\u{f8ff}'),
    ('\u{f0000}', '\u{ffffd}'),
    ('\u{100000}', '\u{10fffd}'),
    // Noncharacters, except those at the end of each plane.
    ('\u{fdd0}', '\u{fdef}'),
];

/// Whether a character is invisible, or changes how its neighbours are displayed.
pub fn is_hidden(character: char) -> bool {
    // Fast path, because most text is ASCII.
    if character.is_ascii() {
        return character.is_ascii_control();
    }
    let in_range = |(first, last): &(char, char)| (*first..=*last).contains(&character);
    // The last two characters of each plane are noncharacters: U+FFFE, U+FFFF, U+1FFFE...
    let ends_plane = u32::from(character) & 0xfffe == 0xfffe;
    character.is_control() || ends_plane || INVISIBLE.iter().any(in_range)
}

/// Escapes hidden characters (`\u{202e}`).
pub fn visible(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    for character in text.chars() {
        if is_hidden(character) {
            out.extend(character.escape_unicode());
        } else {
            out.push(character);
        }
    }
    out
}

/// Escapes hidden characters and truncates the text to 1 KiB. A truncated text ends with the
/// length of the original text.
pub fn escape(text: &str) -> String {
    escaped(text, MAX_FIELD).into_owned()
}

/// Like [`escape`], but copies the text only if it changes, and truncates it to `longest` bytes,
/// which must be at least 64.
pub fn escaped(text: &str, longest: usize) -> Cow<'_, str> {
    if text.len() <= longest && !text.chars().any(is_hidden) {
        return text.into();
    }
    let mark = format!("…[cut, {} bytes]", text.len());
    let room = longest.saturating_sub(mark.len());
    let mut out = String::new();
    let mut is_complete = true;
    for character in text.chars() {
        if is_hidden(character) {
            out.extend(character.escape_unicode());
        } else {
            out.push(character);
        }
        if out.len() > longest {
            is_complete = false;
            break;
        }
    }
    if !is_complete {
        out.truncate(floor_escape_boundary(&out, room));
        out += &mark;
    }
    out.into()
}

/// The largest index up to `end` at which `text` can be cut without splitting a character or an
/// escape sequence.
pub fn floor_escape_boundary(text: &str, end: usize) -> usize {
    /// Length of `\u{10ffff}`.
    const LONGEST: usize = 10;
    let end = text.floor_char_boundary(end);
    let start = text.floor_char_boundary(end.saturating_sub(LONGEST - 1));
    let Some(backslash) = text[start..end].rfind('\\') else {
        return end;
    };
    let start = start + backslash;
    match escape_length(&text[start..]) {
        Some(length) if start + length > end => start,
        _ => end,
    }
}

/// The length of the escape sequence at the start of `text`.
fn escape_length(text: &str) -> Option<usize> {
    let (digits, _) = text.strip_prefix("\\u{")?.split_once('}')?;
    let is_escape =
        (1..=6).contains(&digits.len()) && digits.bytes().all(|b| b.is_ascii_hexdigit());
    is_escape.then(|| digits.len() + "\\u{}".len())
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn invisible_characters_are_escaped() {
        for hidden in [
            '\u{2060}',
            '\u{ad}',
            '\u{180e}',
            '\u{3164}',
            '\u{e0041}',
            '\u{202e}',
            '\u{61c}',
            '\u{200b}',
            '\u{2028}',
            '\u{2069}',
            '\u{feff}',
            '\u{fff9}',
            '\u{9b}',
            '\n',
            '\u{7f}',
            '\u{fe0f}',
            '\u{115f}',
            '\u{34f}',
            '\u{1d173}',
            '\u{e000}',
            '\u{ffff}',
            '\u{3fffe}',
            '\u{10ffff}',
        ] {
            let escaped = escape(&format!("a{hidden}b"));
            assert_eq!(escaped, format!("a{}b", hidden.escape_unicode()));
        }
        let fine = "\"quotes\" \\ B\u{fc}ro \u{6f22} {\"a\":1} \u{1f600}";
        assert_eq!(escape(fine), fine);
    }

    #[test]
    fn long_text_is_cut_and_marked() {
        let exact = "x".repeat(MAX_FIELD);
        assert_eq!(escape(&exact), exact);
        let long = "x".repeat(58_000);
        let escaped = escape(&long);
        assert_eq!(escaped.len(), MAX_FIELD);
        assert!(escaped.ends_with("x…[cut, 58000 bytes]"));
        // The escaped text has exactly the maximum length.
        let escaped = escape(&format!("{}\u{2060}", "x".repeat(MAX_FIELD - 8)));
        assert!(escaped.len() == MAX_FIELD && escaped.ends_with("x\\u{2060}"));
        // Escaping makes this text longer than the limit.
        let escaped = escape(&"\u{2060}".repeat(300));
        assert!(escaped.len() <= MAX_FIELD && escaped.ends_with("…[cut, 900 bytes]"));
        assert!(super::escaped(&long, 128).ends_with("x…[cut, 58000 bytes]"));
        assert_eq!(super::escaped(&long, 128).len(), 128);
    }

    #[test]
    fn escape_sequences_are_not_split() {
        let text = "ab\\u{202e}c";
        for end in 0..=text.len() {
            let expected = if (3..10).contains(&end) { 2 } else { end };
            assert_eq!(floor_escape_boundary(text, end), expected, "{end}");
        }
        // Not escape sequences.
        for text in ["\\u{202e", "\\u{xyz}", "\\x{20}", "\\\\\\\\"] {
            assert_eq!(floor_escape_boundary(text, 2), 2, "{text}");
        }
        assert_eq!(floor_escape_boundary("a\u{fc}b", 2), 1);
        let escaped = escape(&"\u{2060}".repeat(300));
        let cut = escaped.find('\u{2026}').unwrap();
        assert!(escaped[..cut].ends_with("\\u{2060}"), "{escaped}");
    }

    proptest! {
        #[test]
        fn escaped_text_is_visible_and_bounded(text in any::<String>()) {
            let escaped = escape(&text.repeat(40));
            prop_assert!(!escaped.chars().any(is_hidden));
            prop_assert!(escaped.len() <= MAX_FIELD);
            prop_assert!(!visible(&text).chars().any(is_hidden));
        }
    }
}
