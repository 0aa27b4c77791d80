//! Critical extensions of certificates, and which of them are supported.

use x509_parser::{
    certificate::X509Certificate, extensions::PolicyConstraints, prelude::FromDer as _,
};

/// Extensions of RFC 5280 that can be ignored, because no certificate policy is required.
const NO_ACTION: [&str; 10] = [
    "2.5.29.9",           // subjectDirectoryAttributes
    "2.5.29.14",          // subjectKeyIdentifier
    "2.5.29.18",          // issuerAltName
    "2.5.29.32",          // certificatePolicies
    "2.5.29.33",          // policyMappings
    "2.5.29.35",          // authorityKeyIdentifier
    "2.5.29.46",          // freshestCRL
    "2.5.29.54",          // inhibitAnyPolicy
    "1.3.6.1.5.5.7.1.1",  // authorityInfoAccess
    "1.3.6.1.5.5.7.1.11", // subjectInfoAccess
];

/// Extensions that rustls-webpki processes.
const PROCESSED: [&str; 7] = [
    "2.5.29.15",
    "2.5.29.17",
    "2.5.29.19",
    "2.5.29.30",
    "2.5.29.31",
    "2.5.29.37",
    "1.3.6.1.4.1.11129.2.4.2",
];

/// policyConstraints, which can be ignored unless it requires an explicit policy.
const POLICY_CONSTRAINTS: &str = "2.5.29.36";

/// The OID of the first critical extension that is not supported.
pub fn unknown_critical(certificate: &X509Certificate<'_>) -> Option<String> {
    let extensions = certificate.extensions().iter();
    let mut critical = extensions.filter(|extension| extension.critical);
    let unknown = critical.find(|extension| {
        let oid = extension.oid.to_id_string();
        !PROCESSED.contains(&&*oid) && !needs_no_action(&oid, extension.value)
    });
    unknown.map(|extension| extension.oid.to_id_string())
}

/// Whether an extension with this OID and value can be ignored, even if it is critical.
pub fn needs_no_action(oid: &str, value: &[u8]) -> bool {
    if oid == POLICY_CONSTRAINTS {
        let constraints = PolicyConstraints::from_der(value);
        return constraints.is_ok_and(|(rest, parsed)| {
            rest.is_empty() && parsed.require_explicit_policy.is_none()
        });
    }
    NO_ACTION.contains(&oid)
}
