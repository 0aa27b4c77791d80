//! Feeds arbitrary records, split at arbitrary points, to a TLS stream.
#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| leastconn_tls::fuzz_stream(data));
