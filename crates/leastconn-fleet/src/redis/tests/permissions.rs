use std::time::Duration;

use leastconn_testkit::{StoreKind, StoreOptions, StoreServer};

use super::{
    failures::{full_report, report_of},
    *,
};
use crate::{
    Command, Password,
    acl::{COMMANDS, acl_rule},
};

/// The rule of user `leastconn`, without its name.
fn rule() -> String {
    let rule = acl_rule("test", "leastconn");
    rule.strip_prefix("leastconn ").unwrap().to_owned()
}

#[test]
fn cases_hold_with_the_rule() {
    for kind in StoreKind::installed() {
        // The clock of the test is read with GET.
        let rule = format!("{} +get >secret", rule());
        let real = Real::start(StoreOptions::new(kind).user("leastconn", &rule));
        for (name, case) in cases::all() {
            println!("{kind}: {name}");
            let mut real = real.empty();
            real.authenticate("leastconn", "secret");
            case(&mut Bench::new(real));
        }
    }
}

/// Uses every command of the rule.
async fn use_all(server: &StoreServer) -> Result<(), StoreError> {
    let mut fleet = settings();
    fleet.gone_after = Duration::from_millis(50);
    let mut settings = RedisSettings::new(Endpoint::Server(server.address().into()));
    settings.user = Some("leastconn".to_owned());
    settings.password = Some(Password::new("secret"));
    let mut first = Redis::new(&fleet, settings.clone());
    let mut second = Redis::new(&fleet, settings);
    first.exchange(&full_report(0)).await?;
    second.exchange(&full_report(1)).await?;
    tokio::time::sleep(Duration::from_millis(60)).await;
    // Removes the first member.
    second.exchange(&full_report(1)).await?;
    let mut report = report_of(1);
    report.commands = vec![Command::State {
        upstream: "web".to_owned(),
        server: "web1".to_owned(),
        state: "ready".to_owned(),
        grace: Duration::ZERO,
    }];
    second.exchange(&report).await?;
    second.leave(&report.member).await
}

#[tokio::test]
async fn every_command_of_the_rule_is_needed() {
    for kind in StoreKind::installed() {
        let rule = format!("{} >secret", rule());
        let options = StoreOptions::new(kind).user("leastconn", &rule);
        let server = StoreServer::start_with(options).await;
        use_all(&server).await.unwrap();
        for command in COMMANDS {
            server.command(&["FLUSHALL"]).await;
            let without = format!("-{command}");
            let with = format!("+{command}");
            server
                .command(&["ACL", "SETUSER", "leastconn", &without])
                .await;
            let error = use_all(&server).await;
            server
                .command(&["ACL", "SETUSER", "leastconn", &with])
                .await;
            let text = match error {
                Err(error) => error.to_string(),
                Ok(()) => panic!("{kind}: {command} is not needed"),
            };
            assert!(text.contains(command), "{kind}: without {command}: {text}");
            assert!(
                text.contains("fleet-acl"),
                "{kind}: without {command}: {text}"
            );
        }
    }
}

#[tokio::test]
async fn other_keys_and_channels_are_out_of_reach() {
    for kind in StoreKind::installed() {
        let rule = format!("{} >secret", rule());
        let options = StoreOptions::new(kind).user("leastconn", &rule);
        let server = StoreServer::start_with(options).await;
        let checks: [&[&str]; 3] = [
            &["HGET", "lc1:{other}:h", "v"],
            &["HGETALL", "sessions"],
            &["DEL", "lc1:{test}:m"],
        ];
        for check in checks {
            let command = [&["ACL", "DRYRUN", "leastconn"], check].concat();
            let reply = format!("{:?}", server.try_command(&command).await);
            assert!(reply.contains("no permissions"), "{check:?}: {reply}");
        }
    }
}
