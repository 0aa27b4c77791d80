//! MQTT: mosquitto's clients and broker.

use std::{fs, process::Command};

use crate::{
    program::{self, Port, run, tool},
    service::{Front, Service, TCP_PROBES, are_installed},
    site::Certs,
};

#[tokio::test]
async fn mqtt_clients_publish_and_subscribe() {
    let clients = ("mosquitto_pub", "mosquitto-clients");
    if !are_installed(&[("mosquitto", "mosquitto"), clients]) {
        return;
    }
    let certs = Certs::generate().await;
    let port = Port::reserve();
    let config = certs.dir().join("mosquitto.conf");
    let lines = format!(
        "listener {} 127.0.0.1\nallow_anonymous true\npersistence false\n",
        port.address.port()
    );
    fs::write(&config, lines).unwrap();
    let mut broker = Command::new(program::path("mosquitto"));
    broker.arg("-c").arg(&config);
    let log = certs.dir().join("mosquitto.log");
    let _broker = Service::start(broker, port.address, &log).await;
    let front = Front::start(certs, port.address, "", TCP_PROBES).await;
    let client = |name: &str| {
        let [ca, cert, key] = front.files();
        let mut client = tool(name);
        client.args([
            "-h",
            "localhost",
            "-p",
            &front.port(),
            "-t",
            "news",
            "-q",
            "1",
        ]);
        client.arg("--cafile").arg(ca);
        client.arg("--cert").arg(cert).arg("--key").arg(key);
        client
    };
    // The message is retained, so that publisher and subscriber may connect in any order.
    let mut publish = client("mosquitto_pub");
    run(publish.args(["-r", "-m", "hello"])).await.ok();
    let mut subscribe = client("mosquitto_sub");
    let received = run(subscribe.args(["-C", "1", "-W", "20"])).await.ok();
    assert_eq!(received.stdout, "hello\n");
    front.finish(2).await;
}
