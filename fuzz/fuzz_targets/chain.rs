//! Verifies arbitrary chains below an authority whose key no longer exists, and determines the
//! identity of accepted clients.
#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| leastconn_tls::fuzz_chain(data));
