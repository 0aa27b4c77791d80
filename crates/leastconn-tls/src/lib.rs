//! Mutual TLS for a load balancer.
//!
//! Clients are authenticated by certificates that a trusted authority issued and that no CRL
//! revokes, or by a pinned public key. Servers are authenticated by name, URI or key. rustls
//! performs the handshake. rustls-webpki verifies chains, and this crate adds checks that
//! rustls-webpki does not perform. By default, this crate also implements the records after the
//! handshake ([`settings::RecordLayer`]).
//!
//! The crate does not depend on the format of the configuration file: other crates convert that
//! file to [`settings`]. Nor does it authorize clients. A handshake yields a stream and the
//! verified names of the peer. The caller's [`permit::Permit`] decides the order of handshakes.
//!
//! Modules, in data path order:
//!
//! - settings: [`settings`], [`algorithms`], [`alpn`], `provider`, `server`
//! - ClientHello: `client_hello`, `offer`, [`foreign_protocol`]
//! - handshake: [`permit`], `handshake`, `unbuffered`, `sessions`
//! - trust: `trust` (chain verification), [`crl`], [`x509`]
//! - names: [`distinguished_name`], [`certificate`], [`spiffe`], [`pattern`], [`client_chain`]
//! - errors: [`ChainError`], [`HandshakeError`], `diagnostics`, `rejected`, [`error_text`]
//! - records: `stream`, `record` and `direct` (own), `buffered` (rustls)
//! - TLS to servers: [`client`]

#[macro_use]
mod delegate;

mod alert;
pub mod algorithms;
pub mod alpn;
mod buffered;
pub mod certificate;
pub mod client;
pub mod client_chain;
mod client_hello;
pub mod crl;
pub mod der;
mod diagnostics;
mod direct;
pub mod distinguished_name;
pub mod error_text;
pub mod foreign_protocol;
mod handshake;
mod handshake_error;
mod last_flight;
#[cfg(any(test, fuzzing))]
mod model;
mod negotiated;
mod offer;
pub mod pattern;
pub mod permit;
mod polled_socket;
mod provider;
mod record;
mod rejected;
mod server;
mod sessions;
pub mod settings;
pub mod spiffe;
mod stream;
mod tls_error;
mod trust;
mod unbuffered;
pub mod x509;

pub use client_hello::{Hello, read_hello};
pub use diagnostics::{Diagnostics, Failed};
pub use handshake::accept;
pub use handshake_error::{HandshakeError, HandshakeErrorKind};
pub use rejected::RejectedCertificate;
pub use server::{Server, server};
pub use stream::{TlsStream, negotiated};
pub use tls_error::TlsError;
pub use trust::{
    ChainError, ChainErrorKind, IssuerError, IssuerProblem, PathError, TooManyElements, Trust,
    trusts,
};

/// Entry point of the fuzz target `tls_record`.
#[cfg(fuzzing)]
pub fn fuzz_records(data: &[u8]) {
    record::drive::drive(data);
}

/// Entry point of the fuzz target `tls_stream`.
#[cfg(fuzzing)]
pub fn fuzz_stream(data: &[u8]) {
    direct::drive::drive(data);
}

/// Entry point of the fuzz target `tls_model`.
#[cfg(fuzzing)]
pub fn fuzz_model(data: &[u8]) {
    model::drive(data);
}

/// Entry point of the fuzz target `chain`.
#[cfg(fuzzing)]
pub fn fuzz_chain(data: &[u8]) {
    let _ = trust::drive::drive(data);
}

/// Entry point of the fuzz target `crl`.
#[cfg(fuzzing)]
pub fn fuzz_crl(der: &[u8]) {
    crl::drive::drive(der);
}

/// Entry point of the fuzz target `patterns`.
#[cfg(fuzzing)]
pub fn fuzz_patterns(wide: &str, narrow: &str, name: &str) {
    pattern::drive::drive(wide, narrow, name);
}
