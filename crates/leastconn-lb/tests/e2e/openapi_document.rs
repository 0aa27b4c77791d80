//! `/api/v1/openapi.json` is complete: every path exists, and every response matches its
//! schema.

use leastconn_testkit::client::read_line;
use leastconn_testkit::{DEADLINE, Upstream, within};
use serde_json::{Value, json};

use crate::ctl::{SOCKET, program};
use crate::support::{CLIENT1, NO_PROBES, Running, Site, TLS, cn, entries};

/// Validates a value against the part of JSON Schema that the document uses. A field
/// without a schema is also an error.
fn validate(value: &Value, schema: &Value, root: &Value, at: &str) -> Result<(), String> {
    if let Some(to) = schema["$ref"].as_str() {
        let schema = root.pointer(&to[1..]).ok_or(to)?;
        return validate(value, schema, root, at);
    }
    for key in ["oneOf", "anyOf"] {
        if let Some(all) = schema[key].as_array() {
            let mut tried = all.iter().map(|one| validate(value, one, root, at));
            return match tried.find(Result::is_ok) {
                Some(_) => Ok(()),
                None => Err(format!("{at}: {value} matches none of {all:?}")),
            };
        }
    }
    let is = |kind: &str| match kind {
        "null" => value.is_null(),
        "string" => value.is_string(),
        "integer" => value.is_i64() || value.is_u64(),
        "number" => value.is_number(),
        "boolean" => value.is_boolean(),
        "array" => value.is_array(),
        "object" => value.is_object(),
        other => panic!("{other}"),
    };
    let typed = match &schema["type"] {
        Value::String(kind) => is(kind),
        Value::Array(kinds) => kinds.iter().any(|kind| is(kind.as_str().unwrap())),
        _ => true,
    };
    let listed = schema["enum"].as_array();
    let same = schema.get("const");
    if !typed
        || listed.is_some_and(|listed| !listed.contains(value))
        || same.is_some_and(|same| same != value)
    {
        return Err(format!("{at}: {value} does not match {schema}"));
    }
    for (n, item) in value.as_array().into_iter().flatten().enumerate() {
        validate(item, &schema["items"], root, &format!("{at}/{n}"))?;
    }
    if let (Some(fields), Some(known)) = (value.as_object(), schema["properties"].as_object()) {
        for name in schema["required"].as_array().into_iter().flatten() {
            let name = name.as_str().unwrap();
            fields
                .get(name)
                .ok_or_else(|| format!("{at} has no {name}"))?;
        }
        for (name, field) in fields {
            let schema = known.get(name).ok_or_else(|| format!("{at} has {name}"))?;
            validate(field, schema, root, &format!("{at}/{name}"))?;
        }
    }
    Ok(())
}

fn answer<'a>(document: &'a Value, path: &str, method: &str) -> &'a Value {
    &document["paths"][path][method]["responses"]["200"]["content"]["application/json"]["schema"]
}

async fn get(lb: &Running, path: &str) -> Value {
    let (status, body) = lb.http_get(&format!("/api/v1{path}")).await;
    assert_eq!(status, 200, "{path}: {body}");
    serde_json::from_str(&body).unwrap()
}

