use axum::body::Body;

use super::*;

const TOKEN: &str = "0123456789abcdef";

fn admin(token: Option<&str>) -> leastconn_config::Admin {
    leastconn_config::Admin {
        bind: Some("127.0.0.1:9901".parse().unwrap()),
        socket: None,
        token: token.map(|text| leastconn_config::Token::new(text.as_bytes())),
        hosts: vec!["lb.internal".to_owned()],
    }
}

fn request(method: &str, uri: &str, headers: &[(&str, &str)]) -> Request {
    let mut request = Request::builder().method(method).uri(uri);
    for (name, value) in headers {
        request = request.header(*name, *value);
    }
    let mut request = request.body(Body::empty()).unwrap();
    let from = "127.0.0.1:5".parse().unwrap();
    request.extensions_mut().insert(Caller::Address(from));
    request
}

#[test]
fn only_known_hosts_are_shown_state() {
    let ours = [
        "127.0.0.1:9901",
        "10.1.2.3",
        "[::1]:9901",
        "[::1]",
        "localhost:9901",
        "LOCALHOST",
        "localhost.",
        "a.localhost:1",
        "lb.internal:9901",
        "LB.Internal.",
    ];
    let not_ours = [
        "evil.com",
        "evil.com:9901",
        "127.0.0.1.evil.com",
        "localhost.evil.com",
        "notlocalhost",
        "xlb.internal",
        "lb.internal.evil.com",
        "user@localhost",
        "localhost@evil.com",
        "2130706433",
        "0x7f.1",
        "",
        " ",
        "::1",
        "[127.0.0.1]",
        "a b",
    ];
    for (hosts, expected) in [(&ours[..], None), (&not_ours, Some(Refused::Host))] {
        for host in hosts {
            for path in ["/", "/api/v1/status", "/other", "/metrics/", "/metrics/../"] {
                let asked = request("GET", path, &[("host", host)]);
                assert_eq!(refuse(&asked, &admin(None)), expected, "{host:?} {path}");
            }
            for path in ANY_HOST {
                let asked = request("GET", path, &[("host", host)]);
                assert_eq!(refuse(&asked, &admin(None)), None, "{host:?} {path}");
            }
        }
    }
    // HTTP/1.0 does not require `Host`, but every browser sends it.
    assert_eq!(refuse(&request("GET", "/", &[]), &admin(None)), None);
    for asked in [
        request("GET", "http://evil.com/", &[("host", "localhost")]),
        request("GET", "/", &[("host", "localhost"), ("host", "evil.com")]),
        request("POST", "/", &[("host", "evil.com")]),
    ] {
        assert_eq!(refuse(&asked, &admin(None)), Some(Refused::Host));
    }
    let mut by_socket = request("GET", "/", &[("host", "evil.com")]);
    by_socket.extensions_mut().insert(Caller::Socket(None));
    assert_eq!(refuse(&by_socket, &admin(None)), None);
    // Here only `Accept-Language` identifies a browser: it sends no `Origin` with a same-origin
    // GET, and no `Sec-Fetch-Site` without TLS.
    for language in ["de,en;q=0.5", ""] {
        let language = HeaderValue::from_static(language);
        let headers = by_socket.headers_mut();
        headers.insert(header::ACCEPT_LANGUAGE, language);
        assert_eq!(refuse(&by_socket, &admin(None)), Some(Refused::Host));
    }
}

