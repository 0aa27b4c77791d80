//! The files that `init` writes, and the commands that it prints.

use std::{
    fmt::Write,
    path::{Path, PathBuf},
};

use super::{
    super::import::toml::quoted,
    answers::{Answers, Protocol},
};
use crate::pki::{
    Authority, CA_CRL, Leaf, Lock, Overwrite, PkiError, RevocationList, Usage, refuse_existing,
    write_private, write_public,
};

const CONFIG: &str = "leastconn.toml";
const PKI: &str = "pki";

const HINT: &str = "use --dir for another directory, or move the old file away";

const CA_DAYS: u32 = 3650;
const LEAF_DAYS: u32 = 365;
const CRL_DAYS: u32 = 30;

/// Writes all files below `dir` and returns what to print.
///
/// # Errors
/// [`PkiError::Exists`] before anything is written; otherwise the error of the first file that
/// cannot be written.
pub(super) fn write(dir: &Path, answers: &Answers) -> Result<String, PkiError> {
    let config = dir.join(CONFIG);
    let pki = dir.join(PKI);
    refuse_existing(&config, HINT)?;
    refuse_existing(&pki, HINT)?;
    let mut written = certificates(&pki, answers)?;
    // Write the configuration last, so that it never names files that do not exist.
    let text = configuration(answers);
    write_public(&config, &text, Overwrite::Refuse { hint: HINT })?;
    written.push(config);
    let mut out = String::new();
    for path in written {
        // Writing to a String does not fail.
        let _ = writeln!(out, "wrote {}", path.display());
    }
    out.push_str(&next_commands(dir, answers));
    Ok(out)
}

fn certificates(pki: &Path, answers: &Answers) -> Result<Vec<PathBuf>, PkiError> {
    let name = format!("leastconn CA {:08x}", leastconn::net::random() >> 32);
    let authority = Authority::create(&name, CA_DAYS)?;
    let crl = authority.crl(&RevocationList::new(), CRL_DAYS)?;
    let host = answers.bind.host.clone();
    let server = Leaf {
        cn: host.clone(),
        dns: answers.bind.ip().map_or(vec![host], |_| Vec::new()),
        ips: answers.bind.ip().into_iter().collect(),
        days: LEAF_DAYS,
        usage: Usage::Server,
        ..Leaf::default()
    };
    let client = Leaf {
        cn: answers.client.clone(),
        days: LEAF_DAYS,
        usage: Usage::Client,
        ..Leaf::default()
    };
    // Issue both certificates before anything is written, because names can be invalid.
    let leaves = [
        ("server", authority.issue(&server)?),
        (&*answers.client, authority.issue(&client)?),
    ];
    let _lock = Lock::take_new(pki)?;
    let mut written = authority.save(pki)?;
    let crl_path = pki.join(CA_CRL);
    let new = Overwrite::Refuse { hint: HINT };
    write_public(&crl_path, &crl, new)?;
    written.push(crl_path);
    for (stem, issued) in leaves {
        let cert = pki.join(format!("{stem}.crt"));
        let key = pki.join(format!("{stem}.key"));
        write_private(&key, &issued.key_pem, new)?;
        write_public(&cert, &issued.cert_pem, new)?;
        written.extend([cert, key]);
    }
    Ok(written)
}

fn configuration(answers: &Answers) -> String {
    let (upstream, listener, check) = match answers.servers.protocol() {
        Protocol::Postgres => (
            "postgres",
            "starttls = \"postgres\"            # PostgreSQL clients ask for TLS in their own protocol\n\
             idle_timeout = \"8h\"\n",
            "health_check = { type = \"postgres\", interval = \"5s\" }\n",
        ),
        Protocol::Redis => (
            "redis",
            "idle_timeout = \"8h\"\n",
            "health_check = { type = \"redis\", interval = \"5s\" }\n",
        ),
        Protocol::Mysql => (
            "mysql",
            "# MySQL clients wait for the server to speak first. Run a TLS client such as socat or\n\
             # stunnel beside them, and connect to that.\n\
             idle_timeout = \"8h\"\n",
            "health_check = { type = \"mysql\", interval = \"5s\" }\n",
        ),
        Protocol::Other => (
            "backend",
            "",
            "health_check = { type = \"tcp\", interval = \"5s\" }   # or http, postgres, redis, mysql\n",
        ),
    };
    let mut servers = String::new();
    for (number, address) in (1..).zip(&answers.servers.0) {
        let _ = writeln!(
            servers,
            "  {{ name = \"{upstream}{number}\", address = {} }},",
            quoted(address)
        );
    }
    let client = quoted(&answers.client);
    let bind = quoted(&answers.bind.bind());
    format!(
        r#"# Written by `leastconn-lb init`. Validate changes with `leastconn-lb check`, apply them with
# `leastconn-lb ctl reload`. All keys: leastconn.toml(5), or `leastconn-lb man --config | man -l -`.

[log]
access = "access.log"            # one JSON object per connection

[admin]
bind = "127.0.0.1:9901"          # dashboard, metrics, health checks
socket = "leastconn.sock"        # for `leastconn-lb ctl` and `top`

[[listener]]
name = "main"
bind = {bind}
upstream = "{upstream}"
{listener}
[listener.tls]
cert = "pki/server.crt"
key = "pki/server.key"
client_ca = "pki/ca.crt"         # clients need a certificate of this CA
crl = "pki/ca.crl"               # valid for {CRL_DAYS} days; renew it: leastconn-lb pki crl pki

[[upstream]]
name = "{upstream}"
{check}servers = [
{servers}]

# One table for each client, or for a group of clients. A client that no table matches is refused.
[[client]]
name = {client}
match = {{ cn = {client} }}        # or dns, uri, ou, issuer_cn, spki, source
allow = ["{upstream}"]             # or one server: "{upstream}/{upstream}1"
rate_limit = {{ rate = 20, burst = 100 }}   # new connections per second
max_conns = 100                  # open connections
"#
    )
}

fn next_commands(dir: &Path, answers: &Answers) -> String {
    let Answers { bind, client, .. } = answers;
    let (host, port) = (&bind.host, bind.port);
    let authority = bind.authority();
    let openssl = format!(
        "openssl s_client -connect {authority} -CAfile pki/ca.crt -cert pki/{client}.crt -key pki/{client}.key\n"
    );
    let connect = match answers.servers.protocol() {
        Protocol::Postgres => format!(
            "psql \"host={host} port={port} sslmode=verify-full sslrootcert=pki/ca.crt \
             sslcert=pki/{client}.crt sslkey=pki/{client}.key\"\n"
        ),
        Protocol::Redis => format!(
            "redis-cli --tls -h {host} -p {port} --cacert pki/ca.crt --cert pki/{client}.crt \
             --key pki/{client}.key\n"
        ),
        Protocol::Mysql => openssl,
        Protocol::Other => format!(
            "{openssl}  curl --cacert pki/ca.crt --cert pki/{client}.crt --key pki/{client}.key \
             https://{authority}/     # if the servers speak HTTP\n"
        ),
    };
    let cd = if dir == Path::new(".") {
        String::new()
    } else {
        format!("  cd {}\n", dir.display())
    };
    format!(
        "\nNext:\n{cd}  leastconn-lb check\n  leastconn-lb run\n\
         \nThen, from another terminal, as {client}:\n{cd}  {connect}\
         \nAnother client, and an end to its access:\n\
         {cd}  leastconn-lb pki issue pki --cn NAME --client     # and a [[client]] table for it\n\
         \x20 leastconn-lb pki revoke pki pki/NAME.crt\n"
    )
}
