//! Arbitrary bytes in place of a PROXY header: `make fuzz`.
#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| leastconn_proxy_protocol::check_invariants(data));
