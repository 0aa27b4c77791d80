//! Names of TLS alerts.

use rustls::AlertDescription;

/// The name of an alert, as in RFC 8446.
pub(super) fn name(alert: AlertDescription) -> String {
    let camel = match alert {
        AlertDescription::UnknownCA => "UnknownCa",
        AlertDescription::UnknownPSKIdentity => "UnknownPskIdentity",
        AlertDescription::UnrecognisedName => "UnrecognizedName",
        AlertDescription::EncryptedClientHelloRequired => "EchRequired",
        _ => alert.as_str().unwrap_or_default(),
    };
    if camel.is_empty() {
        return format!("alert_{}", u8::from(alert));
    }
    let mut name = String::new();
    for c in camel.chars() {
        if c.is_ascii_uppercase() && !name.is_empty() {
            name.push('_');
        }
        name.push(c.to_ascii_lowercase());
    }
    name
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn alert_names_are_those_of_the_rfc() {
        use AlertDescription as A;
        for (description, name) in [
            (A::UnknownCA, "unknown_ca"),
            (A::BadRecordMac, "bad_record_mac"),
            (A::CertificateRequired, "certificate_required"),
            (A::UnrecognisedName, "unrecognized_name"),
            (A::UnknownPSKIdentity, "unknown_psk_identity"),
            (A::Unknown(200), "alert_200"),
        ] {
            assert_eq!(super::name(description), name);
        }
    }
}
