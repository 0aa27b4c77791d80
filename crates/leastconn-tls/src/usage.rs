//! The role of a peer, which decides what its certificate must be usable for.

/// The role of the peer that presents a certificate.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Usage {
    Client,
    Server,
}
