// Explanations of the reason codes, which are the same in the access log and the metrics.

/** Outcomes of connections that were never assigned a server. */
export const REFUSALS = {
  handshake_timeout: "The client was not authorized within handshake_timeout: it was silent or too slow.",
  handshake_failed: "Not TLS, no common TLS version or cipher suite, the client disconnected, or it does not trust the balancer's certificate.",
  not_tls: "The client did not request TLS on a STARTTLS listener.",
  no_certificate: "The client sent no certificate, but one is required.",
  untrusted_certificate: "The certificate was not issued by a CA in client_ca, or is not valid for clients.",
  expired_certificate: "The certificate has expired, or is not yet valid.",
  revoked_certificate: "The certificate, or one of its issuers, is on a CRL.",
  crl_expired: "The CRL of the issuer has expired: replace it with a current one.",
  ambiguous_identity: "The certificate contains more than one possible identity, or an invalid name.",
  unknown_client: "The certificate is valid, but no [[client]] rule matches.",
  not_allowed: "A rule matches, but does not allow a server of this listener.",
  blocked: "An operator has blocked the client: ctl blocks lists all blocks.",
  rate_limited: "The client exceeded its rate_limit, or the limit of its source address.",
  too_many_connections: "The client reached its max_conns.",
  overloaded: "The balancer reached a limit: connections, handshakes, open files, or the size of a queue.",
  no_server_available: "No server that the client is allowed to use is available, or all are at max_conns.",
  queue_timeout: "All servers that the client may use were at max_conns until the timeout of the queue.",
  connect_failed: "Every attempt to connect to a server failed.",
};

/** Outcomes of connections that were assigned a server. */
export const ENDINGS = {
  ok: "Both sides closed, and all bytes were delivered.",
  idle_timeout: "No data in either direction for idle_timeout.",
  half_close_timeout: "One side closed, and the other was silent for half_close_timeout.",
  max_lifetime: "The connection reached max_lifetime.",
  client_reset: "The client reset the connection.",
  client_closed: "The client closed before a server was connected, and had sent nothing.",
  server_reset: "The server reset the connection.",
  client_truncated: "The client closed without close_notify, after all its data was delivered.",
  server_truncated: "The server closed without close_notify, after all its data was delivered.",
  tls_error: "TLS error after the handshake: invalid record, fatal alert or limit reached.",
  policy_changed: "The rules changed, and no longer allow the connection.",
  drained: "The balancer stopped before the connection ended.",
  killed: "Closed by an operator.",
  server_removed: "The server was removed by discovery.",
  rebalanced: "Closed while quiet, because its server had more connections than the others.",
};

export const explain = (code) => REFUSALS[code] ?? ENDINGS[code] ?? "";

/** Whether the code is a refusal. Some codes, such as expired_certificate, also occur for
 * open connections; they count as refusals as well. */
export const isRefusal = (code) => code in REFUSALS || !(code in ENDINGS);

export const refused = (outcomes) =>
  Object.entries(outcomes).reduce((sum, [code, n]) => sum + (isRefusal(code) ? n : 0), 0);
