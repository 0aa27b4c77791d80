//! Who may ask for what on the admin side.
//!
//! At the socket, the file's mode has decided, and there is no browser. (Where somebody
//! has led one there, by `ssh -L` say, it names the page that it asks for in `Origin`
//! whenever something is to be changed, and all of the following holds but the token.)
//! At the address, anybody on the machine or beyond may have come, and so may a web page
//! that somebody looks at there:
//!
//! - A page that gets a name of its own to stand for our address (DNS rebinding) says
//!   so in `Host`: what shows clients and servers answers by addresses, `localhost`
//!   and configured names only. Metrics and health answer by any: scrapers and
//!   orchestrators use names that nobody here knows, and what they see is numbers.
//! - A page can send requests whose answers it does not see (CSRF): one that changes
//!   something must bear the token, have a body declared as JSON, which no page may
//!   send elsewhere unasked, and must not say that it comes from elsewhere.

use axum::{
    extract::{Request, State},
    http::{HeaderMap, HeaderName, HeaderValue, Method, StatusCode, Uri, header},
    middleware::Next,
    response::{IntoResponse, Response},
};

use super::{api::error, serve::Caller};
use crate::{
    api::{Changes, Sight},
    config,
};

/// What is to be had by any name.
const BY_ANY_NAME: [&str; 3] = ["/healthz", "/readyz", "/metrics"];

/// What each answer says to browsers, unless it says something else itself.
const HEADERS: [(HeaderName, &str); 4] = [
    (header::X_CONTENT_TYPE_OPTIONS, "nosniff"),
    (header::CACHE_CONTROL, "no-store"),
    (
        header::CONTENT_SECURITY_POLICY,
        "default-src 'none'; frame-ancestors 'none'",
    ),
    (
        HeaderName::from_static("cross-origin-resource-policy"),
        "same-origin",
    ),
];

/// Lets a request through, or says why not.
pub(super) async fn guard(State(sight): State<Sight>, request: Request, next: Next) -> Response {
    let refused = by_settings(&sight, |admin| refuse(&request, admin));
    let mut response = match refused {
        Some(refused) => refused.into_response(),
        None => next.run(request).await,
    };
    for (name, value) in HEADERS {
        let headers = response.headers_mut();
        headers
            .entry(name)
            .or_insert(HeaderValue::from_static(value));
    }
    response
}

/// What this caller may change.
pub(super) fn changes(sight: &Sight, caller: &Caller) -> Changes {
    by_settings(sight, |admin| may_change(Some(caller), admin))
}

fn by_settings<T>(sight: &Sight, decide: impl FnOnce(&config::Admin) -> T) -> T {
    // Without its table any more, it answers what has come, as one without names.
    let nothing = config::Admin {
        bind: None,
        socket: None,
        token: None,
        hosts: Vec::new(),
    };
    let state = sight.context.snapshot();
    decide(state.config.admin.as_ref().unwrap_or(&nothing))
}

fn may_change(caller: Option<&Caller>, admin: &config::Admin) -> Changes {
    match (caller, &admin.token) {
        (Some(Caller::Socket(_)), _) => Changes::Allowed,
        // Whoever comes otherwise comes over the network.
        (_, Some(_)) => Changes::WithToken,
        (_, None) => Changes::SocketOnly,
    }
}

/// Why a request gets no answer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Refused {
    Host,
    CrossSite,
    NoToken,
    WrongToken,
    NotJson,
}

impl IntoResponse for Refused {
    fn into_response(self) -> Response {
        let (status, message) = match self {
            Self::Host => (
                StatusCode::MISDIRECTED_REQUEST,
                "this is not a name of the admin side; use its address or `localhost`, or add the name to `hosts` of [admin]",
            ),
            Self::CrossSite => (
                StatusCode::FORBIDDEN,
                "changes are not taken from pages of other sites",
            ),
            Self::NoToken => (
                StatusCode::FORBIDDEN,
                "nothing can be changed at this address; use `leastconn-lb ctl` or the admin socket, or configure a `token` in [admin]",
            ),
            Self::WrongToken => (
                StatusCode::UNAUTHORIZED,
                "that needs the token that `token` of [admin] names: `Authorization: Bearer TOKEN`",
            ),
            Self::NotJson => (
                StatusCode::UNSUPPORTED_MEDIA_TYPE,
                "what changes something needs `Content-Type: application/json`",
            ),
        };
        let mut response = error(status, message);
        if self == Self::WrongToken {
            let bearer = HeaderValue::from_static("Bearer");
            response
                .headers_mut()
                .insert(header::WWW_AUTHENTICATE, bearer);
        }
        response
    }
}

