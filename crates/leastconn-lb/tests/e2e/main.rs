//! The server from outside: the real program, real sockets, one behaviour a file.
//!
//! Each test has a balancer of its own, on ports that the system picks, and ends by
//! asserting that nothing is in flight and no file is left open. Long variants run
//! with `LEASTCONN_LONG=1`.
#![allow(clippy::unwrap_used, clippy::expect_used)]

mod support;

mod ends_handshakes_at_one_deadline;
mod refuses_ambiguous_identities;
mod refuses_certificates_with_a_reason;
mod refuses_what_is_not_tls;
mod resumes_no_session;
mod speaks_tls_1_2_and_1_3;
mod takes_a_hello_in_pieces;
