//! A client that seals any record it likes, before the record layer: `make fuzz`.
#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| leastconn_server::tls::fuzz_records(data));
