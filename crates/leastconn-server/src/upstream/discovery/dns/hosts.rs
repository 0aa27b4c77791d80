//! Addresses in `/etc/hosts`.

use std::{collections::BTreeSet, net::IpAddr};

use super::is_usable;

/// The usable addresses of `name` in the contents of a hosts file. Like the C library's resolver,
/// compares the name as configured, without search domains.
pub(super) fn addresses(contents: &[u8], name: &str) -> BTreeSet<IpAddr> {
    let text = String::from_utf8_lossy(contents);
    let address = |line: &str| {
        let line = line.split('#').next()?;
        let mut words = line.split_whitespace();
        let address: IpAddr = words.next()?.parse().ok()?;
        let is_named = words.any(|word| word.eq_ignore_ascii_case(name));
        (is_named && is_usable(address)).then_some(address)
    };
    text.lines().filter_map(address).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    const HOSTS: &[u8] = b"127.0.0.1 localhost\n\
        10.0.0.1\tweb.site Web # web.old\n\
        10.0.0.2 web\r\n\
        fd00::1 web\n\
        0.0.0.0 web ads.site\n\
        #10.0.0.3 web\n\
        ten.0.0.4 web\n\
        \xff\xfe\n\
        10.0.0.5";

    fn found(name: &str) -> Vec<String> {
        let found = addresses(HOSTS, name);
        found.iter().map(IpAddr::to_string).collect()
    }

    #[test]
    fn all_lines_with_the_name_count() {
        assert_eq!(found("web"), ["10.0.0.1", "10.0.0.2", "fd00::1"]);
        assert_eq!(found("WEB.site"), ["10.0.0.1"]);
    }

    #[test]
    fn comments_and_unusable_addresses_are_ignored() {
        for name in ["web.old", "ads.site", "10.0.0.5", "we", "", "#"] {
            assert_eq!(found(name), [""; 0], "{name}");
        }
    }
}