#[test]
fn changes_need_token_json_and_same_origin() {
    let json = ("content-type", "application/json; charset=utf-8");
    let host = ("host", "127.0.0.1:9901");
    let token = ("authorization", "bearer 0123456789abcdef");
    let with = |headers: &[(&'static str, &'static str)]| {
        let mut all = vec![host, json, token];
        all.extend_from_slice(headers);
        refuse(
            &request("POST", "/api/v1/reload", &all),
            &admin(Some(TOKEN)),
        )
    };
    assert_eq!(with(&[]), None);
    // A request from the dashboard's own page.
    let own = ("origin", "http://127.0.0.1:9901");
    assert_eq!(with(&[own, ("sec-fetch-site", "same-origin")]), None);
    assert_eq!(with(&[("origin", "https://127.0.0.1:9901")]), None);
    for headers in [
        [("origin", "http://evil.com")],
        [("origin", "null")],
        [("origin", "http://127.0.0.1:9902")],
        [("origin", "http://127.0.0.1:9901.evil.com")],
        [("origin", "")],
        [("sec-fetch-site", "cross-site")],
        [("sec-fetch-site", "same-site")],
        [("sec-fetch-site", "")],
    ] {
        assert_eq!(with(&headers), Some(Refused::CrossSite), "{headers:?}");
    }
    let post = |headers: &[(&str, &str)], token| {
        refuse(&request("POST", "/api/v1/reload", headers), &admin(token))
    };
    assert_eq!(post(&[host, json, token], None), Some(Refused::NoToken));
    assert_eq!(post(&[host, json], Some(TOKEN)), Some(Refused::WrongToken));
    for wrong in [
        "Bearer 0123456789abcdeX",
        "Bearer 0123456789abcde",
        "Bearer ",
        "Bearer",
        "",
        "Basic 0123456789abcdef",
        "0123456789abcdef",
    ] {
        let refused = post(&[host, json, ("authorization", wrong)], Some(TOKEN));
        assert_eq!(refused, Some(Refused::WrongToken), "{wrong:?}");
    }
    for kind in [
        "text/plain",
        "application/x-www-form-urlencoded",
        "multipart/form-data",
        "text/plain; application/json",
        "",
    ] {
        let refused = post(&[host, token, ("content-type", kind)], Some(TOKEN));
        assert_eq!(refused, Some(Refused::NotJson), "{kind:?}");
    }
    assert_eq!(post(&[host, token], Some(TOKEN)), Some(Refused::NotJson));
    for method in ["PUT", "DELETE", "PATCH", "OPTIONS", "TRACE", "ODD"] {
        let asked = request(method, "/api/v1/reload", &[host, json]);
        assert_eq!(
            refuse(&asked, &admin(None)),
            Some(Refused::NoToken),
            "{method}"
        );
    }
}

#[test]
fn socket_restricts_only_browsers() {
    let json = ("content-type", "application/json");
    let ask = |method, headers: &[(&str, &str)]| {
        let mut asked = request(method, "/api/v1/reload", headers);
        asked.extensions_mut().insert(Caller::Socket(None));
        refuse(&asked, &admin(None))
    };
    // Requests as `curl` sends them, with and without `-d`: any host, any content type, no token.
    let form = ("content-type", "application/x-www-form-urlencoded");
    for headers in [&[][..], &[json], &[form], &[("content-type", "")]] {
        assert_eq!(ask("POST", headers), None, "{headers:?}");
        let named = [&[("host", "x")], headers].concat();
        assert_eq!(ask("POST", &named), None, "{named:?}");
    }
    // A request from the dashboard, opened through `ssh -L`.
    let (host, origin) = (
        ("host", "localhost:8080"),
        ("origin", "http://localhost:8080"),
    );
    assert_eq!(ask("POST", &[host, origin, json]), None);
    assert_eq!(ask("POST", &[host, origin]), Some(Refused::NotJson));
    assert_eq!(ask("POST", &[host, origin, form]), Some(Refused::NotJson));
    // Requests from a page of another site, with a known host name and with DNS rebinding.
    let evil = ("origin", "http://evil.com:8080");
    assert_eq!(ask("POST", &[host, evil, json]), Some(Refused::CrossSite));
    let rebound = [("host", "evil.com:8080"), evil, json];
    assert_eq!(ask("POST", &rebound), Some(Refused::Host));
    assert_eq!(
        ask("POST", &[host, json, ("sec-fetch-site", "cross-site")]),
        Some(Refused::CrossSite)
    );
}

#[test]
fn permitted_changes_depend_on_caller_and_token() {
    let address = Caller::Address("127.0.0.1:5".parse().unwrap());
    for (caller, token, expected) in [
        (Some(&Caller::Socket(None)), None, Changes::Allowed),
        (Some(&Caller::Socket(None)), Some(TOKEN), Changes::Allowed),
        (Some(&address), Some(TOKEN), Changes::WithToken),
        (Some(&address), None, Changes::SocketOnly),
        (None, None, Changes::SocketOnly),
    ] {
        assert_eq!(may_change(caller, &admin(token)), expected, "{caller:?}");
    }
}
