//! Addresses that the configuration does not accept.

use std::net::SocketAddr;

use leastconn::Address;

use super::{
    model::{Imported, ServerLine, Value},
    toml::VARIABLE_START,
};

/// Maximum length of the path of a UNIX socket in bytes.
const LONGEST_PATH: usize = 107;

/// Replaces invalid addresses of listeners and servers by notes. Addresses with variables are kept.
pub(crate) fn remove_invalid(imported: &mut Imported) {
    for service in &mut imported.services {
        let (valid, invalid): (Vec<_>, Vec<_>) = std::mem::take(&mut service.binds)
            .into_iter()
            .partition(|bind| is_bind(bind));
        service.binds = valid;
        for bind in invalid {
            let note = service
                .place
                .as_ref()
                .map(|place| place.left_out(format!("{bind:?} is not an address to listen on")));
            service.table.notes.extend(note);
        }
    }
    for backend in &mut imported.backends {
        let Some(place) = &backend.place else {
            continue;
        };
        for line in &mut backend.servers {
            let ServerLine::Server { table, .. } = line else {
                continue;
            };
            if let Some(Value::Text(address)) = table.get("address")
                && !is_server(address)
            {
                let note = place.left_out(format!("{address:?} is not the address of a server"));
                *line = ServerLine::Note(note);
            }
        }
    }
}

fn is_bind(text: &str) -> bool {
    text.contains(VARIABLE_START)
        || is_path(text).unwrap_or_else(|| text.parse::<SocketAddr>().is_ok())
}

fn is_server(text: &str) -> bool {
    text.contains(VARIABLE_START)
        || is_path(text).unwrap_or_else(|| text.parse::<Address>().is_ok())
}

/// Returns whether the path of a UNIX socket is valid. `None` if the address is another one.
fn is_path(text: &str) -> Option<bool> {
    let path = text.strip_prefix("unix:")?;
    Some((1..=LONGEST_PATH).contains(&path.len()) && !path.contains('\0'))
}

#[cfg(test)]
mod tests {
    use super::{is_bind, is_server};

    #[test]
    fn invalid_addresses_are_found() {
        for text in [
            "unix:",
            "10.0.0.1",
            "0.0.0.0:70000",
            &format!("unix:/{}", "x".repeat(107)),
        ] {
            assert!(!is_bind(text), "{text}");
            assert!(!is_server(text), "{text}");
        }
        for text in ["unix:/run/x.sock", "[::1]:80", "\u{1}HOST\u{2}:80"] {
            assert!(is_bind(text) && is_server(text), "{text}");
        }
        assert!(is_server("web:80") && !is_bind("web:80"));
    }
}
