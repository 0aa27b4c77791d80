//! Diagnostics about keys, types, durations and environment variables.

use super::check_all;

#[test]
fn syntax_problems_are_described() {
    check_all(&[
        // Keys
        (
            "bind =",
            "bindd =",
            "error: unknown key `bindd` in `[[listener]]`; did you mean `bind`?",
        ),
        (
            "bind =",
            "cert = \"x\"\nbind =",
            "error: unknown key `cert` in `[[listener]]`; `cert` belongs in `[fleet]`, `listener.tls` or `upstream.tls`",
        ),
        (
            "bind =",
            "zzzzzz = 1\nbind =",
            "error: unknown key `zzzzzz` in `[[listener]]`; the keys are `bind`, `bind_mode`, `half_close_timeout`",
        ),
        (
            "[[listener]]",
            "[listener]",
            "error: `listener`: expected a list of tables, found a table; write `[[listener]]` for each table",
        ),
        (
            "[[listener]]",
            "[[listner]]",
            "error: unknown key `listner` in the top level; did you mean `listener`?",
        ),
        (
            "allow = [\"web\"]\n",
            "",
            "error: `[[client]]` needs `allow`",
        ),
        (
            "upstream = \"web\"\n",
            "source_rate_limit.rate = 5\nsource_rate_limit.bind = 5\nupstream = \"web\"\n",
            "error: unknown key `bind` in `listener.source_rate_limit`; `bind` belongs in `[[listener]]`: \
             write it above `listener.source_rate_limit`",
        ),
        (
            "servers =",
            "check = \"none\"\nservers =",
            "error: unknown key `check` in `[[upstream]]`; did you mean `agent_check` or `health_check`?",
        ),
        // Types
        (
            "{ source = \"10.0.0.0/8\" }",
            "\"office\"",
            "error: `match`: expected a table, found a string; write `match = { cn = \"office\" }`",
        ),
        (
            "servers = [\"10.0.0.1:80\", \"10.0.0.2:80\"]",
            "servers = \"10.0.0.1:80\"",
            "error: `servers`: expected a list, found a string; write `servers = [\"10.0.0.1:80\"]`",
        ),
        (
            "\"127.0.0.1:9000\"",
            "9000",
            "error: `bind`: expected a string or a list of strings, found an integer; write \
             \"0.0.0.0:9000\" for all IPv4 addresses, \"127.0.0.1:9000\" for this machine only",
        ),
        (
            "\"127.0.0.1:9000\"",
            "[9000]",
            "error: `bind`: expected a string, found an integer",
        ),
        (
            "[\"10.0.0.1:80\", ",
            "[{ adress = \"10.0.0.1:80\" }, ",
            "error: unknown key `adress` in `upstream.servers`; did you mean `address`?",
        ),
        (
            "[\"10.0.0.1:80\", ",
            "[true, ",
            "error: `servers`: expected an address like \"webapp1:80\" or a table, found a boolean",
        ),
        (
            "bind =",
            "routes = {}\nbind =",
            "error: `routes`: expected a list of tables, found a table",
        ),
        (
            "[[listener]]",
            "[process]\nworkers = \"many\"\n[[listener]]",
            "error: `workers` cannot be \"many\"; it must be \"auto\"",
        ),
        (
            "[[listener]]",
            "[process]\nworkers = \"4\"\n[[listener]]",
            "error: `workers`: expected \"auto\" or an integer, found a string; write 4, without quotes",
        ),
        (
            "[[listener]]",
            "[process]\nmax_connections = \"500\"\n[[listener]]",
            "error: `max_connections`: expected an integer, found a string; write 500, without quotes",
        ),
        (
            "bind =",
            "source_rate_limit = 50\nbind =",
            "error: `source_rate_limit`: expected a table, found an integer; write `source_rate_limit = { rate = 50 }`",
        ),
        (
            "[[listener]]",
            "[process]\nworkers = 0\n[[listener]]",
            "error: `workers` must be from 1 to 1024, not 0",
        ),
        (
            "[[listener]]",
            "[process]\nmax_connections = 99999999999\n[[listener]]",
            "error: `max_connections` must be at most 4294967295, not 99999999999",
        ),
        (
            "[[listener]]",
            "[process]\nmax_connections = 99999999999999999999\n[[listener]]",
            "error: `max_connections`: the number is too large",
        ),
        (
            "[[listener]]",
            "[process]\ntls_records = \"own\"\n[[listener]]",
            "error: `tls_records` cannot be \"own\"; it must be \"direct\" or \"rustls\"",
        ),
        (
            "[[listener]]",
            "[process]\nsandbox = \"strict\"\n[[listener]]",
            "error: `sandbox` cannot be \"strict\"; it must be \"on\" or \"off\"",
        ),
        (
            "[[listener]]",
            "[process]\nsandbox = true\n[[listener]]",
            "error: `sandbox`: expected \"on\" or \"off\", found a boolean",
        ),
        (
            "[[listener]]",
            "[log]\nlevel = \"warning\"\n[[listener]]",
            "error: `level` cannot be \"warning\"; it must be \"error\", \"warn\", \"info\", \"debug\" or \"trace\"",
        ),
        (
            "[[listener]]",
            "[log]\naccess = \"nowhere/access.log\"\n[[listener]]",
            "error: \"nowhere/access.log\" cannot be the access log: there is no directory /nowhere/nowhere",
        ),
        // Durations
        (
            "upstream =",
            "idle_timeout = \"10\"\nupstream =",
            "error: `idle_timeout`: the unit is missing: \"10s\", \"10ms\"?",
        ),
        (
            "upstream =",
            "idle_timeout = \"1.5h\"\nupstream =",
            "error: `idle_timeout`: durations are whole numbers",
        ),
        (
            "upstream =",
            "idle_timeout = \"0s\"\nupstream =",
            "error: `idle_timeout` cannot be zero; the default is \"1h\"",
        ),
        // Environment
        (
            "127.0.0.1:9000",
            "127.0.0.1:${NOPE}",
            "error: the environment variable `NOPE` is not set; set it, or give a default: `${NOPE:-default}`",
        ),
        (
            "127.0.0.1:9000",
            "127.0.0.1:$PORT",
            "error: `$` is neither part of `${NAME}` nor of `$$`",
        ),
    ]);
}
