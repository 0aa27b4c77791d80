//! Limits and text search for long lists.

/// Default limit on the number of entries in a response.
pub const DEFAULT_LIMIT: usize = 1000;

/// Highest limit that a query may set. A response with 10,000 entries has about 5 MB, which stay in
/// memory until a slow client has received them.
const MAX_LIMIT: usize = 10_000;

pub(super) fn limit(requested: Option<usize>) -> usize {
    requested.unwrap_or(DEFAULT_LIMIT).min(MAX_LIMIT)
}

/// Returns the first `limit` items and the total number of items.
pub(super) fn page<T>(mut items: impl Iterator<Item = T>, limit: usize) -> (Vec<T>, usize) {
    let first: Vec<_> = items.by_ref().take(limit).collect();
    let total = first.len() + items.count();
    (first, total)
}

/// Whether a text contains `search`, ignoring case.
pub(super) fn contains<'a>(texts: impl IntoIterator<Item = &'a String>, search: &str) -> bool {
    let search = search.to_lowercase();
    texts
        .into_iter()
        .any(|text| text.to_lowercase().contains(&search))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn page_counts_items_beyond_the_limit() {
        assert_eq!(page(0..10, 3), (vec![0, 1, 2], 10));
        assert_eq!(page(0..2, 3), (vec![0, 1], 2));
        assert_eq!(page((0..200).filter(|n| n % 2 == 0), 3).1, 100);
        assert_eq!((limit(None), limit(Some(20_000))), (1000, 10_000));
    }

    #[test]
    fn search_ignores_case() {
        let texts = ["cn:Client1".to_owned(), "web".to_owned()];
        assert!(contains(&texts, "CLIENT") && contains(&texts, ""));
        assert!(!contains(&texts, "client2"));
    }
}
