//! Diagnostics about listeners and addresses.

use super::check_all;

#[test]
fn listener_problems_are_described() {
    check_all(&[
        // PROXY headers
        (
            "upstream =",
            "proxy_protocol = \"required\"\nupstream =",
            "warning: everyone who can reach this listener can claim any address; `source` rules",
        ),
        (
            "upstream =",
            "proxy_protocol_from = \"10.0.0.0/8\"\nupstream =",
            "error: `proxy_protocol_from` has no effect: PROXY headers are not read; add `proxy_protocol = \"required\"`",
        ),
        (
            "upstream =",
            "proxy_protocol = \"off\"\nproxy_protocol_from = \"10.0.0.0/8\"\nupstream =",
            "error: `proxy_protocol_from` has no effect: PROXY headers are not read",
        ),
        (
            "upstream =",
            "proxy_protocol = \"required\"\nproxy_protocol_from = []\nupstream =",
            "error: `proxy_protocol_from` is an empty list: it would match no client",
        ),
        (
            "upstream =",
            "proxy_protocol = \"required\"\nproxy_protocol_from = \"10.0.0.1/8\"\nupstream =",
            "error: `proxy_protocol_from`: the address has bits set beyond its prefix",
        ),
        (
            "upstream =",
            "proxy_protocol = \"v2\"\nupstream =",
            "error: `proxy_protocol` cannot be \"v2\"; it must be \"off\" or \"required\"",
        ),
        (
            "servers =",
            "proxy_protocol = \"required\"\nservers =",
            "error: `proxy_protocol` cannot be \"required\"; it must be \"off\", \"v1\", \"v2\", \"v2-tls\" or \"v2-tls-full\"",
        ),
        // Addresses
        (
            "127.0.0.1:9000",
            ":9000",
            "error: the address is missing; write \"0.0.0.0:9000\" for all IPv4 addresses, \"[::]:9000\"",
        ),
        (
            "127.0.0.1:9000",
            "localhost:9000",
            "error: `bind` takes an IP address, not a name; write \"127.0.0.1:9000\"",
        ),
        (
            "127.0.0.1:9000",
            "127.0.0.1",
            "error: the port is missing; write \"127.0.0.1:9443\"",
        ),
        (
            "127.0.0.1:9000",
            "::1:9000",
            "error: an IPv6 address is written in brackets: `[::1]:80`; write \"[::1]:9000\"",
        ),
        (
            "127.0.0.1:9000",
            "127.0.0.1:99999",
            "error: the port must be a number from 1 to 65535",
        ),
        (
            "bind = \"127.0.0.1:9000\"",
            "bind = []",
            "error: `bind` is an empty list",
        ),
        (
            "bind = \"127.0.0.1:9000\"",
            "bind = [\"127.0.0.1:9000\", \"0.0.0.0:9000\"]",
            "error: 0.0.0.0:9000 and 127.0.0.1:9000 overlap",
        ),
        (
            "[[listener]]",
            "[admin]\nbind = \"127.0.0.1:9000\"\n[[listener]]",
            "error: 127.0.0.1:9000 is used by two `bind` keys; choose another port",
        ),
        (
            "[[listener]]",
            "[admin]\nbind = \"0.0.0.0:9901\"\n[[listener]]",
            "warning: the admin address 0.0.0.0:9901 is not a loopback address",
        ),
        (
            "[[listener]]",
            "[admin]\n[[listener]]",
            "error: `[admin]` needs `bind` or `socket`",
        ),
        (
            "10.0.0.1:80",
            "http://10.0.0.1:80",
            "error: \"http://10.0.0.1:80\" is not a server address; write HOST:PORT",
        ),
        // Names
        (
            "\"main\"",
            "\"ma in\"",
            "error: the name of the listener contains ' '",
        ),
        (
            "\"main\"",
            "\"\"",
            "error: the name of the listener is empty",
        ),
        (
            "\"office\"",
            "\"a/b\"",
            "error: the name of the client contains '/'",
        ),
        (
            "\"10.0.0.2:80\"",
            "\"10.0.0.1:80\"",
            "error: there are two servers named `10.0.0.1:80`",
        ),
        (
            "\"10.0.0.2:80\"",
            "{ name = \"b\", address = \"10.0.0.1:80\" }",
            "warning: two servers have the address 10.0.0.1:80",
        ),
    ]);
}
