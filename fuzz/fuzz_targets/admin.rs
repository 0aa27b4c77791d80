//! Parses arbitrary bytes as a body, a query, a host or a value of an admin request.
#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| {
    if let [kind, input @ ..] = data {
        leastconn_server::fuzz_admin(*kind, input);
    }
});
