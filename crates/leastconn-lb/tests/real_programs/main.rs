//! Tests of the binary with real software: servers (nginx, Redis, PostgreSQL and others),
//! other balancers (HAProxy) and clients (curl, openssl, psql, Python and others).
//!
//! `scripts/setup.sh --test` installs what the tests need. The tests of individual protocols are
//! skipped with a message if their server or client is missing. All other tests fail without their
//! programs. All tests use temporary directories and free ports. The only exception is
//! `/run/sshd`, which sshd needs as root.
// Helpers panic like the tests that call them.
#![allow(clippy::unwrap_used, clippy::expect_used)]

// Helpers that several tests share.
mod curl;
mod nginx;
mod openssl;
mod plain;
mod program;
mod service;
mod site;

mod admin_socket;
mod authorization;
mod check_command;
mod cipher_suites;
mod demo_command;
mod dns_discovery;
mod examples;
mod generated_files;
mod healthcheck_command;
mod http_health_check;
mod http_keep_alive;
mod lossy_network;
mod mtls_scripts;
mod pki_command;
mod prometheus;
mod proxy_protocol;
mod rate_limit;
mod readme_steps;
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

// Tests of the protocols in docs/reference/protocols.md.
mod amqp;
mod grpc;
mod http2;
mod java_key_limit;
mod ldap;
mod mariadb;
mod mqtt;
mod postgres;
mod redis;
mod smtp;
mod ssh;
mod websocket;
