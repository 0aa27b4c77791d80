use std::{
    fs,
    net::SocketAddr,
    path::Path,
    process::{Child, Command, Stdio},
};

use leastconn_testkit::{DEADLINE, eventually};

use crate::{
    curl,
    program::{self, Port, replace, run},
    site::{self, Certs, RecordLayer, Site, both_record_layers},
};

both_record_layers! {
    #[tokio::test]
    headers_from_haproxy_and_curl_are_accepted,
    #[tokio::test]
    haproxy_and_nginx_read_our_headers,
}

/// A server process. Killed when dropped.
struct Daemon(Child);

impl Daemon {
    /// Starts program `name` with the configuration `file`, and waits for its ports.
    async fn start(name: &str, args: &[&str], file: &Path, listens: &[&Port]) -> Self {
        let log = fs::File::create(file.with_extension("log")).unwrap();
        let child = Command::new(program::path(name))
            .args(args)
            .arg(file)
            .stdin(Stdio::null())
            .stdout(log.try_clone().unwrap())
            .stderr(log)
            .spawn()
            .unwrap();
        let daemon = Self(child);
        for port in listens {
            let up = eventually(DEADLINE, || async {
                let connected = tokio::net::TcpStream::connect(port.address).await;
                connected.map(drop).map_err(|error| error.to_string())
            });
            if let Err(error) = up.await {
                let log = fs::read_to_string(file.with_extension("log")).unwrap();
                panic!("{name} does not start: {error}\n{log}");
            }
        }
        daemon
    }

    async fn haproxy(dir: &Path, sections: &str, listens: &[&Port]) -> Self {
        let file = dir.join("haproxy.cfg");
        let config = format!(
            "global\n  maxconn 100\ndefaults\n  timeout connect 5s\n  timeout client 20s\n  \
             timeout server 20s\n{sections}"
        );
        fs::write(&file, config).unwrap();
        Self::start("haproxy", &["-db", "-f"], &file, listens).await
    }

    async fn nginx(dir: &Path, server: &str, port: &Port) -> Self {
        let dir = dir.join("nginx");
        fs::create_dir_all(&dir).unwrap();
        let file = dir.join("nginx.conf");
        let at = dir.display();
        // nginx runs as a single process, so that killing it leaves no child processes.
        let config = format!(
            "daemon off;\nmaster_process off;\npid {at}/pid;\nerror_log {at}/error.log;\nevents {{}}\n\
             http {{\n  client_body_temp_path {at}/t1;\n  proxy_temp_path {at}/t2;\n  \
             fastcgi_temp_path {at}/t3;\n  uwsgi_temp_path {at}/t4;\n  scgi_temp_path {at}/t5;\n  \
             access_log off;\n  default_type text/plain;\n{server}\n}}\n"
        );
        fs::write(&file, config).unwrap();
        Self::start("nginx", &["-p", &at.to_string(), "-c"], &file, &[port]).await
    }
}

