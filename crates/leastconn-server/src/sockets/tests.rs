use tokio::net::TcpStream;

use super::*;
use crate::{
    config::{self, Access},
    snapshot::Snapshot,
    telemetry::{Telemetry, access_log::AccessLog},
};

/// A configuration with these listeners, each a name and what is bound.
fn config(listeners: &[(&str, &str)]) -> Config {
    let mut text = "[[upstream]]\nname = \"web\"\nhealth_check = { type = \"none\" }\nservers = [\"127.0.0.1:1\"]\n[[client]]\nname = \"a\"\nmatch = { source = \"0.0.0.0/0\" }\nallow = \"web\"\n".to_owned();
    for (name, bind) in listeners {
        text += &format!("[[listener]]\nname = \"{name}\"\nupstream = \"web\"\nbind = {bind}\n");
    }
    let loaded = config::load_text("test.toml", &text, std::path::Path::new("/"));
    loaded
        .unwrap_or_else(|problems| panic!("{problems}"))
        .config
}

fn context() -> Arc<ServerContext> {
    let snapshot = Snapshot::start(config(&[("main", "\"127.0.0.1:0\"")])).unwrap();
    let (log, _flusher) = AccessLog::open(&Access::Off).unwrap();
    Arc::new(ServerContext::new(snapshot, Arc::new(Telemetry::new(log))))
}

fn applied(
    sockets: &mut Sockets,
    context: &Arc<ServerContext>,
    listeners: &[(&str, &str)],
) -> (usize, usize) {
    let plan = sockets
        .plan(&config(listeners), &mut Inherited::none())
        .unwrap();
    let changes = sockets.apply(plan, context);
    (changes.opened.len(), changes.closed.len())
}

fn at(sockets: &Sockets) -> Vec<(Arc<str>, SocketAddr)> {
    sockets.addresses().now().to_vec()
}

fn names(sockets: &Sockets) -> Vec<String> {
    let all = at(sockets).into_iter();
    all.map(|(name, _)| name.to_string()).collect()
}

#[tokio::test]
async fn only_the_difference_changes() {
    let (mut sockets, context) = (Sockets::default(), context());
    let two = r#"["127.0.0.1:0", "127.0.0.1:0"]"#;
    assert_eq!(applied(&mut sockets, &context, &[("a", two)]), (2, 0));
    let before = at(&sockets);
    assert_eq!(applied(&mut sockets, &context, &[("a", two)]), (0, 0));
    assert_eq!(at(&sockets), before);
    // One less of the same: one of them stays.
    assert_eq!(
        applied(&mut sockets, &context, &[("a", "\"127.0.0.1:0\"")]),
        (0, 1)
    );
    assert_eq!(at(&sockets), before[..1]);
    // A port that the system chose is its listener's.
    assert_eq!(
        applied(&mut sockets, &context, &[("b", "\"127.0.0.1:0\"")]),
        (1, 1)
    );
    assert_eq!(names(&sockets), ["b"]);
    for task in sockets.close_all() {
        task.await.unwrap();
    }
    for (_, address) in before {
        assert!(TcpStream::connect(address).await.is_err());
    }
    assert!(!sockets.leaving().contains("a"));
}

#[tokio::test]
async fn an_address_goes_from_one_listener_to_another() {
    let (mut sockets, context) = (Sockets::default(), context());
    applied(&mut sockets, &context, &[("a", "\"127.0.0.1:0\"")]);
    let chosen = at(&sockets)[0].1;
    drop(sockets);
    let (mut sockets, fixed) = (Sockets::default(), format!("\"{chosen}\""));
    // Its task ends with its sender; the socket is free then.
    while sockets
        .plan(&config(&[("a", &fixed)]), &mut Inherited::none())
        .is_err()
    {
        tokio::task::yield_now().await;
    }
    assert_eq!(applied(&mut sockets, &context, &[("a", &fixed)]), (1, 0));
    assert_eq!(applied(&mut sockets, &context, &[("b", &fixed)]), (0, 0));
    assert_eq!(at(&sockets), [("b".into(), chosen)]);
    drop(TcpStream::connect(chosen).await.unwrap());

    // What overlaps with it cannot be had while it is there.
    let all = format!("\"0.0.0.0:{}\"", chosen.port());
    let errors = sockets
        .plan(&config(&[("b", &all)]), &mut Inherited::none())
        .unwrap_err();
    let said = errors[0].to_string();
    assert!(said.contains("needs a restart"), "{said}");
    assert!(said.contains(&chosen.to_string()), "{said}");
    assert_eq!(at(&sockets), [("b".into(), chosen)]);
}

#[tokio::test]
async fn what_a_plan_bound_is_free_again_when_it_is_dropped() {
    let (mut sockets, context) = (Sockets::default(), context());
    applied(&mut sockets, &context, &[("a", "\"127.0.0.1:0\"")]);
    let both = [("a", "\"127.0.0.1:0\""), ("b", "\"127.0.0.1:0\"")];
    let plan = sockets.plan(&config(&both), &mut Inherited::none());
    let plan = plan.unwrap();
    let [(_, Source::Kept(0)), (_, Source::New(_, address))] = plan.tcp[..] else {
        panic!("{plan:?}");
    };
    drop(TcpStream::connect(address).await.unwrap());
    drop(plan);
    assert!(TcpStream::connect(address).await.is_err());
}
