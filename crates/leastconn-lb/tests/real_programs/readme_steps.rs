use std::fs;

use leastconn_testkit::{Balancer, TempDir};

use crate::{
    nginx::Nginx,
    program::{LB, lb, replace, run, tool},
    site::{self, repository},
};

/// Language and text of each fenced code block. Further words after the language are for
/// `scripts/docs-test.py`.
fn blocks(page: &str) -> Vec<(&str, &str)> {
    let fenced = page.split("\n```").skip(1).step_by(2);
    fenced
        .filter_map(|block| block.split_once('\n'))
        .map(|(info, text)| (info.split(' ').next().unwrap_or_default(), text))
        .collect()
}

/// The commands of the README create the files that its configuration names, the client is
/// served, and `check` prints the error message that the README shows.
#[tokio::test]
async fn readme_steps_work() {
    let page = fs::read_to_string(repository().join("README.md")).unwrap();
    let blocks = blocks(&page);
    let find = |language: &str, start: &str| {
        let found = blocks
            .iter()
            .find(|(of, text)| *of == language && text.starts_with(start));
        found
            .unwrap_or_else(|| panic!("no block starts with {start}"))
            .1
    };
    let config = find("toml", "# leastconn.toml");
    let steps = find("sh", "make build");
    let curl = find("sh", "curl ");
    let mistake = find("", "error: unknown key");

    let dir = TempDir::new().unwrap();
    let path = dir.path().join("leastconn.toml");
    fs::write(&path, config).unwrap();
    let mut executed = Vec::new();
    for line in steps.lines().skip(1) {
        let words: Vec<_> = line.split('#').next().unwrap().split_whitespace().collect();
        assert_eq!(words[0], "leastconn-lb");
        if words[1] != "run" {
            run(lb(&words[1..]).current_dir(dir.path())).await.ok();
        }
        executed.push(words[1]);
    }
    assert_eq!(executed, ["pki", "pki", "pki", "check", "run"]);

    let (web1, web2) = (
        Nginx::start("webapp1", dir.path()).await,
        Nginx::start("webapp2", dir.path()).await,
    );
    let running = replace(config, "10.0.0.11:80", &web1.address().to_string());
    let running = replace(&running, "10.0.0.12:80", &web2.address().to_string());
    let running = replace(&running, "\"0.0.0.0:9443\"", "\"127.0.0.1:0\"");
    let running = replace(&running, "\"127.0.0.1:9901\"", "\"127.0.0.1:0\"");
    let running = running.replace("\"pki/", "\"../pki/") + "\n[log]\nformat = \"json\"\n";
    let conf = dir.path().join("conf");
    fs::create_dir(&conf).unwrap();
    let balancer = Balancer::start(LB, &running, conf).await.unwrap();
    let files = balancer.open_fds();
    let address = balancer.address("main").to_string();
    let mut shell = tool("bash");
    let curl = format!(
        "{} -q -sS --max-time 20 --noproxy '*'",
        replace(curl, "127.0.0.1:9443", &address).trim()
    );
    let served = run(shell.args(["-c", &curl]).current_dir(dir.path()))
        .await
        .ok();
    assert!(served.stdout.contains("webapp"), "{served:?}");
    balancer.assert_idle(files).await;
    site::stop(&balancer).await;

    let wrong = replace(config, "upstream = \"web\"", "upsteam = \"web\"");
    fs::write(&path, wrong).unwrap();
    let checked = run(lb(["check"]).current_dir(dir.path())).await;
    assert_eq!(checked.code, 2);
    assert_eq!(checked.stderr.trim(), mistake.trim());
}
