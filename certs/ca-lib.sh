# shellcheck shell=sh
# Functions for a small certificate authority (CA), sourced by the scripts in this
# directory.
#
# A CA is a directory with ca.crt, ca.key.pem, ca.crl, and db/, the database of
# `openssl ca` (issued and revoked serial numbers). Configuration files are used
# instead of options such as -addext or -not_after, so that OpenSSL 1.1.1 and 3.x
# behave the same.

CURVE=P-256
CA_DAYS=3650
LEAF_DAYS=397
CRL_DAYS=365
# Certificates that expire within this time are replaced (seconds).
RENEW_BEFORE=2592000

say() { printf '%s\n' "$*"; }
die() {
  printf '%s: %s\n' "${0##*/}" "$*" >&2
  exit 1
}

need_openssl() {
  command -v openssl >/dev/null 2>&1 || die "openssl is not installed (Debian, Ubuntu: apt-get install openssl)"
  # Holds the configuration file of `openssl ca`, which is written before each call.
  WORK=$(mktemp -d "${TMPDIR:-/tmp}/leastconn-certs.XXXXXX")
  trap 'rm -rf "$WORK"' EXIT
  trap 'exit 130' INT
  trap 'exit 143' TERM
}

# Runs openssl, and prints its output only if it fails.
quietly() {
  if ! openssl "$@" >"$WORK/out" 2>&1; then
    cat "$WORK/out" >&2
    die "openssl $1 failed"
  fi
}

new_key() { # FILE
  (umask 077 && quietly genpkey -algorithm EC -pkeyopt "ec_paramgen_curve:$CURVE" -out "$1.new")
  mv -f "$1.new" "$1"
}

ca_conf() { # CA_DIR [EXTENSIONS-OF-A-LEAF]
  cat >"$WORK/ca.cnf" <<EOF
[ca]
default_ca = this_ca
[this_ca]
database         = $1/db/index.txt
crlnumber        = $1/db/crlnumber
new_certs_dir    = $WORK
certificate      = $1/ca.crt
private_key      = $1/ca.key.pem
rand_serial      = yes
unique_subject   = no
default_md       = sha256
default_days     = $LEAF_DAYS
default_crl_days = $CRL_DAYS
policy           = any_name
crl_extensions   = crl_ext
[any_name]
organizationName = optional
commonName       = supplied
[crl_ext]
authorityKeyIdentifier = keyid:always
[req]
prompt             = no
distinguished_name = ca_name
[ca_name]
O  = leastconn
CN = ${CA_NAME:-leastconn test CA}
[ca_ext]
basicConstraints     = critical, CA:TRUE, pathlen:0
keyUsage             = critical, keyCertSign, cRLSign
subjectKeyIdentifier = hash
[leaf_ext]
basicConstraints       = critical, CA:FALSE
keyUsage               = critical, digitalSignature
subjectKeyIdentifier   = hash
authorityKeyIdentifier = keyid:always
${2:-}
EOF
}

# Creates a CA and an empty CRL.
new_ca() { # CA_DIR NAME
  CA_NAME=$2
  mkdir -p "$1/db"
  chmod 700 "$1/db"
  : >"$1/db/index.txt"
  printf '01\n' >"$1/db/crlnumber"
  ca_conf "$1"
  new_key "$1/ca.key.pem"
  quietly req -x509 -new -sha256 -config "$WORK/ca.cnf" -extensions ca_ext \
    -key "$1/ca.key.pem" -days "$CA_DAYS" -out "$1/ca.crt"
  chmod 644 "$1/ca.crt"
  write_crl "$1"
}

# Writes the CRL atomically, so that readers never see a partial file.
write_crl() { # CA_DIR
  ca_conf "$1"
  quietly ca -config "$WORK/ca.cnf" -gencrl -out "$1/ca.crl.new"
  chmod 644 "$1/ca.crl.new"
  mv -f "$1/ca.crl.new" "$1/ca.crl"
}

# Issues a key and a certificate. USAGE is serverAuth or clientAuth; SAN is "DNS:a, IP:b". VALIDITY is
# optional: "-startdate YYYYMMDDHHMMSSZ -enddate …".
issue() { # CA_DIR OUT_WITHOUT_SUFFIX CN USAGE SAN [VALIDITY]
  mkdir -p "$(dirname "$2")"
  ca_conf "$1" "extendedKeyUsage = $4
subjectAltName   = $5"
  new_key "$2.key.pem"
  quietly req -new -sha256 -config "$WORK/ca.cnf" -key "$2.key.pem" \
    -subj "/O=leastconn/CN=$3" -out "$WORK/leaf.csr"
  # shellcheck disable=SC2086 # the validity consists of several words
  quietly ca -batch -notext -config "$WORK/ca.cnf" -extensions leaf_ext ${6:-} \
    -in "$WORK/leaf.csr" -out "$2.crt.new"
  chmod 644 "$2.crt.new"
  mv -f "$2.crt.new" "$2.crt"
}

# True if the certificate was issued by this CA, matches its key, and does not expire
# soon.
still_good() { # CA_DIR OUT_WITHOUT_SUFFIX
  [ -s "$2.crt" ] && [ -s "$2.key.pem" ] &&
    openssl x509 -in "$2.crt" -noout -checkend "$RENEW_BEFORE" >/dev/null 2>&1 &&
    belongs "$1" "$2"
}

# True if the certificate was issued by this CA and matches its key.
belongs() { # CA_DIR OUT_WITHOUT_SUFFIX
  [ -s "$2.crt" ] && [ -s "$2.key.pem" ] &&
    openssl verify -no_check_time -CAfile "$1/ca.crt" "$2.crt" >/dev/null 2>&1 &&
    [ "$(openssl x509 -in "$2.crt" -noout -pubkey 2>/dev/null)" = "$(openssl pkey -in "$2.key.pem" -pubout 2>/dev/null)" ]
}
