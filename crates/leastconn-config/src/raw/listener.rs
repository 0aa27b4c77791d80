//! `[[listener]]`

use std::time::Duration;

use schemars::JsonSchema;
use serde::Deserialize;

use super::{
    tls::RawTls,
    value::{At, DurationText, OneOrMany, Opt},
};
use crate::{
    defaults::{self, text},
    keyword::{OnExpiry, OnTruncation, StartTls},
};

/// An address that clients connect to.
#[derive(Debug, Default, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
#[schemars(rename = "listener")]
pub struct RawListener {
    /// Its name in logs and metrics.
    #[schemars(required)]
    pub name: Opt<String>,
    /// Address and port, or "unix:" and the path of a UNIX socket, or a list of them.
    #[schemars(required, extend("examples" = ["0.0.0.0:9443", ["127.0.0.1:9443", "[::1]:9443"], "unix:/run/leastconn/db.sock"]))]
    pub bind: Opt<OneOrMany>,
    /// The mode of the files of UNIX sockets in `bind`, in octal.
    #[schemars(extend("default" = "0600", "examples" = ["0660"]))]
    pub bind_mode: Opt<String>,
    /// The upstream its connections go to, if no route takes them. Without it
    /// and without routes, what the client's `allow` names.
    pub upstream: Opt<String>,
    /// Upstreams by the server name (SNI) that the client asks for, tried in order before `upstream`.
    pub routes: Opt<Vec<At<RawRoute>>>,
    /// One deadline from accepting to having authorized.
    #[schemars(extend("default" = text(defaults::HANDSHAKE_TIMEOUT)))]
    pub handshake_timeout: Opt<DurationText>,
    /// A connection without a byte in either direction for so long is closed.
    #[schemars(extend("default" = text(defaults::IDLE_TIMEOUT)))]
    pub idle_timeout: Opt<DurationText>,
    /// The same, once one side has finished sending.
    #[schemars(extend("default" = text(defaults::HALF_CLOSE_TIMEOUT)))]
    pub half_close_timeout: Opt<DurationText>,
    /// TCP keepalive: silence after which the system asks whether the client is still there; "0s": never.
    #[schemars(extend("default" = text(defaults::KEEPALIVE)))]
    pub keepalive: Opt<DurationText>,
    /// The age at which a connection is closed, jittered by 10 %; "0s": none.
    #[schemars(extend("default" = text(Duration::ZERO)))]
    pub max_lifetime: Opt<DurationText>,
    /// What happens when a client certificate expires while its client is connected.
    #[schemars(extend("default" = "close"))]
    pub on_expiry: Opt<OnExpiry>,
    /// How a TLS end without close_notify, of the client or the server, is passed on
    /// after all data: by a reset, or as an orderly end.
    #[schemars(extend("default" = "reset"))]
    pub on_truncation: Opt<OnTruncation>,
    /// Certificates that a client may send beside its own. One that sends more is refused.
    #[schemars(range(max = 64), extend("default" = defaults::MAX_INTERMEDIATES))]
    pub max_intermediates: Opt<u32>,
    /// Whether a PROXY protocol header (v1 or v2) comes before anything else.
    #[schemars(extend("default" = "off"))]
    pub proxy_protocol: Opt<ProxyProtocolIn>,
    /// Whether clients ask for TLS in their own protocol before the handshake.
    #[schemars(extend("default" = "off"))]
    pub starttls: Opt<StartTls>,
    /// How fast each source may connect, before anything else is looked at. Absent: no limit.
    pub source_rate_limit: Opt<RawSourceRateLimit>,
    /// With "required": the addresses or networks of those who may send such
    /// headers. Anyone else is refused. Default: anyone may, and claim any address.
    #[schemars(extend("examples" = ["10.0.0.0/8", ["10.0.0.5", "10.0.0.6"]]))]
    pub proxy_protocol_from: Opt<OneOrMany>,
    /// TLS towards clients. Without it: plain TCP, and clients are told apart by their address.
    pub tls: Opt<RawTls>,
}

/// One way from a server name to an upstream.
#[derive(Debug, Default, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
#[schemars(rename = "route")]
pub struct RawRoute {
    /// The server name (SNI); `*` stands for one whole label.
    #[schemars(required, extend("examples" = ["db.lb.com", "*.lb.com"]))]
    pub sni: Opt<String>,
    /// The upstream's name.
    #[schemars(required)]
    pub upstream: Opt<String>,
}

/// Whether clients announce themselves.
#[derive(Clone, Copy, Debug, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
#[schemars(rename = "proxy_protocol_in")]
pub enum ProxyProtocolIn {
    /// They do not.
    Off,
    /// They must.
    Required,
}

/// How fast a source may open connections: a token bucket for each network.
#[derive(Debug, Default, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
#[schemars(rename = "source_rate_limit")]
pub struct RawSourceRateLimit {
    /// New connections a second.
    #[schemars(required)]
    pub rate: Opt<f64>,
    /// How many may come at once. Default: the rate, rounded up.
    #[schemars(range(min = 1))]
    pub burst: Opt<u32>,
    /// The bits of an IPv4 address that make a source; 32: each address is one.
    #[schemars(range(min = 1, max = 32), extend("default" = 32))]
    pub prefix_v4: Opt<u32>,
    /// The bits of an IPv6 address that make a source. Within a /64, whoever has one address has all.
    #[schemars(range(min = 1, max = 128), extend("default" = 64))]
    pub prefix_v6: Opt<u32>,
}
