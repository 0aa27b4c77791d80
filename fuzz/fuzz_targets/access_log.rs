//! Writes access log lines with arbitrary text from certificates.
#![no_main]

libfuzzer_sys::fuzz_target!(|texts: (&str, &str, &str, &str)| {
    leastconn_server::fuzz_access_log([texts.0, texts.1, texts.2, texts.3]);
});
