//! Members on a real server whose clock the test sets: the scripts read the time from a key.

use std::{rc::Rc, time::Duration};

use leastconn_testkit::{StoreOptions, StoreServer};
use tokio::runtime::Runtime;

use super::{Redis, redis, runtime};
use crate::{
    MemberId, Password, Report, Store, StoreError, View,
    cases::{Executor, MEMBERS},
};

const START: u64 = 1_000_000_000_000;

pub(super) struct Real {
    runtime: Rc<Runtime>,
    server: Rc<StoreServer>,
    members: Vec<Redis>,
    now: u64,
}

impl Real {
    pub(super) fn start(options: StoreOptions) -> Self {
        let runtime = runtime();
        let server = runtime.block_on(StoreServer::start_with(options));
        Self::new(Rc::new(runtime), Rc::new(server))
    }

    fn new(runtime: Rc<Runtime>, server: Rc<StoreServer>) -> Self {
        let members = (0..MEMBERS).map(|_| {
            let mut member = redis(&server);
            member
                .encoder
                .replace_clock("{ 0, redis.call('GET', 'lc1:{test}:now') }");
            member
        });
        let this = Self {
            members: members.collect(),
            now: START,
            runtime,
            server,
        };
        this.set_clock();
        this
    }

    /// New members on the same server, without data.
    pub(super) fn empty(&self) -> Self {
        self.runtime.block_on(self.server.command(&["FLUSHALL"]));
        Self::new(self.runtime.clone(), self.server.clone())
    }

    /// Members authenticate from now on.
    pub(super) fn authenticate(&mut self, user: &str, password: &str) {
        for member in &mut self.members {
            let mut settings = member.settings.clone();
            settings.user = Some(user.to_owned());
            settings.password = Some(Password::new(password));
            member.reconfigure(settings);
        }
    }

    fn set_clock(&self) {
        let now = self.now.to_string();
        let command = ["SET", "lc1:{test}:now", &now];
        self.runtime.block_on(self.server.command(&command));
    }
}

impl Executor for Real {
    fn exchange(&mut self, member: usize, report: &Report) -> Result<View, StoreError> {
        self.runtime.block_on(self.members[member].exchange(report))
    }

    fn advance(&mut self, time: Duration) {
        self.now += time.as_micros() as u64;
        self.set_clock();
    }

    fn turn_back(&mut self, time: Duration) {
        self.now -= time.as_micros() as u64;
        self.set_clock();
    }

    fn disconnect(&mut self, member: usize) {
        self.members[member].connection = None;
    }

    fn leave(&mut self, member: usize, id: &MemberId) {
        let left = self.runtime.block_on(self.members[member].leave(id));
        assert_eq!(left, Ok(()));
    }

    fn write_odd_values(&mut self) {
        let script = r"
            for _, key in ipairs(redis.call('KEYS', 'lc1:{test}:*')) do
              if redis.call('TYPE', key).ok == 'hash' then
                redis.call('HSET', key, 'odd', '\255', '\255', '-1 x', '.since', 'x')
                if string.find(key, ':l:', 1, true) then
                  redis.call('HSET', key, '.used', 'x', '.at', 'nan')
                  for i = 0, 3 do redis.call('HSET', key, ARGV[i + 1], '-7') end
                elseif string.find(key, ':s:', 1, true) then
                  for i = 0, 3 do redis.call('HSET', key, ARGV[i + 1], '-7 x') end
                end
              end
            end
            redis.call('DEL', 'lc1:{test}:h')
            redis.call('HSET', 'lc1:{test}:h', 'v', '\255', '\255', '\255')
            redis.call('XADD', 'lc1:{test}:k', '*', '\255', '\255')";
        let ids: Vec<MemberId> = (0..4).map(|member| MemberId::new("lb", member)).collect();
        let mut command = vec!["EVAL", script, "0"];
        command.extend(ids.iter().map(MemberId::as_str));
        self.runtime.block_on(self.server.command(&command));
    }

    fn entry(&mut self, field: &str) -> Option<String> {
        let command = ["HGETALL", "lc1:{test}:h"];
        let entries = self.runtime.block_on(self.server.command(&command)).texts();
        let mut pairs = entries.chunks_exact(2);
        pairs
            .find(|pair| pair[0] == field)
            .map(|pair| pair[1].clone())
    }

    fn set_entry(&mut self, field: &str, text: &str) {
        let command = ["HSET", "lc1:{test}:h", field, text];
        self.runtime.block_on(self.server.command(&command));
    }

    fn replace_keys(&mut self) {
        let script = r"
            for _, key in ipairs(redis.call('KEYS', 'lc1:{test}:*')) do
              if key ~= 'lc1:{test}:now' then redis.call('SET', key, 'x') end
            end";
        let command = ["EVAL", script, "0"];
        self.runtime.block_on(self.server.command(&command));
    }

    fn set_gone_after(&mut self, member: usize, time: Duration) {
        self.members[member].session.set_gone_after(time);
    }

    fn clients(&mut self) -> usize {
        let keys = self.runtime.block_on(self.server.keys());
        let clients = keys.iter().filter(|key| key.starts_with("lc1:{test}:l:"));
        clients.count()
    }
}
