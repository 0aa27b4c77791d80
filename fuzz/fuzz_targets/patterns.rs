//! Matches arbitrary patterns against arbitrary names.
#![no_main]

libfuzzer_sys::fuzz_target!(|texts: (&str, &str, &str)| {
    leastconn_tls::fuzz_patterns(texts.0, texts.1, texts.2);
});