fn refuse(request: &Request, admin: &config::Admin) -> Option<Refused> {
    let changes = may_change(request.extensions().get(), admin);
    let at_socket = changes == Changes::Allowed;
    let (headers, uri) = (request.headers(), request.uri());
    let may_be_a_page = !at_socket || headers.contains_key(header::ORIGIN);
    let path_is_open = BY_ANY_NAME.contains(&uri.path());
    if may_be_a_page && !path_is_open && !is_ours(uri, headers, &admin.hosts) {
        return Some(Refused::Host);
    }
    if [Method::GET, Method::HEAD].contains(request.method()) {
        return None;
    }
    if is_cross_site(headers) {
        return Some(Refused::CrossSite);
    }
    if !at_socket {
        let Some(token) = &admin.token else {
            return Some(Refused::NoToken);
        };
        if !bearer(headers).is_some_and(|text| token.is(text)) {
            return Some(Refused::WrongToken);
        }
    }
    (may_be_a_page && !is_json(headers)).then_some(Refused::NotJson)
}

/// Whether all names that the request calls us by are ours. A browser always sends
/// one; who sends none is none.
fn is_ours(uri: &Uri, headers: &HeaderMap, hosts: &[String]) -> bool {
    let in_uri = uri.host().into_iter().map(|host| Some(host.to_owned()));
    let in_headers = headers.get_all(header::HOST).into_iter().map(|host| {
        let authority: axum::http::uri::Authority = host.to_str().ok()?.parse().ok()?;
        // `user@host` is nothing that a client sends.
        let plain = !authority.as_str().contains('@');
        plain.then(|| authority.host().to_owned())
    });
    in_uri
        .chain(in_headers)
        .all(|host| host.is_some_and(|host| is_name_of_ours(&host, hosts)))
}

fn is_name_of_ours(host: &str, hosts: &[String]) -> bool {
    let bare = host.strip_prefix('[').and_then(|h| h.strip_suffix(']'));
    let address: Result<std::net::IpAddr, _> = bare.unwrap_or(host).parse();
    if address.is_ok_and(|address| address.is_ipv6() == bare.is_some()) {
        return true;
    }
    let name = host.strip_suffix('.').unwrap_or(host).to_ascii_lowercase();
    name == "localhost" || name.ends_with(".localhost") || hosts.contains(&name)
}

/// Whether a browser says that a page of another site is behind it.
fn is_cross_site(headers: &HeaderMap) -> bool {
    let sites = headers.get_all("sec-fetch-site");
    let by_fetch = |site: &HeaderValue| !matches!(site.as_bytes(), b"same-origin" | b"none");
    if sites.into_iter().any(by_fetch) {
        return true;
    }
    let host = headers.get(header::HOST).map(HeaderValue::as_bytes);
    headers.get_all(header::ORIGIN).into_iter().any(|origin| {
        let origin = origin.as_bytes();
        let authority = [&b"http://"[..], b"https://"]
            .iter()
            .find_map(|scheme| origin.strip_prefix(*scheme));
        authority.is_none() || authority != host
    })
}

fn bearer(headers: &HeaderMap) -> Option<&[u8]> {
    let value = headers.get(header::AUTHORIZATION)?.as_bytes();
    let (scheme, token) = value.split_at_checked(b"Bearer ".len())?;
    scheme
        .eq_ignore_ascii_case(b"Bearer ")
        .then(|| token.trim_ascii())
}

fn is_json(headers: &HeaderMap) -> bool {
    let types = headers.get_all(header::CONTENT_TYPE);
    let mut essences = types.into_iter().map(|value| {
        let essence = value.as_bytes().split(|&byte| byte == b';').next();
        essence.unwrap_or_default().trim_ascii()
    });
    let first = essences.next();
    first.is_some_and(|essence| essence.eq_ignore_ascii_case(b"application/json"))
        && essences.next().is_none()
}

#[cfg(test)]
mod tests;
