//! Parses arbitrary bytes as a CRL, with rustls-webpki as the model.
#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| leastconn_tls::fuzz_crl(data));
