//! The three questions of `init`, and the validation of the answers.

use std::{
    io::{self, BufRead, Write},
    net::IpAddr,
};

use leastconn::Address;

const DEFAULT_BIND: &str = "localhost:9443";
const DEFAULT_CLIENT: &str = "client1";

#[derive(Debug, thiserror::Error)]
pub(super) enum AnswerError {
    #[error(
        "there is no server to protect: add --upstream HOST:PORT, or run `leastconn-lb init` in a terminal"
    )]
    NoServer,
    #[error("`{value}` is not the address of a server: {reason}; use HOST:PORT or unix:PATH")]
    Server { value: String, reason: String },
    #[error(
        "`{value}` is not an address where clients can connect: {reason}; use NAME:PORT or IP:PORT"
    )]
    Bind { value: String, reason: String },
    #[error("`{value}` is not a usable client name: {reason}")]
    Client { value: String, reason: String },
    #[error("the answers end before the last question")]
    EndOfInput,
    #[error("cannot ask: {0}")]
    Io(#[from] io::Error),
}

/// Answers that were given as arguments.
#[derive(Debug, Default)]
pub(super) struct Given {
    /// Addresses, separated by commas.
    pub(super) upstream: Option<String>,
    pub(super) bind: Option<String>,
    pub(super) client: Option<String>,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Answers {
    pub(super) servers: Servers,
    pub(super) bind: Endpoint,
    pub(super) client: String,
}

/// Servers of the upstream, in the syntax of the configuration.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Servers(pub(super) Vec<String>);

/// Address at which clients connect.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Endpoint {
    /// Name or IP address in the server certificate.
    pub(super) host: String,
    pub(super) port: u16,
}

/// Protocol that a port number usually stands for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Protocol {
    Postgres,
    Redis,
    Mysql,
    Other,
}

impl Answers {
    /// Uses the default for every answer that was not given.
    pub(super) fn without_questions(given: &Given) -> Result<Self, AnswerError> {
        Ok(Self {
            servers: Servers::parse(given.upstream.as_deref().ok_or(AnswerError::NoServer)?)?,
            bind: Endpoint::parse(given.bind.as_deref().unwrap_or(DEFAULT_BIND))?,
            client: client(given.client.as_deref().unwrap_or(DEFAULT_CLIENT))?,
        })
    }
}

/// Asks for every answer that was not given. After an invalid answer the question is repeated.
pub(super) fn ask(
    given: &Given,
    input: &mut dyn BufRead,
    output: &mut dyn Write,
) -> Result<Answers, AnswerError> {
    let servers = match &given.upstream {
        Some(text) => Servers::parse(text)?,
        None => question(
            "Servers to protect (HOST:PORT, several separated by commas)",
            None,
            Servers::parse,
            input,
            output,
        )?,
    };
    let bind = match &given.bind {
        Some(text) => Endpoint::parse(text)?,
        None => question(
            "Where clients connect (NAME:PORT)",
            Some(DEFAULT_BIND),
            Endpoint::parse,
            input,
            output,
        )?,
    };
    let client = match &given.client {
        Some(text) => client(text)?,
        None => question(
            "Name of the first client",
            Some(DEFAULT_CLIENT),
            client,
            input,
            output,
        )?,
    };
    Ok(Answers {
        servers,
        bind,
        client,
    })
}

fn question<T>(
    text: &str,
    default: Option<&str>,
    parse: impl Fn(&str) -> Result<T, AnswerError>,
    input: &mut dyn BufRead,
    output: &mut dyn Write,
) -> Result<T, AnswerError> {
    loop {
        match default {
            Some(default) => write!(output, "{text} [{default}]: ")?,
            None => write!(output, "{text}: ")?,
        }
        output.flush()?;
        let mut line = String::new();
        if input.read_line(&mut line)? == 0 {
            return Err(AnswerError::EndOfInput);
        }
        let answer = match (line.trim(), default) {
            ("", Some(default)) => default,
            (answer, _) => answer,
        };
        match parse(answer) {
            Ok(parsed) => return Ok(parsed),
            Err(error) => writeln!(output, "{error}")?,
        }
    }
}

