//! Performs arbitrary operations on a TLS stream and on a rustls client connected to it.
#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| leastconn_tls::fuzz_model(data));
