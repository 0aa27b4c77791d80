//! Equivalent configurations of the balancers.

use std::{fmt::Write, fs, io, net::SocketAddr, path::Path, process::Command};

use crate::compare::program::{Kind, Program, nginx_module};

/// The settings of a situation. All other settings keep each balancer's defaults.
#[derive(Clone, Debug, Default)]
pub(super) struct Settings {
    pub(super) servers: Vec<SocketAddr>,
    pub(super) check: Option<Check>,
    /// Maximum number of concurrent connections per server. If the balancer can queue, further
    /// connections wait.
    pub(super) max_conns: Option<u32>,
    pub(super) slow_start_seconds: Option<u32>,
}

/// A health check that runs every second.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Check {
    /// Connects without sending data.
    Tcp,
    /// Sends a byte and expects an answer within a second.
    Talking,
}

/// Whether the balancer supports the settings.
pub(super) fn is_supported(kind: Kind, settings: &Settings) -> bool {
    match kind {
        Kind::Leastconn | Kind::Haproxy => true,
        // In nginx, health checks and slow start exist only in the commercial version.
        Kind::Nginx => settings.check.is_none() && settings.slow_start_seconds.is_none(),
        Kind::Envoy => settings.max_conns.is_none(),
        Kind::Traefik => {
            settings.check.is_none()
                && settings.max_conns.is_none()
                && settings.slow_start_seconds.is_none()
        }
    }
}

/// Writes the configuration, and returns the command that starts the balancer on `port`.
pub(super) fn prepare(
    program: &Program,
    settings: &Settings,
    directory: &Path,
    port: u16,
) -> io::Result<Command> {
    let write = |name: &str, text: String| {
        let path = directory.join(name);
        fs::write(&path, text)?;
        io::Result::Ok(path)
    };
    let mut command = Command::new(&program.path);
    match program.kind {
        Kind::Leastconn => {
            let text = leastconn(settings, port, &keys(program));
            let path = write("leastconn.toml", text)?;
            command.arg("run").arg("--config").arg(path);
        }
        Kind::Haproxy => {
            let path = write("haproxy.cfg", haproxy(settings, port))?;
            command.arg("-db").arg("-f").arg(path);
        }
        Kind::Nginx => {
            let module = nginx_module().filter(|_| program.path.starts_with("/usr"));
            let module = module.map_or_else(String::new, |path| {
                format!("load_module {};", path.display())
            });
            let path = write("nginx.conf", nginx(settings, port, directory, &module))?;
            command.arg("-p").arg(directory).arg("-c").arg(path);
            command.arg("-e").arg(directory.join("error.log"));
        }
        Kind::Envoy => {
            let path = write("envoy.yaml", envoy(settings, port))?;
            command.arg("-c").arg(path);
            command.args(["--concurrency", "1", "--disable-hot-restart"]);
            command.args(["--log-level", "error"]);
        }
        Kind::Traefik => {
            write("dynamic.yaml", traefik_dynamic(settings))?;
            let path = write("traefik.yaml", traefik(directory, port))?;
            command.arg(format!("--configFile={}", path.display()));
            command.env("GOMAXPROCS", "1");
        }
    }
    Ok(command)
}

/// Returns the JSON Schema of leastconn's configuration. The configuration omits keys that this
/// version does not support.
fn keys(program: &Program) -> String {
    let output = Command::new(&program.path).arg("schema").output();
    output.map_or_else(
        |_| String::new(),
        |output| String::from_utf8_lossy(&output.stdout).into_owned(),
    )
}

fn lines(servers: &[SocketAddr], line: impl Fn(usize, &SocketAddr) -> String) -> String {
    servers
        .iter()
        .enumerate()
        .fold(String::new(), |mut text, (number, server)| {
            // Writing to a string does not fail.
            let _ = writeln!(text, "{}", line(number, server));
            text
        })
}

