//! `GET /`: the dashboard, a single page whose scripts and styles are part of this binary.
//! It only uses the API at the same address.
//!
//! Some of the data comes from clients, such as names in certificates and server names. The scripts
//! therefore insert data only as text, and the content security policy allows nothing but the files
//! below: no inline scripts, no strings as scripts or HTML (`require-trusted-types-for`), no other
//! origins, no framing.

use std::fmt::Write as _;

use aws_lc_rs::digest::{SHA256, digest};
use axum::{
    Router,
    http::{HeaderMap, StatusCode, header},
    response::{IntoResponse, Response},
    routing::get,
};

const POLICY: &str = "default-src 'none'; script-src 'self'; style-src 'self'; \
    connect-src 'self'; img-src data: 'self'; frame-ancestors 'none'; base-uri 'none'; \
    form-action 'none'; require-trusted-types-for 'script'; trusted-types 'none'";

const HTML: &str = "text/html; charset=utf-8";
const SCRIPT: &str = "text/javascript; charset=utf-8";
const STYLE: &str = "text/css; charset=utf-8";
const IMAGE: &str = "image/svg+xml";

/// Path, content type, content.
type File = (&'static str, &'static str, &'static [u8]);

macro_rules! files {
    ($($file:literal as $kind:ident,)+) => {
        &[$((
            concat!("/dashboard/", $file),
            $kind,
            include_bytes!(concat!("dashboard/", $file)),
        ),)+]
    };
}

const PAGE: File = ("/", HTML, include_bytes!("dashboard/index.html"));
const FILES: &[File] = files![
    "style.css" as STYLE,
    "icon.svg" as IMAGE,
    "theme.js" as SCRIPT,
    "main.js" as SCRIPT,
    "api.js" as SCRIPT,
    "certificates.js" as SCRIPT,
    "charts.js" as SCRIPT,
    "connections.js" as SCRIPT,
    "control.js" as SCRIPT,
    "clients.js" as SCRIPT,
    "dom.js" as SCRIPT,
    "fleet.js" as SCRIPT,
    "format.js" as SCRIPT,
    "head.js" as SCRIPT,
    "notice.js" as SCRIPT,
    "overview.js" as SCRIPT,
    "rates.js" as SCRIPT,
    "reasons.js" as SCRIPT,
    "refusals.js" as SCRIPT,
    "roving.js" as SCRIPT,
    "server-row.js" as SCRIPT,
    "sorting.js" as SCRIPT,
    "sparkline.js" as SCRIPT,
    "upstreams.js" as SCRIPT,
    "vendor/uPlot.iife.min.js" as SCRIPT,
    "vendor/uPlot.min.css" as STYLE,
];

/// The page at `/` and its files below `/dashboard/`.
pub fn routes<S: Clone + Send + Sync + 'static>() -> Router<S> {
    let mut router = Router::new();
    for &(path, kind, content) in [PAGE].iter().chain(FILES) {
        let tag = tag(content);
        router = router.route(
            path,
            get(async move |request: HeaderMap| respond(kind, content, &tag, &request)),
        );
    }
    router
}

/// Browsers cache the files but revalidate them each time (`no-cache`), because the balancer may
/// have been upgraded.
fn respond(kind: &'static str, content: &'static [u8], tag: &str, request: &HeaderMap) -> Response {
    let headers = [
        (header::CONTENT_TYPE, kind),
        (header::CONTENT_SECURITY_POLICY, POLICY),
        (header::X_CONTENT_TYPE_OPTIONS, "nosniff"),
        (header::X_FRAME_OPTIONS, "DENY"),
        (header::REFERRER_POLICY, "no-referrer"),
        (header::CACHE_CONTROL, "no-cache"),
        (header::ETAG, tag),
    ];
    let known = request.get_all(header::IF_NONE_MATCH).iter();
    let known = known.filter_map(|value| value.to_str().ok());
    if known
        .flat_map(|value| value.split(','))
        .any(|one| one.trim() == tag)
    {
        return (StatusCode::NOT_MODIFIED, headers).into_response();
    }
    (headers, content).into_response()
}

/// ETag of a file, derived from its content.
fn tag(content: &[u8]) -> String {
    let mut tag = String::from("\"");
    for byte in &digest(&SHA256, content).as_ref()[..8] {
        // Writing to a `String` cannot fail.
        let _ = write!(tag, "{byte:02x}");
    }
    tag + "\""
}
