//! Diagnostics about upstreams, and from checks across tables.

use super::check_all;

#[test]
fn upstream_problems_are_described() {
    check_all(&[
        // Upstreams
        (
            "servers = [\"10.0.0.1:80\", \"10.0.0.2:80\"]",
            "servers = []",
            "error: the upstream has no servers",
        ),
        (
            "\"10.0.0.2:80\"",
            "{ address = \"10.0.0.2:80\", weight = 0 }",
            "error: `weight` must be from 1 to 65535, not 0; to stop new connections to a server, drain it",
        ),
        (
            "servers =",
            "health_check = { type = \"tpc\" }\nservers =",
            "error: `type` cannot be \"tpc\"; it must be \"none\", \"tcp\", \"http\", \"mysql\", \"postgres\", \"redis\" or \"agent\"; did you mean \"tcp\"?",
        ),
        (
            "servers =",
            "health_check = { path = \"/\" }\nservers =",
            "error: `path` belongs to health checks of type \"http\"",
        ),
        (
            "servers =",
            "health_check = { type = \"http\", path = \"up\" }\nservers =",
            "error: \"up\" is not a request path",
        ),
        (
            "servers =",
            "health_check = { type = \"http\", path = \"/a\\r\\nX: y\" }\nservers =",
            "error: \"/a\\r\\nX: y\" is not a request path",
        ),
        (
            "servers =",
            "health_check = { timeout = \"20s\" }\nservers =",
            "warning: `timeout` of the health check is longer than its `interval`",
        ),
        (
            "servers =",
            "health_check = { rise = 0 }\nservers =",
            "error: `rise` must be from 1 to 1000, not 0",
        ),
        (
            "\"10.0.0.2:80\"",
            "{ address = \"10.0.0.2:80\", zone = \"a b\" }",
            "error: the name of the zone contains ' '",
        ),
        (
            "\"10.0.0.2:80\"",
            "{ address = \"10.0.0.2:80\", zone = \"a\" }",
            "warning: `zone` has no effect: the zone of the balancer is not set",
        ),
        (
            "[[listener]]",
            "[process]\nzone = \"east\"\n[[listener]]",
            "warning: no server is in the zone `east`",
        ),
        (
            "servers =",
            "health_check = { type = \"agent\" }\nservers =",
            "error: `port` is missing: an agent check needs the port of the agent",
        ),
        (
            "servers =",
            "health_check = { type = \"agent\", port = 1, rise = 2 }\nservers =",
            "error: `rise` has no meaning for agent checks",
        ),
        (
            "servers =",
            "health_check = { type = \"agent\", port = 1 }\nagent_check = { port = 1 }\nservers =",
            "error: `agent_check` and a health check of type \"agent\" are both set",
        ),
        (
            "\"10.0.0.2:80\"]",
            "\"unix:a.sock\"]\nagent_check = { port = 1 }",
            "warning: the agent of server `unix:a.sock` is not asked",
        ),
        (
            "servers =",
            "rebalance = { most = \"1\" }\nservers =",
            "error: `most`: \"1\" is not a percentage",
        ),
        (
            "servers =",
            "rebalance = { above = 0.5 }\nservers =",
            "error: `above` must be at least 1, not 0.5",
        ),
        (
            "servers =",
            "passive = { max_ejected = 1.5 }\nservers =",
            "error: `max_ejected` must be from 0 to 1, not 1.5",
        ),
        (
            "servers =",
            "passive = { max_ejected = nan }\nservers =",
            "error: `max_ejected` must be from 0 to 1, not NaN",
        ),
        // Across tables
        (
            "source = \"10.0.0.0/8\"",
            "cn = \"a\"",
            "warning: no client can connect to listener `main`",
        ),
        (
            "upstream = \"web\"",
            "routes = [{ sni = \"a.b\", upstream = \"web\" }]",
            "error: `routes` need the TLS server name, but the listener has no `tls`",
        ),
        (
            "upstream = \"web\"",
            "upstream = \"web\"\nmax_lifetime = \"1\"",
            "error: `max_lifetime`: ",
        ),
        (
            "upstream = \"web\"",
            "upstream = \"web\"\non_expiry = \"closed\"",
            "error: `on_expiry` cannot be \"closed\"",
        ),
        // Balancing
        (
            "servers =",
            "balance = \"leastconn\"\nservers =",
            "error: `balance` cannot be \"leastconn\"; it must be \"least_conn\", \"p2c\", \"round_robin\", \"random\" or \"source_hash\"; did you mean \"least_conn\"?",
        ),
        (
            "servers =",
            "balance = \"round-robin\"\nservers =",
            "error: `balance` cannot be \"round-robin\"; it must be \"least_conn\", \"p2c\", \"round_robin\", \"random\" or \"source_hash\"; did you mean \"round_robin\"?",
        ),
        (
            "servers =",
            "slow_start = 30\nservers =",
            "error: `slow_start`: expected a duration",
        ),
        // The queue
        (
            "servers =",
            "queue = 100\nservers =",
            "error: `queue`: expected a table",
        ),
        (
            "servers =",
            "queue = { size = -1 }\nservers =",
            "error: `size` must be from 0 to 100000",
        ),
        (
            "servers =",
            "queue = { size = 9, timeout = \"0s\" }\nservers =",
            "error: `timeout` cannot be zero",
        ),
        (
            "servers =",
            "queue = { max = 9 }\nservers =",
            "error: unknown key `max`",
        ),
    ]);
}
