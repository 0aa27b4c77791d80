//! Feeds arbitrary records, encrypted by a client, to the record layer.
#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| leastconn_tls::fuzz_records(data));
