//! The same before a stream, over a wire that cuts anywhere: `make fuzz`.
#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| leastconn_server::tls::fuzz_stream(data));
