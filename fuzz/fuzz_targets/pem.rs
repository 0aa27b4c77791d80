//! Parses arbitrary bytes as a file with certificates, a key or CRLs.
#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| {
    if let [wanted, bytes @ ..] = data {
        leastconn_config::fuzz_pem(*wanted, bytes);
    }
});
