//! Access control of the admin side.
//!
//! UNIX socket: the mode of the socket file decides who may connect. A browser may reach the socket
//! through a tunnel (`ssh -L`), so the rules below also apply to browsers here, except that no
//! token is needed. Browsers are recognized by their headers: they send `Accept-Language` with each
//! request and `Origin` with each change, and scripts of a page can remove neither. Other clients
//! are not restricted.
//!
//! TCP address: requests can come from any local user, from any host that can reach the address,
//! and from any web page in a browser on these hosts. Therefore:
//!
//! - DNS rebinding: a page can make its own host name resolve to this address, but the browser then
//!   sends that name in `Host`. Clients and servers are shown only if `Host` is an IP address,
//!   `localhost` or a configured name. The metrics and health endpoints accept any `Host`, because
//!   scrapers and orchestrators use arbitrary names, and the responses contain only numbers.
//! - CSRF: a page can send requests without seeing the responses. Changes therefore need the token,
//!   a JSON content type (which a page cannot send to another site without a preflight), and no
//!   `Origin` or `Sec-Fetch-Site` that shows another site.

use axum::{
    extract::{Request, State},
    http::{HeaderMap, HeaderName, HeaderValue, Method, StatusCode, Uri, header},
    middleware::Next,
    response::{IntoResponse, Response},
};

use super::{response::error, serve::Caller};
use crate::api::{ApiContext, Changes};

/// Paths that accept any `Host`.
const ANY_HOST: [&str; 3] = ["/healthz", "/readyz", "/metrics"];

/// Default headers of all responses.
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

/// Middleware that passes permitted requests on and rejects all others.
pub(super) async fn guard(State(cx): State<ApiContext>, request: Request, next: Next) -> Response {
    let refused = by_settings(&cx, |admin| refuse(&request, admin));
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

/// Returns whether this client may make changes.
pub(super) fn changes(cx: &ApiContext, caller: &Caller) -> Changes {
    by_settings(cx, |admin| may_change(Some(caller), admin))
}

fn by_settings<T>(cx: &ApiContext, decide: impl FnOnce(&leastconn_config::Admin) -> T) -> T {
    // If a reload has removed `[admin]`, check pending requests as if no host names were
    // configured.
    let nothing = leastconn_config::Admin {
        bind: None,
        socket: None,
        token: None,
        hosts: Vec::new(),
    };
    let state = cx.context.snapshot();
    decide(state.config.admin.as_ref().unwrap_or(&nothing))
}

fn may_change(caller: Option<&Caller>, admin: &leastconn_config::Admin) -> Changes {
    match (caller, &admin.token) {
        (Some(Caller::Socket(_)), _) => Changes::Allowed,
        (_, Some(_)) => Changes::WithToken,
        (_, None) => Changes::SocketOnly,
    }
}

/// Reason for rejecting a request.
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
                "unknown host name; use the IP address or `localhost`, or add the name to `hosts` of [admin]",
            ),
            Self::CrossSite => (
                StatusCode::FORBIDDEN,
                "changes from pages of other sites are rejected",
            ),
            Self::NoToken => (
                StatusCode::FORBIDDEN,
                "this address is read-only; use `leastconn-lb ctl` or the admin socket, or configure a `token` in [admin]",
            ),
            Self::WrongToken => (
                StatusCode::UNAUTHORIZED,
                "missing or wrong token: send `Authorization: Bearer TOKEN`, see `token` of [admin]",
            ),
            Self::NotJson => (
                StatusCode::UNSUPPORTED_MEDIA_TYPE,
                "changes need `Content-Type: application/json`",
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

fn refuse(request: &Request, admin: &leastconn_config::Admin) -> Option<Refused> {
    let changes = may_change(request.extensions().get(), admin);
    let at_socket = changes == Changes::Allowed;
    let (headers, uri) = (request.headers(), request.uri());
    let of_browsers = [header::ORIGIN, header::ACCEPT_LANGUAGE];
    let may_be_browser = !at_socket || of_browsers.iter().any(|name| headers.contains_key(name));
    let path_is_open = ANY_HOST.contains(&uri.path());
    if may_be_browser && !path_is_open && !has_known_host(uri, headers, &admin.hosts) {
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
    (may_be_browser && !is_json(headers)).then_some(Refused::NotJson)
}

/// Whether all host names in the request are known. A request without a host name is accepted: it
/// does not come from a browser, because browsers always send one.
pub(super) fn has_known_host(uri: &Uri, headers: &HeaderMap, hosts: &[String]) -> bool {
    let in_uri = uri.host().into_iter().map(|host| Some(host.to_owned()));
    let in_headers = headers.get_all(header::HOST).into_iter().map(|host| {
        let authority: axum::http::uri::Authority = host.to_str().ok()?.parse().ok()?;
        // No client sends `user@host`.
        let plain = !authority.as_str().contains('@');
        plain.then(|| authority.host().to_owned())
    });
    in_uri
        .chain(in_headers)
        .all(|host| host.is_some_and(|host| is_known_host(&host, hosts)))
}

fn is_known_host(host: &str, hosts: &[String]) -> bool {
    let bare = host.strip_prefix('[').and_then(|h| h.strip_suffix(']'));
    let address: Result<std::net::IpAddr, _> = bare.unwrap_or(host).parse();
    if address.is_ok_and(|address| address.is_ipv6() == bare.is_some()) {
        return true;
    }
    let name = host.strip_suffix('.').unwrap_or(host).to_ascii_lowercase();
    name == "localhost" || name.ends_with(".localhost") || hosts.contains(&name)
}

/// Whether the browser reports that the request comes from a page of another site.
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
