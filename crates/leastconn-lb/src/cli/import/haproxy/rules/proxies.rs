//! The addresses from which PROXY headers are accepted.

use super::{
    super::{
        super::access::{Key, List, Verdict},
        lexer::Line,
    },
    Evaluated,
};

/// Restricts the addresses from which PROXY headers are accepted, according to the list and the lines
/// of the stage `connection`. If that is not possible, no client may use the listener.
pub(super) fn accept_proxies(passes: &List, lines: &[Line], evaluated: &mut Evaluated) {
    let Some(((_, Verdict::Refuse), accepted)) = passes.split_last() else {
        return refuse_proxies(lines, evaluated);
    };
    let mut networks = Vec::new();
    for (predicate, verdict) in accepted {
        let sources = predicate
            .get(Key::Source)
            .filter(|_| predicate.keys().count() == 1);
        match (sources, verdict) {
            (Some(sources), Verdict::Accept) => networks.extend(sources.iter().cloned()),
            _ => return refuse_proxies(lines, evaluated),
        }
    }
    evaluated.proxies = networks;
}

fn refuse_proxies(lines: &[Line], evaluated: &mut Evaluated) {
    evaluated
        .refused
        .push("rules of the source for the addresses of proxies have no equivalent".to_owned());
    for line in lines {
        if matches!(line.word(2), "accept" | "reject" | "silent-drop") {
            evaluated.notes.push(line.place.left_out(
                "before the PROXY header, `src` is the address of the proxy. `proxy_protocol_from` \
                 can only list the proxies to accept. In the stage `session`, `src` is the address of \
                 the client",
            ));
        }
    }
}
