//! Names of certificates in error texts. They come from the network, so they are escaped and
//! limited in number and length.

/// Maximum number of names in a text.
const MAX_NAMES: usize = 4;

/// Maximum length of a name, in characters.
const MAX_LENGTH: usize = 100;

/// Escapes a name. A long name is cut and ends with `…`.
pub(crate) fn shortened(name: &str) -> String {
    let mut characters = name.chars();
    let start: String = characters.by_ref().take(MAX_LENGTH).collect();
    let mark = if characters.next().is_some() {
        "…"
    } else {
        ""
    };
    format!("{}{mark}", start.escape_debug())
}

/// Lists the first names, and the number of the remaining names.
pub(crate) fn listed(names: impl ExactSizeIterator<Item = String>) -> String {
    let more = names.len().saturating_sub(MAX_NAMES);
    let mut listed: Vec<String> = names.take(MAX_NAMES).collect();
    if more > 0 {
        listed.push(format!("{more} more"));
    }
    listed.join(", ")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn long_names_are_cut_and_marked() {
        let exact = "x".repeat(MAX_LENGTH);
        assert_eq!(shortened(&exact), exact);
        assert_eq!(shortened(&format!("{exact}y")), format!("{exact}…"));
        assert_eq!(shortened("a\nb"), "a\\nb");
    }

    #[test]
    fn remaining_names_are_counted() {
        let names = |count: usize| listed((0..count).map(|name| name.to_string()));
        assert_eq!(names(4), "0, 1, 2, 3");
        assert_eq!(names(6), "0, 1, 2, 3, 2 more");
    }
}
