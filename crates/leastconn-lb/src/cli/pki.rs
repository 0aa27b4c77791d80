//! `pki`: a small CA for tests and small sites.

use std::io::Write;
use std::net::IpAddr;
use std::path::{Path, PathBuf};

use crate::figures;
use crate::pki::{
    Authority, CA_CRL, Leaf, Lock, Overwrite, PkiError, RevocationList, Usage, file_stem,
    refuse_existing, validate_stem, write_private, write_public,
};

#[derive(Debug, clap::Subcommand)]
pub enum PkiCommand {
    /// Create a CA: ca.crt, ca.key and an empty ca.crl
    Init {
        /// Directory to write to; created if it does not exist
        dir: PathBuf,
        /// Common name of the CA [default: "leastconn CA" and a random number]
        #[arg(long, value_name = "NAME")]
        cn: Option<String>,
        /// Days until the CA certificate expires
        #[arg(long, value_name = "N", default_value_t = 3650, value_parser = days())]
        days: u32,
        /// Days until the CRL expires
        #[arg(long, value_name = "N", default_value_t = 30, value_parser = days())]
        crl_days: u32,
    },
    /// Issue a certificate: NAME.crt and NAME.key
    Issue(Issue),
    /// Revoke a certificate: add it to ca.crl
    Revoke {
        /// Directory of the CA
        dir: PathBuf,
        /// Certificate to revoke (PEM)
        cert: PathBuf,
        /// Days until the CRL expires
        #[arg(long, value_name = "N", default_value_t = 30, value_parser = days())]
        days: u32,
        /// Also replace this copy of the CRL, such as the file named by `crl` in the
        /// configuration; can be repeated
        #[arg(long, value_name = "FILE")]
        copy: Vec<PathBuf>,
    },
    /// Renew ca.crl: sign it again before it expires
    Crl {
        /// Directory of the CA
        dir: PathBuf,
        /// Days until the CRL expires
        #[arg(long, value_name = "N", default_value_t = 30, value_parser = days())]
        days: u32,
        /// Also replace this copy of the CRL, such as the file named by `crl` in the
        /// configuration; can be repeated
        #[arg(long, value_name = "FILE")]
        copy: Vec<PathBuf>,
        /// Create the first, empty CRL of a CA that has none
        #[arg(long)]
        new: bool,
    },
}

/// Arguments of `pki issue`.
#[derive(Debug, clap::Args)]
pub struct Issue {
    /// Directory of the CA; the certificate is written there too
    dir: PathBuf,
    /// Common name
    #[arg(long, value_name = "NAME")]
    cn: String,
    /// DNS name; can be repeated [default for servers: the common name]
    #[arg(long, value_name = "NAME")]
    dns: Vec<String>,
    /// URI, such as a SPIFFE ID; can be repeated, but a SPIFFE ID must be the only URI
    #[arg(long, value_name = "URI")]
    uri: Vec<String>,
    /// IP address; can be repeated
    #[arg(long, value_name = "ADDRESS")]
    ip: Vec<IpAddr>,
    /// Days until the certificate expires
    #[arg(long, value_name = "N", default_value_t = 365, value_parser = days())]
    days: u32,
    /// For servers only [default: servers and clients]
    #[arg(long, conflicts_with = "client")]
    server: bool,
    /// For clients only [default: servers and clients]
    #[arg(long)]
    client: bool,
    /// File name without extension [default: from the common name]
    #[arg(long, value_name = "NAME")]
    out: Option<String>,
    /// Overwrite an existing certificate and key
    #[arg(long)]
    force: bool,
}

fn days() -> clap::builder::RangedI64ValueParser<u32> {
    clap::value_parser!(u32).range(1..=i64::from(crate::pki::MAX_DAYS))
}

/// Executes `command` and prints the name of every file that it writes.
///
/// # Errors
/// [`PkiError`], with the file and what to do about it.
pub fn run(command: PkiCommand) -> Result<(), PkiError> {
    run_to(command, &mut std::io::stdout(), &mut std::io::stderr())
}

/// Like [`run`], with output to `out` and warnings to `warnings`.
///
/// # Errors
/// Like [`run`]. Errors of `out` and `warnings` are ignored, because the files have been written.
pub fn run_to(
    command: PkiCommand,
    out: &mut dyn Write,
    warnings: &mut dyn Write,
) -> Result<(), PkiError> {
    match command {
        PkiCommand::Init {
            dir,
            cn,
            days,
            crl_days,
        } => {
            let cn = cn.unwrap_or_else(default_name);
            init(&dir, &cn, days, crl_days, out)
        }
        PkiCommand::Issue(args) => issue(args, out),
        PkiCommand::Revoke {
            dir,
            cert,
            days,
            copy,
        } => {
            let crl = Crl {
                dir: &dir,
                days,
                copies: &copy,
            };
            revoke(&crl, &cert, out, warnings)
        }
        PkiCommand::Crl {
            dir,
            days,
            copy,
            new,
        } => {
            let crl = Crl {
                dir: &dir,
                days,
                copies: &copy,
            };
            renew(&crl, new, out, warnings)
        }
    }
}

/// Returns a random name. Error messages, and balancers that trust several CAs, identify a
/// CA by its name, so the names should differ.
fn default_name() -> String {
    format!("leastconn CA {:08x}", leastconn::net::random() >> 32)
}

