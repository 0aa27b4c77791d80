use serde_json::Value;

use crate::program::{Input, command, find, lb, run, run_with, tool};

#[tokio::test]
async fn schema_contains_every_table() {
    let text = run(&mut lb(["schema"])).await.ok().stdout;
    let schema: Value = serde_json::from_str(&text).unwrap();
    assert!(
        schema["$schema"]
            .as_str()
            .unwrap()
            .contains("json-schema.org"),
        "{schema}"
    );
    let tables = schema["properties"].as_object().unwrap();
    for table in [
        "process", "log", "admin", "listener", "upstream", "client", "defaults",
    ] {
        assert!(tables.contains_key(table), "{table} in {:?}", tables.keys());
    }
    assert_eq!(schema["additionalProperties"], false);
    // Every reference in the schema resolves.
    for reference in text.split("\"$ref\": \"#").skip(1) {
        let pointer = reference.split('"').next().unwrap();
        assert!(schema.pointer(pointer).is_some(), "{pointer}");
    }
}

#[tokio::test]
async fn shells_accept_completions() {
    for shell in ["bash", "zsh", "fish"] {
        let script = run(&mut lb(["completions", shell])).await.ok().stdout;
        for word in ["demo", "check", "healthcheck", "--config"] {
            assert!(
                script.contains(word.trim_start_matches('-')),
                "{shell}: {word}"
            );
        }
        // zsh and fish may not be installed.
        let found = match shell {
            "bash" => Some(crate::program::path("bash")),
            other => find(other),
        };
        if let Some(found) = found {
            let mut parse = command(found);
            run_with(parse.arg("-n"), Input::Text(script.as_bytes()))
                .await
                .ok();
        }
    }
    // Complete a command in bash.
    let script = run(&mut lb(["completions", "bash"])).await.ok().stdout;
    let script = script
        + "COMP_WORDS=(leastconn-lb he) COMP_CWORD=1\n\
           $(complete -p leastconn-lb | sed 's/.*-F \\([^ ]*\\).*/\\1/') leastconn-lb he leastconn-lb\n\
           echo \"${COMPREPLY[@]}\"\n";
    let text = run_with(&mut tool("bash"), Input::Text(script.as_bytes()))
        .await
        .ok();
    assert!(
        text.stdout
            .split_whitespace()
            .any(|word| word == "healthcheck"),
        "{text:?}"
    );
}

#[tokio::test]
async fn manual_pages_render() {
    let page = run(&mut lb(["man"])).await.ok().stdout;
    assert!(page.contains(".TH"), "{page}");
    let renderer = match (find("mandoc"), find("man")) {
        (Some(mandoc), _) => Some((mandoc, vec!["-Tutf8"])),
        (None, Some(man)) => Some((man, vec!["-l", "-"])),
        (None, None) => None,
    };
    if let Some((renderer, args)) = renderer {
        let mut render = command(renderer);
        render.args(args).env("MANWIDTH", "100");
        let shown = run_with(&mut render, Input::Text(page.as_bytes()))
            .await
            .ok();
        for words in [
            "NAME",
            "SYNOPSIS",
            "healthcheck",
            "EXIT STATUS",
            "SIGNALS",
            "FILES",
        ] {
            assert!(shown.stdout.contains(words), "{words}: {shown:#?}");
        }
    }

    let dir = leastconn_testkit::TempDir::new().unwrap();
    run(lb(["man", "--dir"]).arg(dir.path())).await.ok();
    // Every page that another page references exists.
    let mut named = 0;
    for entry in std::fs::read_dir(dir.path()).unwrap() {
        let text = std::fs::read_to_string(entry.unwrap().path()).unwrap();
        let text = text.replace('\\', "");
        let references = text.lines().filter_map(|line| line.strip_suffix("(1)"));
        for page in references.filter(|page| page.starts_with("leastconn-lb-")) {
            assert!(dir.path().join(format!("{page}.1")).exists(), "{page}");
            named += 1;
        }
    }
    assert!(named > 20, "{named}");
    let written = std::fs::read_to_string(dir.path().join("leastconn-lb.1")).unwrap();
    assert_eq!(written, page);
}
