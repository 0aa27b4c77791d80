// What the reason codes mean, for somebody who sees one for the first time. The
// codes are those of the access log and the metrics.

/** Ended before it had a server. */
export const REFUSALS = {
  handshake_timeout: "Not authorized before handshake_timeout: silent, or far too slow.",
  handshake_failed: "No TLS, no common version or cipher, or the client went away.",
  not_tls: "A STARTTLS listener, and the client did not ask for TLS.",
  no_certificate: "The client showed no certificate where one is required.",
  untrusted_certificate: "No authority of client_ca signed it, or it is not for clients.",
  expired_certificate: "Out of its validity period, or not yet in it.",
  revoked_certificate: "It, or one above it, is on a revocation list.",
  crl_expired: "The revocation list of its issuer has expired: put a current one in its place.",
  ambiguous_identity: "The certificate does not say one thing about who its owner is.",
  unknown_client: "A good certificate, and no [[client]] rule matches it.",
  not_allowed: "A rule matches, and grants no server that the listener leads to.",
  rate_limited: "Connects faster than its rate_limit, or than its source may.",
  too_many_connections: "Has as many connections open as its max_conns.",
  overloaded: "The balancer itself is at a limit: connections, handshakes or files.",
  no_server_available: "No server that the client may use is up and ready.",
  connect_failed: "Every server that was tried refused or did not answer.",
};

/** Ended after it had one. */
export const ENDINGS = {
  ok: "Both sides finished; all bytes were delivered.",
  idle_timeout: "No byte either way for idle_timeout.",
  half_close_timeout: "One side had finished, and the other was silent for half_close_timeout.",
  max_lifetime: "Reached max_lifetime.",
  client_reset: "The client reset the connection.",
  client_closed: "The client closed before a server was connected, without having sent anything.",
  server_reset: "The server reset the connection.",
  client_truncated: "The client closed without close_notify, after all its data was delivered.",
  server_truncated: "The server closed without close_notify, after all its data was delivered.",
  tls_error: "TLS failed after the handshake: a bad record, a fatal alert or a limit.",
  policy_changed: "The rules changed, and no longer allow it.",
  drained: "The balancer was stopped before it had ended.",
  killed: "Ended by an operator.",
};

export const explain = (code) => REFUSALS[code] ?? ENDINGS[code] ?? "";

/** Whether this code says that the client was refused a server. Certificates may run
 * out under an open connection, too; that is counted here as well. */
export const isRefusal = (code) => code in REFUSALS || !(code in ENDINGS);

export const refused = (outcomes) =>
  Object.entries(outcomes).reduce((sum, [code, n]) => sum + (isRefusal(code) ? n : 0), 0);
