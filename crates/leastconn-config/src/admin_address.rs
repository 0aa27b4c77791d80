//! Reads only the address of the admin interface from a configuration file.
//!
//! Commands such as `ctl` need only this address. They must work even if the rest of the file is
//! invalid, or names certificates that the user cannot read.

use std::{
    net::SocketAddr,
    path::{Path, PathBuf},
};

use toml::de::{DeTable, DeValue};

use super::{Problems, expand, read_file};

/// The address of an admin interface.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct AdminAddress {
    pub bind: Option<SocketAddr>,
    pub socket: Option<PathBuf>,
    /// Whether the file has an `[admin]` table.
    pub has_admin: bool,
    /// Message of the first syntax error in the file. `bind` and `socket` may be missing if
    /// they follow the error in the file.
    pub broken: Option<String>,
}

/// Reads the address of the admin interface from the file at `path`.
///
/// # Errors
/// Returns a message if the file or the address cannot be read.
pub fn admin_address(path: &Path) -> Result<AdminAddress, String> {
    let wrong = |what: &dyn std::fmt::Display| format!("{}: {what}", path.display());
    let bytes = read_file(path).map_err(|error| wrong(&error))?;
    let text = String::from_utf8(bytes).map_err(|_| wrong(&"the file is not UTF-8 text"))?;
    let (document, errors) = DeTable::parse_recoverable(&text);
    let problems = || Problems::new(&path.display().to_string(), &text);
    let mut syntax = problems();
    syntax.syntax(&errors);
    let broken = syntax.error_lines().next();
    let mut problems = problems();
    let mut document = document.into_inner();
    let Some((_, admin)) = document
        .iter_mut()
        .find(|(key, _)| key.get_ref().as_ref() == "admin")
    else {
        return Ok(AdminAddress {
            broken,
            ..AdminAddress::default()
        });
    };
    let span = admin.span();
    let environment = |name: &str| std::env::var(name);
    expand::expand(admin.get_mut(), &span, &environment, &mut problems);
    if let Some(line) = problems.error_lines().next() {
        return Err(line);
    }
    let text = |key: &str| {
        let DeValue::Table(table) = admin.get_ref() else {
            return None;
        };
        let mut entries = table.iter();
        let (_, value) = entries.find(|(name, _)| name.get_ref().as_ref() == key)?;
        match value.get_ref() {
            DeValue::String(text) => Some(text.to_string()),
            _ => None,
        }
    };
    let directory = path.parent().unwrap_or(Path::new(""));
    Ok(AdminAddress {
        bind: text("bind")
            .map(|bind| {
                let unreadable = |_| wrong(&format!("`bind` of `[admin]` is {bind:?}"));
                bind.parse().map_err(unreadable)
            })
            .transpose()?,
        socket: text("socket").map(|socket| directory.join(socket)),
        has_admin: true,
        broken,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_the_admin_table_is_checked() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("lb.toml");
        let at = |text: &str| {
            std::fs::write(&path, text).unwrap();
            admin_address(&path)
        };
        let found = at("[admin]\nsocket = \"${NOT_SET_ANYWHERE:-lb}.sock\"\n[[listener]]\ntls = { cert = \"missing\" }\nbind = [[[\n").unwrap();
        assert_eq!(found.socket, Some(dir.path().join("lb.sock")));
        assert_eq!(found.bind, None);
        let broken = found.broken.unwrap();
        assert!(broken.contains("lb.toml:5:"), "{broken}");
        let found = at("admin = { bind = \"[::1]:9\", socket = \"/run/x\" }").unwrap();
        assert_eq!(found.bind, Some("[::1]:9".parse().unwrap()));
        assert_eq!(found.socket, Some("/run/x".into()));
        let found = at("[[[\n").unwrap();
        assert_eq!((found.bind, found.socket), (None, None));
        let broken = found.broken.unwrap();
        assert!(broken.contains("lb.toml:1:3: error: "), "{broken}");
        assert_eq!(at("[log]\n").unwrap(), AdminAddress::default());
        let empty = AdminAddress {
            has_admin: true,
            ..AdminAddress::default()
        };
        assert_eq!(at("admin = 1\n").unwrap(), empty);
        let unset = at("admin = { socket = \"${NOT_SET_ANYWHERE}\" }").unwrap_err();
        assert!(unset.contains("`NOT_SET_ANYWHERE` is not set"), "{unset}");
        let wrong = at("admin = { bind = \"localhost:1\" }").unwrap_err();
        assert!(wrong.contains("`bind` of `[admin]`"), "{wrong}");
        let missing = admin_address(&dir.path().join("none")).unwrap_err();
        assert!(missing.contains("No such file"), "{missing}");
    }
}
