use tokio::net::TcpStream;

use leastconn_config::{Access, Config};

use super::*;
use crate::{
    process::inherited::Inherited,
    snapshot::Snapshot,
    telemetry::{Telemetry, access_log::AccessLog},
};

/// A configuration with these listeners, each given by its name and `bind`.
fn config(listeners: &[(&str, &str)]) -> Config {
    let mut text = "[[upstream]]\nname = \"web\"\nhealth_check = { type = \"none\" }\nservers = [\"127.0.0.1:1\"]\n[[client]]\nname = \"a\"\nmatch = { source = \"0.0.0.0/0\" }\nallow = \"web\"\n".to_owned();
    for (name, bind) in listeners {
        text += &format!("[[listener]]\nname = \"{name}\"\nupstream = \"web\"\nbind = {bind}\n");
    }
    let loaded = leastconn_config::load_text("test.toml", &text, std::path::Path::new("/"));
    loaded
        .unwrap_or_else(|problems| panic!("{problems}"))
        .config
}

fn context() -> Arc<ServerContext> {
    let snapshot = Snapshot::start(config(&[("main", "\"127.0.0.1:0\"")])).unwrap();
    let (log, _flusher) = AccessLog::open(&Access::Off).unwrap();
    Arc::new(ServerContext::new(snapshot, Arc::new(Telemetry::new(log))))
}

/// Applies a configuration. Returns how many sockets were opened and closed.
fn apply(
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

fn addresses(sockets: &Sockets) -> Vec<(Arc<str>, SocketAddr)> {
    sockets.addresses().now().to_vec()
}

fn names(sockets: &Sockets) -> Vec<String> {
    let all = addresses(sockets).into_iter();
    all.map(|(name, _)| name.to_string()).collect()
}

#[tokio::test]
async fn unchanged_sockets_stay_open() {
    let (mut sockets, context) = (Sockets::default(), context());
    let two = r#"["127.0.0.1:0", "127.0.0.1:0"]"#;
    assert_eq!(apply(&mut sockets, &context, &[("a", two)]), (2, 0));
    let before = addresses(&sockets);
    assert_eq!(apply(&mut sockets, &context, &[("a", two)]), (0, 0));
    assert_eq!(addresses(&sockets), before);
    // If one of two equal addresses is removed, the socket of the other stays open.
    assert_eq!(
        apply(&mut sockets, &context, &[("a", "\"127.0.0.1:0\"")]),
        (0, 1)
    );
    assert_eq!(addresses(&sockets), before[..1]);
    // A port that the kernel chose is not kept for another listener.
    assert_eq!(
        apply(&mut sockets, &context, &[("b", "\"127.0.0.1:0\"")]),
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
async fn address_moves_to_another_listener() {
    let (mut sockets, context) = (Sockets::default(), context());
    apply(&mut sockets, &context, &[("a", "\"127.0.0.1:0\"")]);
    let chosen = addresses(&sockets)[0].1;
    drop(sockets);
    let (mut sockets, fixed) = (Sockets::default(), format!("\"{chosen}\""));
    // The address is free once the task of the dropped socket has ended.
    while sockets
        .plan(&config(&[("a", &fixed)]), &mut Inherited::none())
        .is_err()
    {
        tokio::task::yield_now().await;
    }
    assert_eq!(apply(&mut sockets, &context, &[("a", &fixed)]), (1, 0));
    assert_eq!(apply(&mut sockets, &context, &[("b", &fixed)]), (0, 0));
    assert_eq!(addresses(&sockets), [("b".into(), chosen)]);
    drop(TcpStream::connect(chosen).await.unwrap());

    // An overlapping address cannot be bound at the same time.
    let all = format!("\"0.0.0.0:{}\"", chosen.port());
    let errors = sockets
        .plan(&config(&[("b", &all)]), &mut Inherited::none())
        .unwrap_err();
    let error = errors[0].to_string();
    assert!(error.contains("needs a restart"), "{error}");
    assert!(error.contains(&chosen.to_string()), "{error}");
    assert_eq!(addresses(&sockets), [("b".into(), chosen)]);
}

#[tokio::test]
async fn dropping_a_plan_frees_its_addresses() {
    let (mut sockets, context) = (Sockets::default(), context());
    apply(&mut sockets, &context, &[("a", "\"127.0.0.1:0\"")]);
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
