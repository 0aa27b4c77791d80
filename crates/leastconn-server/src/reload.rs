//! Reloading the configuration.
//!
//! Steps that can fail come first: reading and checking files, building TLS configurations, opening
//! log files, binding addresses. Then the difference is applied in steps that cannot fail. If a
//! step fails, the running configuration remains unchanged.
//!
//! Reloads run on blocking threads, not on the workers: reading 100,000 rules takes a second.
//! Files are read first, without holding a lock, and reading is abandoned if it blocks (see
//! [`leastconn_config::files`]). Applying the result reads no file.

mod apply;
mod outcome;
mod read;
mod reloader;
mod tls_files;
mod tls_table;
pub(crate) mod tls_watch;

pub use reloader::Reloader;
