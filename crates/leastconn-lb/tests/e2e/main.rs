//! The server from outside: the real program, real sockets, one behaviour a file.
//!
//! Each test has a balancer of its own, on ports that the system picks, and ends by
//! asserting that nothing is in flight and no file is left open. Long variants run
//! with `LEASTCONN_LONG=1`.
#![allow(clippy::unwrap_used, clippy::expect_used)]

mod servers;
mod serves_a_dashboard;
mod support;
mod upgrading;

mod alpn;
mod answers_as_its_openapi_document_says;
mod answers_on_the_admin_address_while_saturated;
mod authorizes_by_the_first_rule_that_matches;
mod bounds_what_slow_readers_hold;
mod caps_what_it_takes_on;
mod carries_bytes_unchanged;
mod checks_health_over_tls;
mod confines_itself;
mod documents_its_metrics;
mod ends_floods_of_key_updates;
mod ends_handshakes_at_one_deadline;
mod ends_silent_connections;
mod ends_what_has_run_out;
mod ends_when_told_to;
mod explains_what_would_happen;
mod goes_on_when_an_upgrade_fails;
mod goes_on_without_its_access_log;
mod hands_over_what_it_was_told;
mod hears_signals_from_the_start;
mod judges_open_connections_again;
mod keeps_its_admin_socket_to_itself;
mod knows_clients_by_all_that_a_certificate_says;
mod learns_clients_from_proxy_headers;
mod lets_no_source_keep_others_waiting;
mod limits_each_identity_apart;
mod limits_each_source_apart;
mod listens_on_several_addresses;
mod loads_files_that_change;
mod logs_whose_handshake_failed;
mod passes_on_half_closes;
mod passes_on_resets;
mod reaches_what_is_left_open;
mod refuses_ambiguous_identities;
mod refuses_certificates_with_a_reason;
mod refuses_what_is_not_tls;
mod refuses_who_sends_no_proxy_header;
mod reloads_its_admin_address;
mod reloads_only_what_changed;
mod reloads_under_load;
mod resumes_no_session;
mod resumes_sessions_where_told_to;
mod routes_by_server_name;
mod says_what_is_running;
mod says_why_it_does_not_start;
mod shows_its_state_on_the_admin_address;
mod speaks_tls_1_2_and_1_3;
mod speaks_tls_to_servers;
mod spreads_as_the_upstream_says;
mod spreads_by_least_connections;
mod stays_as_the_first_process;
mod steers_a_running_balancer;
mod survives_running_out_of_descriptors;
mod survives_servers_that_stop;
mod takes_a_hello_in_pieces;
mod takes_certificates_of_every_kind;
mod takes_changes_only_from_whom_it_may;
mod takes_sockets_from_systemd;
mod tells_its_state_as_json;
mod tells_servers_who_connects;
mod tells_the_service_manager;
mod tells_what_is_known_of_each_ending;
mod upgrades_unnoticed;
mod verifies_servers;
mod writes_one_record_a_socket;
