//! Requests as calls of scripts.

use ::redis::{Cmd, Pipeline};

use crate::exchange::{Beat, Limit, Operate, Request, Slots};
use crate::member::MemberId;

macro_rules! script {
    ($name:literal) => {
        concat!(
            include_str!("../scripts/common.lua"),
            include_str!(concat!("../scripts/", $name, ".lua"))
        )
    };
}

const OPERATE: &str = script!("operate");
const BEAT: &str = script!("beat");
const LIMIT: &str = script!("limit");
const SLOTS: &str = script!("slots");
const LEAVE: &str = script!("leave");

/// SHA-1 digests of the scripts, by which they are called.
#[derive(Clone, Debug, Default)]
pub(super) struct Scripts {
    pub(super) operate: String,
    pub(super) beat: String,
    pub(super) limit: String,
    pub(super) slots: String,
    pub(super) leave: String,
}

pub(super) struct Encoder {
    prefix: String,
    /// Tests replace the clock of the server.
    scripts: [String; 5],
}

impl Encoder {
    pub(super) fn new(fleet: &str) -> Self {
        Self {
            prefix: format!("lc1:{{{fleet}}}:"),
            scripts: [OPERATE, BEAT, LIMIT, SLOTS, LEAVE].map(str::to_owned),
        }
    }

    #[cfg(test)]
    pub(super) fn replace_clock(&mut self, expression: &str) {
        for script in &mut self.scripts {
            assert!(script.contains("redis.call('TIME')"));
            *script = script.replace("redis.call('TIME')", expression);
        }
    }

    pub(super) fn load_scripts(&self, pipeline: &mut Pipeline) {
        for script in &self.scripts {
            pipeline.cmd("SCRIPT").arg("LOAD").arg(script);
        }
    }

    pub(super) fn pipeline(&self, request: &Request, scripts: &Scripts) -> Pipeline {
        let mut pipeline = Pipeline::new();
        if let Some(operate) = &request.operate {
            pipeline.add_command(self.operate(operate, &scripts.operate));
        }
        pipeline.add_command(self.beat(request, &request.beat, &scripts.beat));
        if let Some(limit) = &request.limit {
            pipeline.add_command(self.limit(request, limit, &scripts.limit));
        }
        if let Some(slots) = &request.slots {
            pipeline.add_command(self.slots(request, slots, &scripts.slots));
        }
        pipeline
    }

    /// The command that a script was not allowed to call. Redis 7.0 names only the script and the
    /// line: `script: SHA, on @user_script:LINE.`
    pub(super) fn failed_command(&self, called: &Scripts, detail: &str) -> Option<String> {
        let (_, rest) = detail.split_once("script: ")?;
        let (digest, rest) = rest.split_once(',')?;
        let (_, line) = rest.rsplit_once("@user_script:")?;
        let digits: String = line.chars().take_while(char::is_ascii_digit).collect();
        let line: usize = digits.parse().ok()?;
        let digests = [
            &called.operate,
            &called.beat,
            &called.limit,
            &called.slots,
            &called.leave,
        ];
        let script = digests.iter().position(|known| *known == digest)?;
        let text = self.scripts[script].lines().nth(line.checked_sub(1)?)?;
        let (_, call) = text.split_once("redis.call('")?;
        let (command, _) = call.split_once('\'')?;
        Some(command.to_lowercase())
    }

    /// `sequence` is greater than those of all requests of the session.
    pub(super) fn leave(
        &self,
        member: &MemberId,
        (session, sequence): (u64, u64),
        scripts: &Scripts,
    ) -> Pipeline {
        let mut call = self.call(&scripts.leave, 4);
        for key in ["m", "c", "i", "b"] {
            call.arg(self.key(key));
        }
        call.arg(member.as_str())
            .arg(format!("{session} {sequence}"));
        let mut pipeline = Pipeline::new();
        pipeline.add_command(call);
        pipeline
    }

    fn call(&self, script: &str, keys: usize) -> Cmd {
        let mut call = Cmd::new();
        call.arg("EVALSHA").arg(script).arg(keys);
        call
    }

    fn key(&self, name: &str) -> String {
        format!("{}{name}", self.prefix)
    }

    fn operate(&self, operate: &Operate, script: &str) -> Cmd {
        let mut call = self.call(script, 2);
        call.arg(self.key("h")).arg(self.key("k"));
        call.arg(operate.entries.len());
        for change in &operate.entries {
            let entry = change.entry.as_ref();
            call.arg(&change.field)
                .arg(entry.map_or(0, |entry| entry.stamp))
                .arg(entry.map_or(0, |entry| entry.confirmed))
                .arg(&change.replaces)
                .arg(entry.map(ToString::to_string).unwrap_or_default());
        }
        for event in &operate.events {
            call.arg(event);
        }
        call
    }

    fn beat(&self, request: &Request, beat: &Beat, script: &str) -> Cmd {
        let mut call = self.call(script, 6);
        for key in ["m", "c", "i", "h", "k", "b"] {
            call.arg(self.key(key));
        }
        call.arg(request.member.as_str())
            .arg(sequence(request))
            .arg(beat.gone_after)
            .arg(u8::from(beat.extend))
            .arg(beat.counts.as_deref().unwrap_or_default())
            .arg(&beat.counts_version[..])
            .arg(beat.facts.as_deref().unwrap_or_default())
            .arg(&beat.operators_version)
            .arg(&beat.last_event)
            .arg(beat.acknowledged)
            .arg(beat.answered);
        for (member, counts, facts) in &beat.known {
            call.arg(member.as_str()).arg(&counts[..]).arg(&facts[..]);
        }
        call
    }

    fn limit(&self, request: &Request, limit: &Limit, script: &str) -> Cmd {
        let batch = &limit.batch;
        let mut call = self.call(script, 1 + batch.clients.len());
        call.arg(self.key("m"));
        for client in &batch.clients {
            call.arg(self.key(&format!("l:{}", client.client)));
        }
        call.arg(request.member.as_str())
            .arg(sequence(request))
            .arg(batch.number)
            .arg(limit.settle)
            .arg(limit.members);
        for client in &batch.clients {
            call.arg(client.admitted)
                .arg(client.ask)
                // Not in scientific notation, and with all digits.
                .arg(client.rate.to_string())
                .arg(client.burst)
                .arg(client.max_conns)
                .arg(client.open)
                .arg(client.used.map_or_else(|| "-1".to_owned(), |used| format!("{used:.6}")));
        }
        call
    }

    fn slots(&self, request: &Request, slots: &Slots, script: &str) -> Cmd {
        let mut call = self.call(script, 1 + slots.claims.len());
        call.arg(self.key("m"));
        for claim in &slots.claims {
            call.arg(self.key(&format!("s:{}", claim.server)));
        }
        call.arg(request.member.as_str())
            .arg(sequence(request))
            .arg(slots.settle)
            .arg(u8::from(request.beat.extend))
            .arg(slots.answered);
        for claim in &slots.claims {
            call.arg(claim.max)
                .arg(claim.want)
                .arg(claim.open)
                .arg(claim.held)
                .arg(claim.share);
        }
        call
    }
}

/// Session and sequence: a request is the latest of its member if the store has the same text.
fn sequence(request: &Request) -> String {
    format!("{} {}", request.session, request.sequence)
}
