//! One task for each member of a pool.

use std::sync::Arc;

use tokio::task::{AbortHandle, JoinSet};

use crate::{Member, Server};

/// The tasks of a pool's members. They are aborted when this value is dropped.
#[derive(Debug, Default)]
pub(super) struct MemberTasks {
    tasks: JoinSet<()>,
    running: Vec<(Arc<Server>, AbortHandle)>,
}

impl MemberTasks {
    /// Aborts the tasks of servers that have left the pool.
    pub(super) fn keep_only(&mut self, members: &[Member]) {
        self.running.retain(|(server, task)| {
            let stays = members.iter().any(|m| Arc::ptr_eq(&m.server, server));
            if !stays {
                task.abort();
            }
            stays
        });
        while self.tasks.try_join_next().is_some() {}
    }

    /// Returns the members without a task.
    pub(super) fn missing<'a>(&self, members: &'a [Member]) -> Vec<&'a Member> {
        let has_task = |member: &&Member| {
            let mut running = self.running.iter();
            running.any(|(server, _)| Arc::ptr_eq(server, &member.server))
        };
        members.iter().filter(|member| !has_task(member)).collect()
    }

    /// Starts the task of a server.
    pub(super) fn spawn(
        &mut self,
        server: Arc<Server>,
        task: impl Future<Output = ()> + Send + 'static,
    ) {
        self.running.push((server, self.tasks.spawn(task)));
    }
}
