//! Loads arbitrary text as a configuration, and renders all problems.
#![no_main]

libfuzzer_sys::fuzz_target!(|text: &str| leastconn_config::fuzz_configuration(text));
