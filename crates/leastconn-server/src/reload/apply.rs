//! Applying a checked configuration.

use std::{
    collections::{HashMap, HashSet},
    sync::Arc,
};

use leastconn_config::Config;
use leastconn_tls::client_chain::RevokedNames;

use super::{
    outcome::{Applied, Rejected},
    read::Read,
    reloader::Reloader,
};
use crate::{
    connection::reauthorize::{log_ended, reauthorize_all},
    context::FleetChange,
    process::inherited::Inherited,
    snapshot::{Listener, ListenerTls, Snapshot},
    sockets::Sockets,
};

impl Reloader {
    /// Applies a checked configuration. Reads no file.
    pub(super) fn apply(self: &Arc<Self>, read: Read) -> Result<Applied, Rejected> {
        let Read { config, next_log } = read;
        let context = &self.context;
        let current = context.snapshot();
        let mut tls = HashMap::new();
        for listener in &config.listeners {
            let records = config.process.tls_records;
            let next = match current.listener(&listener.name) {
                Some(earlier) => earlier.next_tls(&current.config, listener, records),
                None => ListenerTls::new(listener, records),
            };
            tls.insert(Arc::clone(&listener.name), next?);
        }
        // Draining cannot begin while this lock is held.
        let mut sockets = self.sockets();
        // If this process is not serving, its sockets belong to another process or are closed, and
        // the reload affects only open connections.
        let is_serving = !context.lifecycle.phase().is_last();
        let changes = changes_needing_restart(&current.config, &config);
        if is_serving && !changes.is_empty() {
            return Err(Rejected::Reasons(changes));
        }
        let plan = is_serving.then(|| sockets.plan(&config, &mut Inherited::none()));
        let plan = plan.transpose().map_err(Rejected::unavailable)?;
        let mut admin = self.admin();
        let admin_plan = is_serving.then(|| admin.plan(&config, &mut Inherited::none()));
        let admin_plan = admin_plan.transpose().map_err(Rejected::unavailable)?;
        // A process that accepts no more connections stays in its current fleet.
        let fleet = match is_serving {
            true => FleetChange::plan(current.config.fleet.as_ref(), config.fleet.as_ref())?,
            false => FleetChange::Nothing,
        };
        let mut next = current.succeed(config)?;

        // Nothing below can fail.
        let pruning = context.prune_metrics();
        self.add_listeners(&current, &mut next, tls, &mut sockets);
        current.stop_checks_for(&next);
        context.adopt_servers(&next);
        let snapshot = context.overrides.install(&current, next);
        drop(pruning);
        context.apply_fleet(fleet);
        context.start_discovery();
        let sockets_changes = plan.map(|plan| sockets.apply(plan, context));
        let control = Arc::clone(self);
        let admin_changes = admin_plan.map(|plan| admin.apply(plan, context, control));
        drop((sockets, admin));
        if let Some(next) = next_log {
            context.telemetry.access_log.switch(next);
        }
        let filter = snapshot.config.log.access_filter;
        context.telemetry.access_log.set_filter(filter);
        if current.config.process != snapshot.config.process {
            context.resize(&snapshot.config.process);
        }
        self.reauthorize(&current.config);
        self.applied.notify_one();
        Ok(Applied {
            snapshot,
            sockets: sockets_changes.unwrap_or_default(),
            admin: admin_changes.unwrap_or_default(),
            is_serving,
        })
    }

    /// Re-authorizes all open connections under the running configuration.
    fn reauthorize(&self, earlier: &Config) {
        let snapshot = self.context.snapshot();
        let mut revoked = RevokedNames::default();
        for listener in &snapshot.config.listeners {
            let before = earlier.listener(&listener.name);
            let before = before.and_then(|before| before.tls.as_ref());
            if let Some(tls) = &listener.tls
                && before.is_none_or(|before| {
                    before.settings.material.crls != tls.settings.material.crls
                })
            {
                let crls = tls.settings.material.crls.lists().iter();
                crls.for_each(|crl| revoked.add(&crl.list));
            }
        }
        let (registry, metrics) = (&self.context.registry, &self.context.telemetry.metrics);
        log_ended(&reauthorize_all(registry, &snapshot, metrics, &revoked));
    }

    /// Adds the listeners to `next`, including removed listeners that still have connections.
    fn add_listeners(
        &self,
        current: &Snapshot,
        next: &mut Snapshot,
        mut tls: HashMap<Arc<str>, Option<ListenerTls>>,
        sockets: &mut Sockets,
    ) {
        let metrics = &self.context.telemetry.metrics;
        for config in &next.config.listeners {
            let tls = tls.remove(&config.name).flatten();
            let listener = match current.listener(&config.name) {
                Some(earlier) => earlier.succeed(config, tls, metrics),
                None => Listener::new(config, tls, metrics),
            };
            let name = Arc::clone(&config.name);
            next.listeners.insert(name, Arc::new(listener));
        }
        // Check the sockets before the connections, because an accept loop registers its last
        // connection before it ends.
        let leaving = sockets.leaving();
        let open: HashSet<_> = {
            let open = self.context.registry.list();
            open.iter()
                .map(|handle| Arc::clone(&handle.listener))
                .collect()
        };
        let still_used = current
            .removed_listeners
            .iter()
            .filter(|(name, _)| leaving.contains(*name) || open.contains(*name));
        next.removed_listeners = current
            .listeners
            .iter()
            .chain(still_used)
            .filter(|(name, _)| !next.listeners.contains_key(*name))
            .map(|(name, listener)| (Arc::clone(name), Arc::clone(listener)))
            .collect();
    }
}

/// Returns an error for each changed key that needs a restart.
fn changes_needing_restart(running: &Config, new: &Config) -> Vec<String> {
    let mut errors = Vec::new();
    let mut compare = |key: &str, differs: bool| {
        if differs {
            errors.push(format!(
                "`{key}` was changed, which needs a restart; the rest of the configuration is not applied either"
            ));
        }
    };
    let (from, to) = (&running.process, &new.process);
    compare(
        "process.workers",
        from.workers != to.workers && !(from.auto_workers && to.auto_workers),
    );
    compare("process.sandbox", from.sandbox != to.sandbox);
    errors
}
