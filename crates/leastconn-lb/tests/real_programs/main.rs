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
mod a_server_stopped_under_load_costs_no_request_and_comes_back;
mod a_session_is_neither_resumed_nor_renegotiated;
mod a_web_server_that_answers_503_gets_no_connections;
mod check_reports_every_problem_at_its_place;
mod client1_reaches_both_servers_client2_one;
mod curl_sends_several_requests_over_one_connection;
mod curl_steers_over_the_admin_socket;
mod every_example_is_checked_and_started;
mod haproxy_and_nginx_understand_proxy_headers;
mod healthcheck_exits_with_what_it_found;
mod of_21_at_once_one_is_rate_limited;
mod openssl_is_told_why_it_is_refused;
mod openssl_resumes_where_it_may;
mod openssl_speaks_every_suite_of_the_seed;
mod pki_makes_certificates_that_others_accept;
mod postgres_clients_pass_through;
mod promtool_has_no_complaints;
mod python_ends_cleanly_or_abruptly;
mod redis_clients_pass_through;
mod schema_completions_and_manual_are_well_formed;
mod shipped_configurations_serve;
mod systemd_passes_its_sockets;
mod the_demo_shows_every_refusal_and_leaves_nothing;
mod the_readme_s_first_steps_work;
mod the_scripts_say_that_all_is_as_expected;
mod tls_to_nginx_and_openssl;
mod top_shows_a_running_balancer_in_a_terminal;
mod who_is_refused_reaches_no_server;
