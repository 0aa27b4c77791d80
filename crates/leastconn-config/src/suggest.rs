//! Suggestions for misspelled words.

/// The candidate that is most similar to `word`. `None` if every candidate differs by more
/// than one edit per three letters.
pub fn nearest<'a>(word: &str, candidates: impl IntoIterator<Item = &'a str>) -> Option<&'a str> {
    let normal = |text: &str| text.to_ascii_lowercase().replace('-', "_");
    let word = normal(word);
    // Suggest nothing for long words: computing the edit distance takes quadratic time.
    if word.len() > 256 {
        return None;
    }
    candidates
        .into_iter()
        .map(|candidate| {
            let distance = strsim::damerau_levenshtein(&word, &normal(candidate));
            (distance, candidate)
        })
        .filter(|(distance, candidate)| {
            *distance <= (candidate.chars().count().max(word.chars().count()) / 3).max(1)
                // Ignore candidates that differ in every letter.
                && *distance < candidate.chars().count()
        })
        .min_by_key(|(distance, _)| *distance)
        .map(|(_, candidate)| candidate)
}

/// The server that is most similar to `written`: `UPSTREAM/SERVER`, or only the name of a server.
/// `servers` are pairs of names.
///
/// A server whose name has other digits is another machine, and is not suggested. If `written` is an
/// address, the server may have a longer name with the same digits.
pub fn nearest_server(written: &str, servers: &[(String, String)]) -> Option<String> {
    /// The number of digits from which on a name is taken for an address, such as `10.0.0.1:80`.
    const ADDRESS: usize = 6;
    // The upstream may be missing or wrong.
    let name = written
        .rsplit_once('/')
        .map_or(written, |(_, server)| server);
    let written_digits = digits(name);
    let candidates: Vec<_> = servers
        .iter()
        .filter(|(_, server)| digits(server) == written_digits)
        .map(|(upstream, server)| (format!("{upstream}/{server}"), server.as_str()))
        .collect();
    if let Some(meant) = nearest(written, candidates.iter().map(|(full, _)| full.as_str())) {
        return Some(meant.to_owned());
    }
    let meant = nearest(name, candidates.iter().map(|(_, server)| *server));
    let found = match meant {
        Some(meant) => candidates.iter().find(|(_, server)| *server == meant),
        None if written_digits.len() >= ADDRESS => candidates.first(),
        None => None,
    };
    found.map(|(full, _)| full.clone())
}

fn digits(name: &str) -> String {
    name.chars().filter(char::is_ascii_digit).collect()
}

/// Joins words for a message: "a", "a or b", "a, b or c".
pub(crate) fn either(words: &[String]) -> String {
    match words {
        [] => String::new(),
        [one] => one.clone(),
        [most @ .., last] => format!("{} or {last}", most.join(", ")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_similar_words_are_suggested() {
        let keys = ["workers", "max_connections", "drain_timeout", "key"];
        assert_eq!(nearest("wokers", keys), Some("workers"));
        assert_eq!(nearest("max-connections", keys), Some("max_connections"));
        assert_eq!(nearest("MaxConnections", keys), Some("max_connections"));
        assert_eq!(nearest("kye", keys), Some("key"));
        assert_eq!(nearest("banana", keys), None);
        assert_eq!(nearest("x", ["a"]), None);
        assert_eq!(nearest("", keys), None);
    }

    #[test]
    fn servers_are_suggested_by_either_name() {
        let servers = [
            ("web", "web1"),
            ("billing", "bill-1"),
            ("billing", "bill-2"),
            ("db", "main.10.0.0.1-5432"),
            ("db", "10.0.0.2:5432"),
        ];
        let servers = servers.map(|(upstream, server)| (upstream.to_owned(), server.to_owned()));
        for (written, meant) in [
            ("web/wbe1", Some("web/web1")),
            ("bill2", Some("billing/bill-2")),
            ("bill-1", Some("billing/bill-1")),
            ("bililng/bill-1", Some("billing/bill-1")),
            ("x/bill-2", Some("billing/bill-2")),
            ("10.0.0.1:5432", Some("db/main.10.0.0.1-5432")),
            ("main/10.0.0.1:5432", Some("db/main.10.0.0.1-5432")),
            ("dbs/10.0.0.2:5432", Some("db/10.0.0.2:5432")),
            ("10.0.0.3:5432", None),
            ("web2", None),
            ("other/thing", None),
            ("", None),
        ] {
            assert_eq!(
                nearest_server(written, &servers).as_deref(),
                meant,
                "{written}"
            );
        }
    }
}
