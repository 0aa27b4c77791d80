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

    fn clients(&mut self) -> usize {
        let keys = self.runtime.block_on(self.server.keys());
        let clients = keys.iter().filter(|key| key.starts_with("lc1:{test}:l:"));
        clients.count()
    }
}
