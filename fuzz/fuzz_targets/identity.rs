//! Parses arbitrary bytes as a certificate, and determines its identity.
#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| leastconn_tls::certificate::fuzz(data));
