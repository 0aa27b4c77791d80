//! AMQP 0-9-1: Python's pika as client, RabbitMQ as server.

use std::{fs, process::Command};

use crate::{
    program::{self, Port, command, run},
    service::{Front, Service, TCP_PROBES, are_installed, are_long_tests_on, python_with},
    site::Certs,
};

const SCRIPT: &str = r#"
import ssl, sys, pika
balancer, ca, cert, key = sys.argv[1:]
tls = ssl.create_default_context(cafile=ca)
tls.load_cert_chain(cert, key)
parameters = pika.ConnectionParameters("localhost", int(balancer), ssl_options=pika.SSLOptions(tls, "localhost"))
with pika.BlockingConnection(parameters) as connection:
    channel = connection.channel()
    channel.queue_declare("news")
    for body in [b"hello", b"x" * 500_000]:
        channel.basic_publish("", "news", body)
        while (received := channel.basic_get("news", auto_ack=True))[0] is None: pass
        assert received[2] == body
print("done")
"#;

/// RabbitMQ's start script that does not switch to another user.
const SERVER: &str = "/usr/lib/rabbitmq/bin/rabbitmq-server";

#[tokio::test]
async fn amqp_client_exchanges_messages() {
    if !are_long_tests_on()
        || !are_installed(&[(SERVER, "rabbitmq-server"), ("epmd", "erlang-base")])
    {
        return;
    }
    let Some(python) = python_with("pika") else {
        return;
    };
    let certs = Certs::generate().await;
    let [port, distribution, mapper] = [(); 3].map(|()| Port::reserve());
    let dir = certs.dir().join("rabbitmq");
    fs::create_dir(&dir).unwrap();
    let number = |port: &Port| port.address.port().to_string();
    // RabbitMQ needs epmd. If the test did not start epmd, RabbitMQ would start it as a daemon,
    // which would outlive the test.
    let mut epmd = Command::new(program::path("epmd"));
    epmd.args(["-address", "127.0.0.1", "-port", &number(&mapper)]);
    let log = certs.dir().join("epmd.log");
    let _epmd = Service::start(epmd, mapper.address, &log).await;
    let mut server = Command::new(SERVER);
    server
        .env("HOME", &dir)
        .env("ERL_EPMD_PORT", number(&mapper))
        .env("RABBITMQ_NODENAME", "test@localhost")
        .env("RABBITMQ_NODE_IP_ADDRESS", "127.0.0.1")
        .env("RABBITMQ_NODE_PORT", number(&port))
        .env("RABBITMQ_DIST_PORT", number(&distribution))
        .env("RABBITMQ_MNESIA_BASE", &dir)
        .env("RABBITMQ_LOG_BASE", &dir)
        .env("RABBITMQ_CONFIG_FILE", dir.join("none"))
        .env("RABBITMQ_CONF_ENV_FILE", dir.join("none"))
        .env("RABBITMQ_ENABLED_PLUGINS_FILE", dir.join("plugins"));
    let log = certs.dir().join("rabbitmq.log");
    let mut server = Service::start(server, port.address, &log).await;
    let front = Front::start(certs, port.address, "", TCP_PROBES).await;
    let mut script = command(python);
    script.args(["-c", SCRIPT, &front.port()]);
    let output = run(script.args(front.files())).await.ok();
    assert_eq!(output.stdout, "done\n", "{output:?}");
    front.finish(1).await;
    server.terminate();
}