fn init(
    dir: &Path,
    cn: &str,
    days: u32,
    crl_days: u32,
    out: &mut dyn Write,
) -> Result<(), PkiError> {
    let authority = Authority::create(cn, days)?;
    let crl = authority.crl(&RevocationList::new(), crl_days)?;
    let _lock = Lock::take_new(dir)?;
    for path in authority.save(dir)? {
        wrote(&path, out);
    }
    write_crl(dir, &crl, &[], out)
}

fn issue(args: Issue, out: &mut dyn Write) -> Result<(), PkiError> {
    let stem = match args.out {
        Some(name) => {
            validate_stem(&name)?;
            name
        }
        None => file_stem(&args.cn)?,
    };
    // Without the lock, two commands with `--force` and the same name could mix their keys
    // and certificates.
    let _lock = Lock::take(&args.dir)?;
    let authority = Authority::load(&args.dir)?;
    let leaf = Leaf {
        cn: args.cn,
        dns: args.dns,
        uris: args.uri,
        ips: args.ip,
        days: args.days,
        usage: match (args.server, args.client) {
            (true, false) => Usage::Server,
            (false, true) => Usage::Client,
            _ => Usage::Both,
        },
    };
    let issued = authority.issue(&leaf)?;
    let overwrite = if args.force {
        Overwrite::Allow
    } else {
        Overwrite::Refuse {
            hint: "use --out NAME for another file, or --force",
        }
    };
    let key = args.dir.join(format!("{stem}.key"));
    let cert = args.dir.join(format!("{stem}.crt"));
    if let Overwrite::Refuse { hint } = overwrite {
        // Check both files before writing either.
        refuse_existing(&key, hint)?;
        refuse_existing(&cert, hint)?;
    }
    write_private(&key, &issued.key_pem, overwrite)?;
    write_public(&cert, &issued.cert_pem, overwrite)?;
    wrote(&cert, out);
    wrote(&key, out);
    Ok(())
}

/// The CRL to write.
#[derive(Clone, Copy)]
struct Crl<'a> {
    /// The directory of the CA.
    dir: &'a Path,
    days: u32,
    copies: &'a [PathBuf],
}

fn revoke(
    crl: &Crl<'_>,
    cert: &Path,
    out: &mut dyn Write,
    warnings: &mut dyn Write,
) -> Result<(), PkiError> {
    let Crl { dir, days, copies } = *crl;
    let _lock = Lock::take(dir)?;
    let authority = Authority::load(dir)?;
    let mut list = RevocationList::load(dir, &authority)?;
    let added = merge_openssl(&mut list, dir, warnings)?;
    if !list
        .revoke(&authority, dir, cert)
        .map_err(|error| with_hint(error, dir))?
    {
        let _ = writeln!(out, "{} is already revoked", cert.display());
        if added == 0 {
            return Ok(());
        }
    }
    write_crl(dir, &authority.crl(&list, days)?, copies, out)
}

fn renew(
    crl: &Crl<'_>,
    is_new: bool,
    out: &mut dyn Write,
    warnings: &mut dyn Write,
) -> Result<(), PkiError> {
    let Crl { dir, days, copies } = *crl;
    let _lock = Lock::take(dir)?;
    let authority = Authority::load(dir)?;
    let mut list = if is_new {
        refuse_existing(&dir.join(CA_CRL), "renew it without --new")?;
        RevocationList::new()
    } else {
        RevocationList::load(dir, &authority)?
    };
    merge_openssl(&mut list, dir, warnings)?;
    write_crl(dir, &authority.crl(&list, days)?, copies, out)
}

/// Names the file in `dir` if only the name of a certificate was given.
fn with_hint(error: PkiError, dir: &Path) -> PkiError {
    let PkiError::Read { path, source } = error else {
        return error;
    };
    let name = path.file_name().map(|name| {
        let mut name = name.to_owned();
        name.push(".crt");
        name
    });
    let meant = [
        name.map(|name| dir.join(name)),
        path.file_name().map(|name| dir.join(name)),
    ];
    let meant = meant.into_iter().flatten().find(|meant| meant.is_file());
    match meant {
        Some(meant) if source.kind() == std::io::ErrorKind::NotFound => {
            let reason = format!("{source}; did you mean {}?", meant.display());
            let source = std::io::Error::new(source.kind(), reason);
            PkiError::Read { path, source }
        }
        _ => PkiError::Read { path, source },
    }
}

/// Adds the revocations by `openssl ca`, and prints a warning if it uses the same directory.
/// Returns the number of revocations that were added.
fn merge_openssl(
    list: &mut RevocationList,
    dir: &Path,
    warnings: &mut dyn Write,
) -> Result<usize, PkiError> {
    let Some(added) = list.merge_openssl(dir)? else {
        return Ok(0);
    };
    let database = dir.join("index.txt");
    let database = database.display();
    let added_text = figures::count(added, "revocation");
    let _ = writeln!(
        warnings,
        "warning: {database} is the database of `openssl ca`: {added_text} added from it. `openssl ca \
         -gencrl` would sign a CRL without the revocations by `pki revoke`: revoke with `openssl ca \
         -revoke`, then sign with `pki crl`"
    );
    Ok(added)
}

fn write_crl(
    dir: &Path,
    pem: &str,
    copies: &[PathBuf],
    out: &mut dyn Write,
) -> Result<(), PkiError> {
    // Write the CA's own file first: the next CRL is derived from it.
    for path in std::iter::once(&dir.join(CA_CRL)).chain(copies) {
        write_public(path, pem, Overwrite::Allow)?;
        wrote(path, out);
    }
    Ok(())
}

fn wrote(path: &Path, out: &mut dyn Write) {
    // `println!` would panic if standard output is closed.
    let _ = writeln!(out, "wrote {}", path.display());
}