fn leastconn(settings: &Settings, port: u16, keys: &str) -> String {
    let check = match settings.check {
        None => "",
        Some(Check::Tcp) => {
            "health_check = { type = \"tcp\", interval = \"1s\", timeout = \"1s\" }\n"
        }
        Some(Check::Talking) => {
            "health_check = { type = \"tcp\", interval = \"1s\", timeout = \"1s\", send = \"P\", expect = \"K\" }\n"
        }
    };
    let queue = if settings.max_conns.is_some() && keys.contains("\"queue\"") {
        "queue = { size = 100, timeout = \"5s\" }\n"
    } else {
        ""
    };
    let slow_start = settings
        .slow_start_seconds
        .map_or_else(String::new, |seconds| {
            format!("slow_start = \"{seconds}s\"\n")
        });
    let max_conns = settings.max_conns.unwrap_or(0);
    let servers = lines(&settings.servers, |number, server| {
        format!("  {{ name = \"s{number}\", address = \"{server}\", max_conns = {max_conns} }},")
    });
    format!(
        "client = [{{ name = \"local\", match = {{ source = [\"127.0.0.0/8\"] }}, allow = [\"web\"] }}]\n\
         [log]\nlevel = \"warn\"\naccess = \"off\"\n\
         [[listener]]\nname = \"main\"\nbind = \"127.0.0.1:{port}\"\nupstream = \"web\"\n\
         [[upstream]]\nname = \"web\"\n{check}{queue}{slow_start}servers = [\n{servers}]\n"
    )
}

fn haproxy(settings: &Settings, port: u16) -> String {
    let talking = match settings.check {
        Some(Check::Talking) => {
            "  option tcp-check\n  tcp-check connect\n  tcp-check send P\n  tcp-check expect string K\n"
        }
        _ => "",
    };
    let mut options = String::new();
    if settings.check.is_some() {
        options.push_str(" check inter 1s");
    }
    if let Some(max) = settings.max_conns {
        // Writing to a string does not fail.
        let _ = write!(options, " maxconn {max}");
    }
    if let Some(seconds) = settings.slow_start_seconds {
        let _ = write!(options, " slowstart {seconds}s");
    }
    let servers = lines(&settings.servers, |number, server| {
        format!("  server s{number} {server}{options}")
    });
    format!(
        "global\n  nbthread 1\n  maxconn 4000\n\
         defaults\n  mode tcp\n  timeout client 1h\n  timeout server 1h\n  timeout connect 5s\n  timeout check 1s\n  option redispatch\n\
         frontend main\n  bind 127.0.0.1:{port}\n  default_backend web\n\
         backend web\n  balance leastconn\n{talking}{servers}"
    )
}

fn nginx(settings: &Settings, port: u16, directory: &Path, module: &str) -> String {
    let max = settings
        .max_conns
        .map_or_else(String::new, |max| format!(" max_conns={max}"));
    let servers = lines(&settings.servers, |_, server| {
        format!("    server {server}{max};")
    });
    let directory = directory.display();
    format!(
        "{module}\ndaemon off;\nworker_processes 1;\nerror_log {directory}/error.log crit;\n\
         pid {directory}/nginx.pid;\nworker_rlimit_nofile 16000;\nevents {{ worker_connections 8000; }}\n\
         stream {{\n  upstream web {{\n    zone web 64k;\n    least_conn;\n{servers}  }}\n\
         \x20 server {{ listen 127.0.0.1:{port}; proxy_pass web; proxy_connect_timeout 5s; proxy_timeout 1h; }}\n}}\n"
    )
}