impl Drop for Daemon {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

const REQUIRED: &str =
    "name = \"main\"\nproxy_protocol = \"required\"\nproxy_protocol_from = \"127.0.0.1\"";

/// The example configuration with required PROXY headers.
async fn site(layer: RecordLayer) -> Site {
    Site::start_with(|config| {
        let config = site::set_record_layer(layer, &config);
        let config = replace(&config, "name = \"main\"", REQUIRED);
        // With this interval, no health checks run during the test.
        replace(&config, "interval = \"10s\"", "interval = \"1h\"")
    })
    .await
}

/// Requests the page through the address `through`. Returns the page and curl's own
/// address.
async fn page(certs: &Certs, through: SocketAddr, more: &[&str]) -> (String, String) {
    let mut curl = curl::get(certs, through, Some("client2"));
    curl.args(["--write-out", "%{local_ip}:%{local_port}"])
        .args(more)
        .arg("https://lb.com/");
    let text = run(&mut curl).await.ok().stdout;
    let (page, own) = text.split_once('\n').unwrap();
    (page.to_owned(), own.to_owned())
}

async fn headers_from_haproxy_and_curl_are_accepted(layer: RecordLayer) {
    let site = site(layer).await;
    let ports = [Port::reserve(), Port::reserve(), Port::reserve()];
    let options = [
        "send-proxy",
        "send-proxy-v2",
        "send-proxy-v2 proxy-v2-options crc32c,unique-id,authority",
    ];
    let sections: String = ports
        .iter()
        .zip(options)
        .map(|(port, options)| {
            format!(
                "listen at{0}\n  mode tcp\n  unique-id-format %ci\n  bind {1}\n  server lb {2} {options}\n",
                port.address.port(),
                port.address,
                site.address()
            )
        })
        .collect();
    let all: Vec<&Port> = ports.iter().collect();
    let haproxy = Daemon::haproxy(site.certs.dir(), &sections, &all).await;
    // When the test waited for HAProxy to start, HAProxy opened one connection per port to
    // the balancer.
    site.balancer.wait_records(3).await;

    for port in &ports {
        let before = site.balancer.records().len();
        let (text, own) = page(&site.certs, port.address, &[]).await;
        assert_eq!(text, "webapp2");
        let record = site
            .balancer
            .wait_records(before + 1)
            .await
            .swap_remove(before);
        assert_eq!(record["outcome"], "ok", "{record}");
        assert_eq!(record["source"], own, "{record}");
        assert_eq!(record["client"], "client2", "{record}");
        let front = record["proxy"].as_str().unwrap();
        assert!(front.starts_with("127.0.0.1:") && front != own, "{record}");
    }
    drop(haproxy);

    let before = site.balancer.records().len();
    let (_, own) = page(&site.certs, site.address(), &["--haproxy-protocol"]).await;
    let record = site
        .balancer
        .wait_records(before + 1)
        .await
        .swap_remove(before);
    assert_eq!(record["outcome"], "ok", "{record}");
    assert_eq!(record["source"], own, "{record}");

    // Connect directly to the balancer, without a header.
    let before = site.balancer.records().len();
    assert_ne!(site.page("client2").await.code, 0);
    let record = site
        .balancer
        .wait_records(before + 1)
        .await
        .swap_remove(before);
    assert_eq!(record["outcome"], "handshake_failed", "{record}");
    assert_eq!(
        record["detail"],
        "expected a PROXY header, got a TLS ClientHello"
    );
    site.finish().await;
}

/// HAProxy ends its health checks before the TLS handshake.
#[tokio::test]
async fn haproxy_health_checks_with_local_headers() {
    let site = site("direct").await;
    let port = Port::reserve();
    let section = format!(
        "listen checked\n  mode http\n  bind {}\n  http-request return status 200 content-type \
         text/plain lf-string \"%[srv_is_up(checked/lb)]\\n\"\n  server lb {} send-proxy-v2 check \
         inter 100ms\n",
        port.address,
        site.address()
    );
    let haproxy = Daemon::haproxy(site.certs.dir(), &section, &[&port]).await;
    let is_refused = |record: &serde_json::Value| record["outcome"] != "ok";
    let record = site.balancer.wait_record(is_refused, DEADLINE).await;
    assert_eq!(record["outcome"], "handshake_failed", "{record}");
    assert!(record["source"].as_str().unwrap().starts_with("127.0.0.1:"));
    assert_eq!(record.get("proxy"), None, "{record}");
    // The header is complete. Only the TLS handshake is missing.
    assert!(
        !record["detail"].as_str().unwrap().contains("PROXY"),
        "{record}"
    );
    site.balancer.wait_records(5).await;
    // On a busy machine, a slow health check may have marked the server as down for a
    // moment.
    let up = eventually(DEADLINE, || async {
        let mut curl = program::tool("curl");
        curl.args(["-q", "-s", "--noproxy", "*"])
            .arg(format!("http://{}/", port.address));
        let text = run(&mut curl).await.ok().stdout;
        (text == "1\n").then_some(()).ok_or(text)
    });
    up.await.unwrap();
    drop(haproxy);
    site.finish().await;
}

async fn haproxy_and_nginx_read_our_headers(layer: RecordLayer) {
    let certs = Certs::generate().await;
    let (front, web) = (Port::reserve(), Port::reserve());
    let section = format!(
        "frontend status\n  mode http\n  bind {} accept-proxy\n  http-request return status 200 \
         content-type text/plain lf-string \
         \"%[src]:%[src_port] %[dst]:%[dst_port] %[fc_pp_authority]\\n\"\n",
        front.address
    );
    let haproxy = Daemon::haproxy(certs.dir(), &section, &[&front]).await;
    let server = format!(
        "  server {{\n    listen {} proxy_protocol;\n    set_real_ip_from 127.0.0.1;\n    \
         real_ip_header proxy_protocol;\n    location / {{ return 200 \
         \"$remote_addr:$proxy_protocol_port $proxy_protocol_server_addr:$proxy_protocol_server_port \\n\"; }}\n  }}",
        web.address
    );
    let nginx = Daemon::nginx(certs.dir(), &server, &web).await;

    for version in ["v1", "v2", "v2-tls"] {
        let config = site::example(front.address, web.address);
        let config = site::set_record_layer(layer, &config);
        let config = replace(&config, "allow = [\"web\"]", "allow = [\"web/webapp1\"]");
        let config = replace(
            &config,
            "balance = \"least_conn\"",
            &format!("balance = \"least_conn\"\nproxy_protocol = \"{version}\""),
        );
        // An HTTP health check succeeds only if the server understands the header.
        let config = replace(
            &config,
            "type = \"tcp\", interval = \"10s\", timeout = \"1s\"",
            "type = \"http\", interval = \"1h\", timeout = \"10s\"",
        );
        let balancer = site::start(&config, &certs).await;
        let files = balancer.open_fds();
        let address = balancer.address("main");
        for server in ["webapp1", "webapp2"] {
            let up = format!("leastconn_server_up{{upstream=\"web\",server=\"{server}\"}}");
            balancer.wait_metric(&up, 1.0, DEADLINE).await;
        }
        for (client, authority) in [("client1", "lb.com"), ("client2", "")] {
            // nginx does not print the authority TLV.
            let authority = if version == "v2-tls" { authority } else { "" };
            let mut curl = curl::get(&certs, address, Some(client));
            curl.args([
                "--write-out",
                "%{local_ip}:%{local_port}",
                "https://lb.com/",
            ]);
            let text = run(&mut curl).await.ok().stdout;
            let (addresses, own) = text.split_once('\n').unwrap();
            assert_eq!(
                addresses,
                format!("{own} {address} {authority}"),
                "{version}"
            );
        }
        balancer.wait_records(2).await;
        balancer.assert_idle(files).await;
        site::stop(&balancer).await;
    }
    drop((haproxy, nginx));
}
