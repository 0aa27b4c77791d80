//! Verifies arbitrary chains below an authority whose key no longer exists, and determines the
//! identity of accepted clients. `fuzz/seeds.py` has generated the certificates.
#![no_main]

use leastconn_tls::Material;

const MATERIAL: Material = Material {
    authority: include_bytes!("../material/authority.der"),
    clients: &[
        include_bytes!("../material/client.der"),
        include_bytes!("../material/below-intermediate.der"),
        include_bytes!("../material/below-constrained.der"),
    ],
    // 2030-01-01
    now: 1_893_456_000,
};

libfuzzer_sys::fuzz_target!(|data: &[u8]| leastconn_tls::fuzz_chain(&MATERIAL, data));