impl Servers {
    fn parse(text: &str) -> Result<Self, AnswerError> {
        let addresses = text.split(',').map(str::trim).filter(|one| !one.is_empty());
        let mut servers = Vec::new();
        for address in addresses {
            let invalid = |reason: String| AnswerError::Server {
                value: address.to_owned(),
                reason,
            };
            match address.parse::<Address>() {
                _ if address.chars().any(char::is_control) => {
                    return Err(invalid("it contains a control character".to_owned()));
                }
                Err(error) => return Err(invalid(error.to_string())),
                Ok(_) if servers.iter().any(|known| known == address) => {
                    return Err(invalid("it is listed twice".to_owned()));
                }
                Ok(_) => servers.push(address.to_owned()),
            }
        }
        if servers.is_empty() {
            return Err(AnswerError::NoServer);
        }
        Ok(Self(servers))
    }

    /// Returns the protocol of all servers, guessed from their ports.
    pub(super) fn protocol(&self) -> Protocol {
        let of = |address: &String| match address.rsplit_once(':') {
            Some((_, "5432" | "5433")) => Protocol::Postgres,
            Some((_, "6379")) => Protocol::Redis,
            Some((_, "3306")) => Protocol::Mysql,
            _ => Protocol::Other,
        };
        let first = self.0.first().map_or(Protocol::Other, of);
        if self.0.iter().all(|address| of(address) == first) {
            first
        } else {
            Protocol::Other
        }
    }
}

impl Endpoint {
    fn parse(text: &str) -> Result<Self, AnswerError> {
        let invalid = |reason: &str| AnswerError::Bind {
            value: text.to_owned(),
            reason: reason.to_owned(),
        };
        let Some((host, port)) = text.rsplit_once(':') else {
            return Err(invalid("the port is missing"));
        };
        let port = match port.parse() {
            Ok(0) | Err(_) => return Err(invalid("the port is not a number from 1 to 65535")),
            Ok(port) => port,
        };
        let host = match host
            .strip_prefix('[')
            .and_then(|host| host.strip_suffix(']'))
        {
            Some(host) if host.parse::<IpAddr>().is_ok() => host,
            Some(_) => return Err(invalid("the IPv6 address is not valid")),
            None if host.contains(':') => {
                return Err(invalid("an IPv6 address needs brackets"));
            }
            None => host,
        };
        if host.is_empty() {
            return Err(invalid("the name is missing"));
        }
        let is_unspecified = host.parse::<IpAddr>().is_ok_and(|ip| ip.is_unspecified());
        if is_unspecified {
            return Err(invalid(
                "clients verify this name in the certificate of the balancer",
            ));
        }
        Ok(Self {
            host: host.to_owned(),
            port,
        })
    }

    pub(super) fn ip(&self) -> Option<IpAddr> {
        self.host.parse().ok()
    }

    /// The address to listen on.
    pub(super) fn bind(&self) -> String {
        match self.ip() {
            Some(ip) => std::net::SocketAddr::new(ip, self.port).to_string(),
            None if self.host == "localhost" => format!("127.0.0.1:{}", self.port),
            None => format!("0.0.0.0:{}", self.port),
        }
    }

    /// The address in the syntax of URLs and of `openssl s_client`.
    pub(super) fn authority(&self) -> String {
        match self.ip() {
            Some(ip) => std::net::SocketAddr::new(ip, self.port).to_string(),
            None => format!("{}:{}", self.host, self.port),
        }
    }
}

fn client(name: &str) -> Result<String, AnswerError> {
    let reason = match name {
        "ca" | "server" => "its files would replace other files",
        // The rule and the certificate files get this name.
        _ if !leastconn_config::names::is_name(name) || name.starts_with(['.', '-']) => {
            "use letters, digits, dots, hyphens and underscores, at most 64"
        }
        _ => return Ok(name.to_owned()),
    };
    Err(AnswerError::Client {
        value: name.to_owned(),
        reason: reason.to_owned(),
    })
}
