//! LDAPS: OpenLDAP's clients and server.

use std::{fs, process::Command};

use crate::{
    program::{self, Input, Port, run, run_with, tool},
    service::{Front, Service, TCP_PROBES, are_installed},
    site::Certs,
};

const ENTRIES: &str = "\
dn: dc=example,dc=com
objectClass: dcObject
objectClass: organization
dc: example
o: Example

dn: cn=test,dc=example,dc=com
objectClass: organizationalRole
cn: test
description: found
";

const ADMIN: &str = "cn=admin,dc=example,dc=com";

#[tokio::test]
async fn ldaps_clients_add_and_search() {
    if !are_installed(&[("slapd", "slapd"), ("ldapsearch", "ldap-utils")]) {
        return;
    }
    let certs = Certs::generate().await;
    let data = certs.dir().join("data");
    fs::create_dir(&data).unwrap();
    let config = certs.dir().join("slapd.conf");
    let lines = format!(
        "include /etc/ldap/schema/core.schema\nmodulepath /usr/lib/ldap\nmoduleload back_mdb\n\
         database mdb\nsuffix \"dc=example,dc=com\"\nrootdn \"cn=admin,dc=example,dc=com\"\n\
         rootpw secret\ndirectory {}\n",
        data.display()
    );
    fs::write(&config, lines).unwrap();
    let port = Port::reserve();
    let mut server = Command::new(program::path("slapd"));
    server.args(["-d", "0", "-h", &format!("ldap://{}/", port.address), "-f"]);
    server.arg(&config);
    let log = certs.dir().join("slapd.log");
    let _server = Service::start(server, port.address, &log).await;
    let front = Front::start(certs, port.address, "", TCP_PROBES).await;
    let client = |name: &str| {
        let [ca, cert, key] = front.files();
        let mut client = tool(name);
        client.env("LDAPTLS_CACERT", ca);
        client.env("LDAPTLS_CERT", cert).env("LDAPTLS_KEY", key);
        // Use an IP address: for `localhost`, libldap would require the host name in the
        // certificate.
        let uri = format!("ldaps://127.0.0.1:{}", front.port());
        client.args(["-H", &uri, "-x", "-w", "secret", "-D", ADMIN]);
        client
    };
    let mut add = client("ldapadd");
    run_with(&mut add, Input::Text(ENTRIES.as_bytes()))
        .await
        .ok();
    let mut search = client("ldapsearch");
    search.args(["-LLL", "-b", "dc=example,dc=com", "(cn=test)"]);
    let found = run(&mut search).await.ok();
    assert!(found.stdout.contains("description: found"), "{found:?}");
    front.finish(2).await;
}
