use std::io::Cursor;

use super::answers::{Answers, Endpoint, Given, Protocol, ask};

fn given(upstream: &str, bind: &str, client: &str) -> Given {
    let given = |text: &str| (!text.is_empty()).then(|| text.to_owned());
    Given {
        upstream: given(upstream),
        bind: given(bind),
        client: given(client),
    }
}

#[test]
fn invalid_answers_are_asked_again() {
    let mut input = Cursor::new("nonsense\n10.0.0.1:5432, 10.0.0.2:5432\n\n:5\n*\nshop\n");
    let mut output = Vec::new();
    let answers = ask(&Given::default(), &mut input, &mut output).unwrap();
    assert_eq!(answers.servers.0, ["10.0.0.1:5432", "10.0.0.2:5432"]);
    assert_eq!(answers.servers.protocol(), Protocol::Postgres);
    assert_eq!(answers.bind.authority(), "localhost:9443");
    assert_eq!(answers.client, "shop");
    let output = String::from_utf8(output).unwrap();
    assert!(
        output.contains("`nonsense` is not the address of a server"),
        "{output}"
    );
    assert!(output.contains("[localhost:9443]: "), "{output}");
    assert!(
        output.contains("`:5` is not a usable client name"),
        "{output}"
    );
}

#[test]
fn end_of_input_is_an_error() {
    let mut input = Cursor::new("10.0.0.1:80\n");
    let error = ask(&Given::default(), &mut input, &mut Vec::new()).unwrap_err();
    assert_eq!(
        error.to_string(),
        "the answers end before the last question"
    );
}

#[test]
fn given_answers_are_not_asked() {
    let given = given("web1:80,web2:80", "lb.example.com:443", "a");
    let mut output = Vec::new();
    let answers = ask(&given, &mut Cursor::new(""), &mut output).unwrap();
    assert_eq!(output, b"");
    assert_eq!(answers, Answers::without_questions(&given).unwrap());
}

#[test]
fn listen_address_follows_the_name() {
    let bind = |text: &str| -> Endpoint {
        Answers::without_questions(&given("web:80", text, ""))
            .unwrap()
            .bind
    };
    assert_eq!(bind("").bind(), "127.0.0.1:9443");
    assert_eq!(bind("lb.example.com:443").bind(), "0.0.0.0:443");
    assert_eq!(bind("10.0.0.1:443").bind(), "10.0.0.1:443");
    assert_eq!(bind("[2001:db8::1]:443").bind(), "[2001:db8::1]:443");
    assert_eq!(bind("[2001:db8::1]:443").host, "2001:db8::1");
}

#[test]
fn invalid_arguments_are_errors() {
    for (upstream, bind, client, reason) in [
        ("", "", "", "add --upstream"),
        ("web", "", "", "`web` is not the address"),
        ("web:80,web:80", "", "", "listed twice"),
        ("web:80", "lb", "", "the port is missing"),
        ("web:80", "lb:0", "", "1 to 65535"),
        ("web:80", "0.0.0.0:443", "", "clients verify this name"),
        ("web:80", "::1:443", "", "brackets"),
        ("web:80", "", "ca", "replace other files"),
        ("web:80", "", "a b", "use letters"),
        ("web:80", "", "../x", "use letters"),
    ] {
        let error = Answers::without_questions(&given(upstream, bind, client)).unwrap_err();
        let text = error.to_string();
        assert!(text.contains(reason), "{text}");
    }
}
