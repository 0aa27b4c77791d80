//! The access control rule of the fleet's user.

/// Commands that members send, and that their scripts call. No other command is needed: `HELLO`,
/// which authenticates, is always allowed.
pub(crate) const COMMANDS: &[&str] = &[
    "evalsha",
    "script|load",
    "time",
    "hget",
    "hset",
    "hdel",
    "hgetall",
    "hmget",
    "pexpire",
    "xadd",
    "xrange",
    "xrevrange",
];

/// The rule of a user that can do what the members of fleet `name` do, and nothing else. For
/// `ACL SETUSER`, or with `user` in front for the file of the server. The password is missing:
/// the caller adds `>PASSWORD` or `#SHA256`.
pub fn acl_rule(name: &str, user: &str) -> String {
    let commands: Vec<String> = COMMANDS
        .iter()
        .map(|command| format!("+{command}"))
        .collect();
    format!(
        "{user} on resetkeys ~lc1:{{{name}}}:* resetchannels -@all {}",
        commands.join(" ")
    )
}
