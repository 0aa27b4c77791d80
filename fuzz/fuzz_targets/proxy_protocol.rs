//! Parses arbitrary bytes as a PROXY header.
#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| leastconn_proxy_protocol::check_invariants(data));
