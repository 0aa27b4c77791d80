//! `[[listener]]`

use std::time::Duration;

use schemars::JsonSchema;
use serde::Deserialize;

use super::{
    tls::RawTls,
    value::{At, DurationText, OneOrMany, Opt, UpstreamOrFalse},
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
    /// The listener's name in logs and metrics.
    #[schemars(required)]
    pub name: Opt<String>,
    /// Address and port, or "unix:" and the path of a UNIX socket, or a list of these.
    #[schemars(required, extend("examples" = ["0.0.0.0:9443", ["127.0.0.1:9443", "[::1]:9443"], "unix:/run/leastconn/db.sock"]))]
    pub bind: Opt<OneOrMany>,
    /// The file mode of UNIX sockets in `bind`, in octal.
    #[schemars(extend("default" = "0600", "examples" = ["0660"]))]
    pub bind_mode: Opt<String>,
    /// The upstream for connections that match no route. If there are no routes either, the
    /// upstream in the client's `allow` is used. `false`: these connections are refused.
    pub upstream: Opt<UpstreamOrFalse>,
    /// Upstreams by the server name (SNI) that the client sends, tried in order before `upstream`.
    pub routes: Opt<Vec<At<RawRoute>>>,
    /// Deadline from accepting a connection to authorizing its client.
    #[schemars(extend("default" = text(defaults::HANDSHAKE_TIMEOUT)))]
    pub handshake_timeout: Opt<DurationText>,
    /// A connection that transfers no byte in either direction for this long is closed.
    #[schemars(extend("default" = text(defaults::IDLE_TIMEOUT)))]
    pub idle_timeout: Opt<DurationText>,
    /// The idle timeout after one side has finished sending (half-close).
    #[schemars(extend("default" = text(defaults::HALF_CLOSE_TIMEOUT)))]
    pub half_close_timeout: Opt<DurationText>,
    /// Idle time before the kernel sends TCP keepalive probes to the client. "0s": never.
    #[schemars(extend("default" = text(defaults::KEEPALIVE)))]
    pub keepalive: Opt<DurationText>,
    /// The age at which a connection is closed, with 10 % jitter. "0s": no limit.
    #[schemars(extend("default" = text(Duration::ZERO)))]
    pub max_lifetime: Opt<DurationText>,
    /// What happens when the client's certificate expires during a connection.
    #[schemars(extend("default" = "close"))]
    pub on_expiry: Opt<OnExpiry>,
    /// How the connection to the other side ends, after all data, if a TLS client or server ends
    /// its stream without close_notify: with a reset, or in an orderly way.
    #[schemars(extend("default" = "reset"))]
    pub on_truncation: Opt<OnTruncation>,
    /// Maximum number of certificates that a client may send in addition to its own. A client that
    /// sends more is refused.
    #[schemars(range(max = 64), extend("default" = defaults::MAX_INTERMEDIATES))]
    pub max_intermediates: Opt<u32>,
    /// Whether each connection starts with a PROXY protocol header (v1 or v2).
    #[schemars(extend("default" = "off"))]
    pub proxy_protocol: Opt<ProxyProtocolIn>,
    /// Whether clients request TLS in their own protocol before the handshake.
    #[schemars(extend("default" = "off"))]
    pub starttls: Opt<StartTls>,
    /// Limit on new connections per source, applied before anything else. Default: no limit.
    pub source_rate_limit: Opt<RawSourceRateLimit>,
    /// With `proxy_protocol = "required"`: addresses or networks of the proxies that may connect.
    /// All other peers are refused. Default: everyone may connect and claim any address.
    #[schemars(extend("examples" = ["10.0.0.0/8", ["10.0.0.5", "10.0.0.6"]]))]
    pub proxy_protocol_from: Opt<OneOrMany>,
    /// TLS with clients. Without it: plain TCP, and clients are identified by their address.
    pub tls: Opt<RawTls>,
}

/// Maps a server name to an upstream.
#[derive(Debug, Default, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
#[schemars(rename = "route")]
pub struct RawRoute {
    /// The server name (SNI). `*` matches one whole label.
    #[schemars(required, extend("examples" = ["db.lb.com", "*.lb.com"]))]
    pub sni: Opt<String>,
    /// The name of the upstream. `false`: connections with this server name are refused.
    #[schemars(required)]
    pub upstream: Opt<UpstreamOrFalse>,
}

/// Whether connections start with a PROXY protocol header.
#[derive(Clone, Copy, Debug, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
#[schemars(rename = "proxy_protocol_in")]
pub enum ProxyProtocolIn {
    /// There is none.
    Off,
    /// Connections without a header are refused.
    Required,
}

/// Limit on new connections: a token bucket per source network.
#[derive(Debug, Default, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
#[schemars(rename = "source_rate_limit")]
pub struct RawSourceRateLimit {
    /// New connections per second.
    #[schemars(required)]
    pub rate: Opt<f64>,
    /// Maximum number of new connections in a burst. Default: the rate, rounded up.
    #[schemars(range(min = 1))]
    pub burst: Opt<u32>,
    /// Prefix length of an IPv4 source. 32: each address is a source.
    #[schemars(range(min = 1, max = 32), extend("default" = 32))]
    pub prefix_v4: Opt<u32>,
    /// Prefix length of an IPv6 source. A host usually has a whole /64.
    #[schemars(range(min = 1, max = 128), extend("default" = 64))]
    pub prefix_v6: Opt<u32>,
}
