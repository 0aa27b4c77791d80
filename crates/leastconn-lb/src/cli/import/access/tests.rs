use super::{
    Condition, Key, Predicate, Verdict, always, at_sni, chain, product, server_names, when,
};

fn is(key: Key, values: &[&str]) -> Condition {
    Condition::Is(predicate(key, values))
}

fn predicate(key: Key, values: &[&str]) -> Predicate {
    Predicate::new(key, values.iter().map(|&value| value.to_owned()).collect())
}

fn to(name: &str) -> Verdict {
    Verdict::To(name.to_owned())
}

fn text(list: &super::List) -> String {
    let lines: Vec<_> = list
        .iter()
        .map(|(predicate, verdict)| {
            let keys: Vec<_> = predicate
                .keys()
                .map(|(key, values)| format!("{}={}", key.name(), values.join("|")))
                .collect();
            format!("{} {verdict:?}", keys.join("&"))
        })
        .collect();
    lines.join("; ")
}

#[test]
fn negated_condition_becomes_an_exception() {
    let office = is(Key::Source, &["10.0.0.0/8"]);
    let outside = Condition::Not(Box::new(office));
    let list = when(&outside, &always(Verdict::Refuse), &always(Verdict::Accept)).unwrap();
    assert_eq!(text(&list), "source=10.0.0.0/8 Accept;  Refuse");
}

#[test]
fn conjunction_with_a_negation() {
    let condition = Condition::All(vec![
        is(Key::Cn, &["a"]),
        Condition::Not(Box::new(is(Key::Source, &["10.0.0.0/8"]))),
    ]);
    let list = when(&condition, &always(Verdict::Refuse), &always(to("web"))).unwrap();
    assert_eq!(
        text(&list),
        "cn=a&source=10.0.0.0/8 To(\"web\"); cn=a Refuse;  To(\"web\")"
    );
}

#[test]
fn contradictions_are_removed_and_networks_narrowed() {
    let a = is(Key::Cn, &["a", "b"]);
    let b = is(Key::Cn, &["b", "c"]);
    let list = when(
        &Condition::All(vec![a, b]),
        &always(Verdict::Accept),
        &always(Verdict::Refuse),
    )
    .unwrap();
    assert_eq!(text(&list), "cn=b Accept;  Refuse");
    let wide = is(Key::Source, &["10.0.0.0/8"]);
    let narrow = is(Key::Source, &["10.1.0.0/16", "192.0.2.1"]);
    let list = when(
        &Condition::All(vec![wide, narrow]),
        &always(Verdict::Accept),
        &always(Verdict::Refuse),
    )
    .unwrap();
    assert_eq!(text(&list), "source=10.1.0.0/16 Accept;  Refuse");
}

#[test]
fn inexpressible_conjunction_is_refused() {
    let condition = Condition::All(vec![is(Key::Ou, &["a"]), is(Key::Ou, &["b"])]);
    let list = when(&condition, &always(to("web")), &always(to("other"))).unwrap();
    assert_eq!(text(&list), "ou=a Refuse;  To(\"other\")");
}

#[test]
fn unknown_conditions_are_resolved_to_the_stricter_side() {
    let condition = Condition::All(vec![
        is(Key::Cn, &["a"]),
        Condition::Not(Box::new(Condition::Unknown)),
    ]);
    let reject = condition.resolved(true);
    let list = when(&reject, &always(Verdict::Refuse), &always(Verdict::Accept)).unwrap();
    assert_eq!(text(&list), "cn=a Refuse;  Accept");
    let accept = condition.resolved(false);
    let list = when(&accept, &always(Verdict::Accept), &always(Verdict::Refuse)).unwrap();
    assert_eq!(text(&list), " Refuse");
}

#[test]
fn lists_are_split_by_server_name() {
    let any = is(Key::Sni, &["*.example.com", "db.example.com"]);
    let rest = when(&any, &always(to("web")), &always(Verdict::Refuse)).unwrap();
    let list = when(&is(Key::Sni, &["db.example.com"]), &always(to("db")), &rest).unwrap();
    assert_eq!(
        server_names(&list).unwrap(),
        ["db.example.com", "*.example.com"]
    );
    assert_eq!(text(&at_sni(&list, Some("db.example.com"))), " To(\"db\")");
    assert_eq!(text(&at_sni(&list, Some("*.example.com"))), " To(\"web\")");
    assert_eq!(text(&at_sni(&list, None)), " Refuse");
}

#[test]
fn chained_lists_apply_both_rules() {
    let first = when(
        &is(Key::Source, &["192.0.2.0/24"]),
        &always(Verdict::Refuse),
        &always(Verdict::Accept),
    )
    .unwrap();
    let list = chain(&first, &Verdict::Accept, &always(to("web"))).unwrap();
    assert_eq!(text(&list), "source=192.0.2.0/24 Refuse;  To(\"web\")");
}

#[test]
fn product_keeps_the_decision_of_each_listener() {
    let a = when(
        &is(Key::Cn, &["x"]),
        &always(to("a")),
        &always(Verdict::Refuse),
    )
    .unwrap();
    let b = when(
        &is(Key::Source, &["10.0.0.0/8"]),
        &always(to("b")),
        &always(Verdict::Refuse),
    )
    .unwrap();
    let rules: Vec<_> = a
        .into_iter()
        .map(|(predicate, verdict)| (predicate, vec![verdict]))
        .collect();
    let rules = product(&rules, &b).unwrap();
    let verdicts: Vec<_> = rules.into_iter().map(|(_, verdicts)| verdicts).collect();
    assert_eq!(
        verdicts,
        [
            vec![to("a"), to("b")],
            vec![to("a"), Verdict::Refuse],
            vec![Verdict::Refuse, to("b")],
            vec![Verdict::Refuse, Verdict::Refuse],
        ]
    );
}

#[test]
fn wildcards_have_an_intersection() {
    for (key, a, b, expected) in [
        (Key::Cn, "a.*", "*.b", "cn=a.b Accept;  Refuse"),
        (Key::Sni, "a.*.*", "*.b.*", "sni=a.b.* Accept;  Refuse"),
        (Key::Cn, "a.*", "*.*.b", " Refuse"),
        // A certificate can have a name for each of them.
        (Key::Dns, "a.*", "*.b", " Refuse"),
    ] {
        let condition = Condition::All(vec![is(key, &[a]), is(key, &[b])]);
        let list = when(
            &condition,
            &always(Verdict::Accept),
            &always(Verdict::Refuse),
        )
        .unwrap();
        assert_eq!(text(&list), expected, "{a} and {b}");
    }
}

#[test]
fn server_names_that_match_two_patterns_are_decided_separately() {
    let list = vec![
        (predicate(Key::Sni, &["*.x", "a.x"]), to("one")),
        (predicate(Key::Sni, &["b.*"]), to("two")),
        (Predicate::default(), Verdict::Refuse),
    ];
    let names = server_names(&list).unwrap();
    assert_eq!(names, ["a.x", "b.x", "*.x", "b.*"]);
    assert_eq!(text(&at_sni(&list, Some("b.x"))), " To(\"one\")");
    assert_eq!(text(&at_sni(&list, Some("b.*"))), " To(\"two\")");
}
