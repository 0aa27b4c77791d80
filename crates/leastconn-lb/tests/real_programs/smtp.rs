//! SMTP with implicit TLS: curl as client, Python's aiosmtpd as server.

use std::process::Command;

use leastconn_testkit::{DEADLINE, eventually};

use crate::{
    program::{Input, Port, run_with, tool},
    service::{Front, NO_PROBES, Service, python_with},
    site::Certs,
};

#[tokio::test]
async fn smtps_client_delivers_a_message() {
    let Some(python) = python_with("aiosmtpd") else {
        return;
    };
    let certs = Certs::generate().await;
    let port = Port::reserve();
    let mut server = Command::new(python);
    server.env("PYTHONUNBUFFERED", "1");
    server.args(["-m", "aiosmtpd", "-n", "-l", &port.address.to_string()]);
    let log = certs.dir().join("smtp.log");
    let server = Service::start(server, port.address, &log).await;
    let front = Front::start(certs, port.address, "", NO_PROBES).await;
    let [ca, cert, key] = front.files();
    let mut curl = tool("curl");
    curl.args(["-q", "--silent", "--show-error", "--noproxy", "*"])
        .args(["--max-time", "20", "--cacert"])
        .arg(ca)
        .arg("--cert")
        .arg(cert)
        .arg("--key")
        .arg(key)
        .args(["--mail-from", "a@lb.com", "--mail-rcpt", "b@lb.com"])
        .args(["--upload-file", "-"])
        .arg(format!("smtps://localhost:{}", front.port()));
    let message = Input::Text(b"Subject: news\r\n\r\nhello\r\n");
    run_with(&mut curl, message).await.ok();
    let delivered = eventually(DEADLINE, || async {
        let output = server.output();
        match output.contains("Subject: news") {
            true => Ok(()),
            false => Err(output),
        }
    });
    delivered.await.unwrap();
    front.finish(1).await;
}
