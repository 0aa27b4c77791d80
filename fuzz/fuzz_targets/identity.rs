//! Any bytes as a certificate: who is it? `make fuzz`.
#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| leastconn_server::identity::fuzz(data));
