//! A client that seals any record it likes: `cargo +nightly fuzz run tls_record`.
#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| leastconn_lb::tls::fuzz_records(data));
