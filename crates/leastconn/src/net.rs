//! Connecting, relaying and probing on Tokio.
pub(crate) mod resolve;
