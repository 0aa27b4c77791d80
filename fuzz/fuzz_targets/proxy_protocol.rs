//! Whatever bytes come where a PROXY header is expected: `make fuzz`.
#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| leastconn_server::proxy_protocol::fuzz_headers(data));
