//! The program as its users meet it: the real binary, in front of real servers
//! (nginx, redis, PostgreSQL), behind and before real balancers (haproxy), asked by real clients (curl,
//! openssl, psql, python, redis-cli).
//!
//! A program that is missing makes the test fail with what to install; nothing is
//! skipped. Everything lives in temporary directories and on ports of its own.
// A failure here is a failure of the test, and a panic is how a test fails.
#![allow(clippy::unwrap_used, clippy::expect_used)]

// What the tests stand on.
mod curl;
mod nginx;
mod openssl;
mod program;
mod site;

// One behaviour each.
mod admin_socket;
mod authorization;
mod check_command;
mod cipher_suites;
mod demo_command;
mod examples;
mod generated_files;
mod healthcheck_command;
mod http_health_check;
mod http_keep_alive;
mod mtls_scripts;
mod pki_command;
mod postgres;
mod prometheus;
mod proxy_protocol;
mod rate_limit;
mod readme_steps;
mod redis;
mod refused_clients;
mod resumption;
mod resumption_disabled;
mod server_outage;
mod shipped_configurations;
mod socket_activation;
mod tls_alerts;
mod tls_shutdown;
mod top_command;
mod upstream_tls;