#[tokio::test]
async fn responses_match_the_openapi_document() {
    let web = Upstream::named("web1").await;
    let site = Site::new()
        .admin(SOCKET)
        .listener("main", &["upstream = \"web\"", TLS])
        .upstream("web", &[NO_PROBES], &entries(&[&web]))
        .client(
            "client1",
            &cn(CLIENT1),
            "web",
            "rate_limit = { rate = 5, burst = 9 }\nmax_conns = 7",
        );
    let lb = site.start().await;
    let document = get(&lb, "/openapi.json").await;
    let printed = program(lb.dir(), &["schema", "--api"]).await.ok();
    assert_eq!(serde_json::from_str::<Value>(&printed).unwrap(), document);

    let mut stream = lb.client(CLIENT1).connect(lb.main()).await.unwrap();
    within(DEADLINE, "the greeting", read_line(&mut stream))
        .await
        .unwrap();
    // Fail a reload, so that the optional fields are also present.
    lb.write_config("nonsense");
    let socket = ["--socket", "lb.sock"];
    let mut tested = Vec::new();
    for (args, path, code) in [
        (&["reload"][..], "/reload", 1),
        (
            &["drain", "web/web1"],
            "/servers/{upstream}/{server}/state",
            0,
        ),
        (
            &["maint", "web/web1", "--grace", "1h"],
            "/servers/{upstream}/{server}/state",
            0,
        ),
        (
            &["weight", "web/web1", "50%"],
            "/servers/{upstream}/{server}/weight",
            0,
        ),
        (&["log-level", "debug"], "/log-level", 0),
        (&["block", "--serial", "0A", "--for", "1h"], "/blocks", 0),
        (&["block", "--identity", "cn:a"], "/blocks", 0),
        (&["unblock", "--identity", "cn:a"], "/blocks/remove", 0),
        (&["kill", "--client", "nobody"], "/connections/kill", 1),
        (&["kill", "--connection", "999"], "/connections/kill", 1),
        (
            &["kill", "--client", "client1", "--server", "web/web1"],
            "/connections/kill",
            0,
        ),
    ] {
        let args = [&["ctl"], args, &socket, &["--json"]].concat();
        let output = program(lb.dir(), &args).await;
        assert_eq!(output.code, code, "{args:?}: {output:?}");
        if output.stdout.is_empty() {
            continue;
        }
        let value = serde_json::from_str(&output.stdout).unwrap();
        let form = answer(&document, path, "post");
        validate(&value, form, &document, path).unwrap_or_else(|wrong| panic!("{wrong}"));
        tested.push(path);
        for (path, methods) in document["paths"].as_object().unwrap() {
            if path == "/fleet" {
                // This balancer is not a member of a fleet.
                assert_eq!(lb.http_get("/api/v1/fleet").await.0, 404);
                continue;
            }
            // Skip `/readyz`, which has another base path and answers in plain text.
            if methods.get("get").is_some() && methods.get("servers").is_none() {
                let form = answer(&document, path, "get");
                let value = get(&lb, path).await;
                validate(&value, form, &document, path).unwrap_or_else(|wrong| panic!("{wrong}"));
            }
        }
    }
    let posts = document["paths"].as_object().unwrap().iter();
    for (path, _) in posts.filter(|(_, methods)| methods.get("post").is_some()) {
        assert!(tested.contains(&&**path), "{path} was not tested");
    }
    // Make sure that the validation can fail.
    let form = answer(&document, "/connections/kill", "post");
    for wrong in [
        json!({}),
        json!({ "killed": "1" }),
        json!({ "killed": 1, "more": 1 }),
    ] {
        validate(&wrong, form, &document, "").unwrap_err();
    }
    drop(stream);
    lb.write_config(&lb.config());
    lb.quiet().await;
}

/// The balancer is a member of a fleet whose store cannot be reached.
#[tokio::test]
async fn responses_of_a_fleet_member_match_the_openapi_document() {
    let web = Upstream::named("web1").await;
    let site = Site::new()
        .admin(SOCKET)
        .fleet("lb1", "\"unix:///nowhere/store.sock\"", "")
        .listener("main", &["upstream = \"web\"", TLS])
        .upstream("web", &[NO_PROBES], &entries(&[&web]))
        .client("client1", &cn(CLIENT1), "web", "");
    let lb = site.start().await;
    let document = get(&lb, "/openapi.json").await;
    for (args, path, code) in [
        (
            &["drain", "web/web1"][..],
            "/servers/{upstream}/{server}/state",
            1,
        ),
        (
            &["ready", "web/web1", "--here"],
            "/servers/{upstream}/{server}/state",
            0,
        ),
        (
            &["weight", "web/web1", "50%"],
            "/servers/{upstream}/{server}/weight",
            1,
        ),
        (&["kill", "--client", "client1"], "/connections/kill", 1),
        (&["block", "--serial", "0A"], "/blocks", 1),
        (&["unblock", "--serial", "0A"], "/blocks/remove", 1),
        (&["block", "--identity", "cn:a", "--here"], "/blocks", 0),
    ] {
        let args = [&["ctl"], args, &["--json"]].concat();
        let output = program(lb.dir(), &args).await;
        assert_eq!(output.code, code, "{args:?}: {output:?}");
        let is_local = output.stderr.contains("done on this balancer only");
        assert_eq!(is_local, code == 1, "{args:?}: {output:?}");
        let value: Value = serde_json::from_str(&output.stdout).unwrap();
        let has_error = value["fleet"]["error"].is_string();
        assert_eq!(has_error, code == 1, "{args:?}: {value}");
        let form = answer(&document, path, "post");
        validate(&value, form, &document, path).unwrap_or_else(|wrong| panic!("{wrong}"));
    }
    for path in ["/fleet", "/status", "/servers", "/blocks"] {
        let form = answer(&document, path, "get");
        let value = get(&lb, path).await;
        validate(&value, form, &document, path).unwrap_or_else(|wrong| panic!("{wrong}"));
    }
    let fleet = get(&lb, "/fleet").await;
    assert_eq!(fleet["state"], "cut_off", "{fleet}");
    assert_eq!(fleet["members"][0]["member"], "lb1", "{fleet}");
    let status = program(lb.dir(), &["ctl", "status"]).await.ok();
    assert!(
        status.contains("fleet          test, cut off since"),
        "{status}"
    );
    lb.quiet().await;
}