fn envoy(settings: &Settings, port: u16) -> String {
    let check = match settings.check {
        None => String::new(),
        Some(check) => {
            let payload = match check {
                Check::Tcp => "{}",
                Check::Talking => "{ send: { text: \"50\" }, receive: [ { text: \"4b\" } ] }",
            };
            format!(
                "    health_checks:\n    - {{ timeout: 1s, interval: 1s, unhealthy_threshold: 3, \
                 healthy_threshold: 2, no_traffic_interval: 1s, tcp_health_check: {payload} }}\n"
            )
        }
    };
    let slow_start = settings.slow_start_seconds.map_or_else(String::new, |seconds| {
        format!("    least_request_lb_config: {{ slow_start_config: {{ slow_start_window: {seconds}s }} }}\n")
    });
    let servers = lines(&settings.servers, |_, server| {
        format!(
            "        - {{ endpoint: {{ address: {{ socket_address: {{ address: {}, port_value: {} }} }} }} }}",
            server.ip(),
            server.port()
        )
    });
    format!(
        "static_resources:\n  listeners:\n  - name: main\n    address: {{ socket_address: {{ address: 127.0.0.1, port_value: {port} }} }}\n\
         \x20   filter_chains:\n    - filters:\n      - name: envoy.filters.network.tcp_proxy\n        typed_config:\n\
         \x20         \"@type\": type.googleapis.com/envoy.extensions.filters.network.tcp_proxy.v3.TcpProxy\n\
         \x20         stat_prefix: main\n          cluster: web\n\
         \x20 clusters:\n  - name: web\n    type: STATIC\n    lb_policy: LEAST_REQUEST\n{slow_start}{check}\
         \x20   circuit_breakers: {{ thresholds: [ {{ max_connections: 100000, max_pending_requests: 100000, max_requests: 100000 }} ] }}\n\
         \x20   load_assignment:\n      cluster_name: web\n      endpoints:\n      - lb_endpoints:\n{servers}"
    )
}

fn traefik(directory: &Path, port: u16) -> String {
    format!(
        "global: {{ checkNewVersion: false, sendAnonymousUsage: false }}\nlog: {{ level: ERROR }}\n\
         entryPoints:\n  main: {{ address: \"127.0.0.1:{port}\" }}\n\
         providers: {{ file: {{ filename: \"{}/dynamic.yaml\", watch: false }} }}\n",
        directory.display()
    )
}

fn traefik_dynamic(settings: &Settings) -> String {
    let servers = lines(&settings.servers, |_, server| {
        format!("        - {{ address: \"{server}\" }}")
    });
    format!(
        "tcp:\n  routers:\n    main: {{ rule: \"HostSNI(`*`)\", service: web, entryPoints: [main] }}\n\
         \x20 services:\n    web:\n      loadBalancer:\n        servers:\n{servers}"
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn configurations_contain_the_settings_that_are_supported() {
        let settings = Settings {
            servers: vec![
                "127.0.0.1:7001".parse().unwrap(),
                "127.0.0.1:7002".parse().unwrap(),
            ],
            check: Some(Check::Talking),
            max_conns: Some(21),
            slow_start_seconds: Some(13),
        };
        let directory = Path::new("/run");
        let texts = [
            (Kind::Leastconn, leastconn(&settings, 7000, "\"queue\"")),
            (Kind::Haproxy, haproxy(&settings, 7000)),
            (Kind::Nginx, nginx(&settings, 7000, directory, "")),
            (Kind::Envoy, envoy(&settings, 7000)),
            (
                Kind::Traefik,
                traefik(directory, 7000) + &traefik_dynamic(&settings),
            ),
        ];
        for (kind, text) in texts {
            for port in ["7000", "7001", "7002"] {
                assert!(text.contains(port), "{kind}: {text}");
            }
            let max_conns = Settings {
                max_conns: settings.max_conns,
                ..Settings::default()
            };
            let slow_start = Settings {
                slow_start_seconds: settings.slow_start_seconds,
                ..Settings::default()
            };
            assert_eq!(
                text.contains("21"),
                is_supported(kind, &max_conns),
                "{kind}: {text}"
            );
            assert_eq!(
                text.contains("13"),
                is_supported(kind, &slow_start),
                "{kind}: {text}"
            );
        }
        assert!(!leastconn(&settings, 7000, "").contains("queue"));
    }
}
