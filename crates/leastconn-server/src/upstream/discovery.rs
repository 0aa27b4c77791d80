//! Discovery of an upstream's servers: `dns`, `srv` and `file` in `servers`.
//!
//! For each source, a task repeats the look-up and merges the answers into the members of the
//! source ([`members`]). After each look-up, the task applies the complete server list of the
//! upstream to the pool. Connections use the current members and never wait for a look-up.

mod dns;
mod handover;
mod members;
mod server_file;
mod source;
mod srv_names;

use std::{collections::HashSet, fmt, path::Path, sync::Arc, time::Duration};

use leastconn::{MembershipChange, Pool, PoolError, ServerId, ServerSpec, net::now};
use leastconn_config::{
    self as config, OnRemoval, ServerSource, SourceKind, StartMode,
    files::{Lane, NoResult},
};
use parking_lot::Mutex;
use tokio::{
    task::JoinSet,
    time::{sleep, sleep_until, timeout},
};

pub use handover::DiscoveryHandover;
pub use source::{LookupCounts, SourceStatus};

use crate::file_watch::{Events, SCAN_INTERVAL, Scanner, settle};
use dns::{DnsClient, DnsError};
use members::{Answer, NoServers};
use server_file::ServerFileError;
use source::Source;

/// Why a look-up found no servers.
#[derive(Debug, thiserror::Error)]
enum LookupError {
    #[error(transparent)]
    Dns(#[from] DnsError),
    #[error(transparent)]
    File(#[from] ServerFileError),
    #[error(transparent)]
    NoServers(#[from] NoServers),
    #[error(transparent)]
    Blocked(#[from] NoResult),
}

impl LookupError {
    const fn is_empty_answer(&self) -> bool {
        match self {
            Self::Dns(error) => error.is_empty_answer(),
            Self::NoServers(_) => true,
            Self::File(_) | Self::Blocked(_) => false,
        }
    }
}

/// Replaces the members of a pool and applies operators' runtime overrides to new members.
pub trait ApplyMembers: fmt::Debug + Send + Sync {
    /// Replaces the members of `pool`. `on_removal` specifies what happens to the connections of
    /// removed servers.
    ///
    /// # Errors
    /// If the pool rejects the servers, in which case its members do not change.
    fn apply(
        &self,
        pool: &Arc<Pool>,
        servers: Vec<ServerSpec>,
        on_removal: OnRemoval,
    ) -> Result<MembershipChange, PoolError>;
}

/// The servers of an upstream: those with an `address` and discovered ones.
#[derive(Debug)]
pub(super) struct Discovery {
    listed: Vec<ServerSpec>,
    sources: Vec<(ServerSource, Arc<Source>)>,
    settings: config::Discovery,
    /// Set when the next generation of the upstream takes over the sources. The lock is held from
    /// when an answer is recorded until the members of the pool are replaced. A removal is
    /// therefore either applied before a reload, or found by the first look-up after it.
    is_stopped: Mutex<bool>,
    /// Names of ignored duplicates. A warning is logged only for names that are not in this set.
    duplicates: Mutex<HashSet<ServerId>>,
}

impl Discovery {
    /// Creates the sources of an upstream. A source that `predecessor` also has is shared with it,
    /// so that its discovered servers are members from the start. `handover` contains the servers
    /// that a predecessor process has discovered.
    pub(super) fn new(
        config: &config::Upstream,
        predecessor: Option<&Self>,
        handover: &DiscoveryHandover,
    ) -> Arc<Self> {
        let source = |source: &ServerSource| {
            let known = predecessor.and_then(|before| before.source(&source.kind));
            let state = match known {
                Some(known) => Arc::clone(known),
                None => {
                    let source = Source::new(source.kind.clone());
                    handover.import_into(&config.id, &source, now());
                    Arc::new(source)
                }
            };
            (source.clone(), state)
        };
        let sources: Vec<_> = config.sources.iter().map(source).collect();
        if predecessor.is_some_and(|before| before.settings != config.discovery) {
            sources.iter().for_each(|(_, source)| source.look_up_soon());
        }
        Arc::new(Self {
            listed: config.servers.clone(),
            sources,
            settings: config.discovery.clone(),
            is_stopped: Mutex::new(false),
            duplicates: Mutex::default(),
        })
    }

    fn source(&self, kind: &SourceKind) -> Option<&Arc<Source>> {
        let mut sources = self.sources.iter().map(|(_, source)| source);
        sources.find(|source| source.kind == *kind)
    }

    pub(super) const fn has_sources(&self) -> bool {
        !self.sources.is_empty()
    }

    /// All servers. If several servers have the same name, only the first one is included.
    pub(super) fn servers(&self) -> Vec<ServerSpec> {
        let discovered = self.sources.iter();
        let discovered = discovered.flat_map(|(config, source)| source.servers(config));
        let mut servers = self.listed.clone();
        let mut names: HashSet<_> = servers.iter().map(|server| server.id.clone()).collect();
        let mut duplicates = HashSet::new();
        for server in discovered {
            if names.insert(server.id.clone()) {
                servers.push(server);
            } else {
                duplicates.insert(server.id);
            }
        }
        let mut logged = self.duplicates.lock();
        for server in duplicates.difference(&logged) {
            tracing::warn!(%server, "discovered server ignored: another server has the same name");
        }
        *logged = duplicates;
        servers
    }

    /// Prevents further changes of the members. Waits for a change in progress.
    pub(super) fn stop(&self) {
        *self.is_stopped.lock() = true;
    }

    /// Starts to look up the sources. The tasks end when `tasks` is dropped.
    pub(super) fn start(
        self: &Arc<Self>,
        tasks: &mut JoinSet<()>,
        pool: &Arc<Pool>,
        apply: &Arc<dyn ApplyMembers>,
    ) {
        for (_, source) in &self.sources {
            let follow = Follow {
                discovery: Arc::clone(self),
                source: Arc::clone(source),
                pool: Arc::clone(pool),
                apply: Arc::clone(apply),
            };
            tasks.spawn(follow.run());
        }
    }

    /// Waits until each source has had an answer with servers. Completes immediately if `start` is
    /// `empty`.
    pub(super) fn first_answers(&self) -> impl Future<Output = ()> + Send + use<> {
        let sources: Vec<_> = match self.settings.start {
            StartMode::Wait => self.sources.iter().map(|(_, s)| Arc::clone(s)).collect(),
            StartMode::Empty => Vec::new(),
        };
        async move {
            for source in sources {
                source.first_answer().await;
            }
        }
    }

    /// Whether [`Self::first_answers`] has to wait.
    pub(super) fn is_waiting(&self) -> bool {
        let mut sources = self.sources.iter();
        self.settings.start == StartMode::Wait && sources.any(|(_, s)| !s.is_answered())
    }

    pub(super) fn status(&self) -> Vec<SourceStatus> {
        let sources = self.sources.iter();
        sources.map(|(_, source)| source.status()).collect()
    }

    /// Looks up each source once, within `limit`. For commands that do not run the balancer.
    pub(super) async fn look_up_once(&self, limit: Duration) {
        let mut running = JoinSet::new();
        for (_, source) in &self.sources {
            let (source, settings) = (Arc::clone(source), self.settings.clone());
            running.spawn(async move {
                let mut lookup = Lookup::new(&settings);
                let result = timeout(limit, lookup.run(&source)).await;
                let result = result.unwrap_or_else(|_| Err(DnsError::TimedOut.into()));
                let _ = source.record(result, &settings);
            });
        }
        let _ = running.join_all().await;
    }
}

/// Looks up all sources of an upstream once, within `limit`. For commands that only show the
/// result.
pub async fn look_up_sources(config: &config::Upstream, limit: Duration) -> Vec<SourceStatus> {
    let discovery = Discovery::new(config, None, &DiscoveryHandover::default());
    discovery.look_up_once(limit).await;
    discovery.status()
}

/// Keeps the members of a pool up to date with one source.
struct Follow {
    discovery: Arc<Discovery>,
    source: Arc<Source>,
    pool: Arc<Pool>,
    apply: Arc<dyn ApplyMembers>,
}

impl Follow {
    async fn run(self) {
        let mut lookup = Lookup::new(&self.discovery.settings);
        let mut changes = FileChanges::of(&self.source.kind);
        if let Some(changes) = &mut changes {
            changes.watch().await;
        } else {
            sleep_until(self.source.next_lookup().into()).await;
        }
        loop {
            let result = lookup.run(&self.source).await;
            self.apply(result);
            let due = sleep_until(self.source.next_lookup().into());
            match &mut changes {
                None => due.await,
                Some(changes) => changes.wait(due).await,
            }
        }
    }

    /// Merges the result into the source, then updates the pool. Does nothing if the next
    /// generation of the upstream has taken over.
    fn apply(&self, result: Result<Answer, LookupError>) {
        let is_stopped = self.discovery.is_stopped.lock();
        if !*is_stopped {
            self.record(result);
            self.apply_members();
        }
    }

    fn record(&self, result: Result<Answer, LookupError>) {
        let recorded = self.source.record(result, &self.discovery.settings);
        let (upstream, source) = (self.pool.id(), &self.source.kind);
        if let Some(error) = recorded.new_error {
            if recorded.is_over_max {
                tracing::error!(%upstream, %source, %error, "discovery incomplete");
            } else if recorded.is_answer {
                tracing::warn!(%upstream, %source, %error, "discovery incomplete");
            } else {
                tracing::warn!(%upstream, %source, %error, "discovery failed, servers kept");
            }
        } else if recorded.recovered {
            tracing::info!(%upstream, %source, "discovery recovered");
        }
    }

    fn apply_members(&self) {
        let servers = self.discovery.servers();
        let on_removal = self.discovery.settings.removed;
        let upstream = self.pool.id();
        match self.apply.apply(&self.pool, servers, on_removal) {
            Ok(change) => {
                for server in &change.added {
                    tracing::info!(%upstream, %server, "server joined");
                }
                for server in &change.removed {
                    tracing::info!(%upstream, %server, "server left");
                }
            }
            Err(error) => tracing::error!(%upstream, %error, "servers not changed"),
        }
    }
}

/// Looks up one source.
struct Lookup {
    dns: DnsClient,
    lane: Lane,
}

impl Lookup {
    fn new(settings: &config::Discovery) -> Self {
        Self {
            dns: DnsClient::new(settings),
            lane: Lane::default(),
        }
    }

    async fn run(&mut self, source: &Source) -> Result<Answer, LookupError> {
        match &source.kind {
            SourceKind::Dns { host, port } => Ok(self.dns.addresses(host, *port).await?),
            SourceKind::Srv(name) => {
                let mut names = source.names();
                let answer = self.dns.records(name, &mut names).await?;
                source.set_names(names);
                Ok(answer)
            }
            SourceKind::File(path) => {
                let path = Arc::clone(path);
                Ok(self.lane.run(move || server_file::read(&path)).await??)
            }
        }
    }
}

/// Waits for changes to a file.
struct FileChanges {
    path: Arc<Path>,
    events: Events,
    scanner: Scanner,
}

impl FileChanges {
    fn of(kind: &SourceKind) -> Option<Self> {
        match kind {
            SourceKind::File(path) => Some(Self {
                path: Arc::clone(path),
                events: Events::new(),
                scanner: Scanner::default(),
            }),
            SourceKind::Dns { .. } | SourceKind::Srv(_) => None,
        }
    }

    /// Watches the directories of the file. Call this again after each change, because symbolic
    /// links in the path may have changed.
    async fn watch(&mut self) {
        let files = vec![self.path.to_path_buf()];
        let _ = self.scanner.scan(files, &mut self.events).await;
    }

    /// Waits until the file may have changed, or until `due` completes.
    async fn wait(&mut self, due: impl Future<Output = ()>) {
        tokio::select! {
            () = self.events.changed() => settle(&self.events).await,
            () = due => {}
            () = sleep(SCAN_INTERVAL) => {}
        }
        self.watch().await;
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use members::FoundServer;

    /// Counts the updates of the pool.
    #[derive(Debug, Default)]
    struct CountUpdates(Mutex<usize>);

    impl ApplyMembers for CountUpdates {
        fn apply(
            &self,
            pool: &Arc<Pool>,
            servers: Vec<ServerSpec>,
            _on_removal: OnRemoval,
        ) -> Result<MembershipChange, PoolError> {
            *self.0.lock() += 1;
            pool.update(servers)
        }
    }

    impl Discovery {
        /// Discovery from one source without defaults.
        pub(super) fn of_source(source: Arc<Source>, settings: config::Discovery) -> Self {
            let config = ServerSource {
                kind: source.kind.clone(),
                weight: leastconn::Weight::ONE,
                max_conns: None,
                backup: false,
                zone: None,
            };
            Self {
                listed: Vec::new(),
                sources: vec![(config, source)],
                settings,
                is_stopped: Mutex::new(false),
                duplicates: Mutex::default(),
            }
        }
    }

    /// The next generation of the upstream finds the removal of a server with its own look-up,
    /// and then applies `removed`.
    #[test]
    fn answer_during_a_reload_changes_neither_source_nor_pool() {
        let source = Arc::new(Source::new(SourceKind::Srv("_http._tcp.site".into())));
        let settings = config::Discovery {
            hold: Duration::ZERO,
            ..config::Discovery::default()
        };
        let discovery = Arc::new(Discovery::of_source(Arc::clone(&source), settings));
        let pool = Pool::builder("web").may_be_empty(true).build().unwrap();
        let updates = Arc::new(CountUpdates::default());
        let follow = Follow {
            discovery: Arc::clone(&discovery),
            source: Arc::clone(&source),
            pool: Arc::new(pool),
            apply: Arc::<CountUpdates>::clone(&updates),
        };
        let answer = |name: &str| {
            let address = "10.0.0.1:80".parse().unwrap();
            Ok(Answer::complete(vec![FoundServer::new(
                name.into(),
                address,
            )]))
        };
        follow.apply(answer("a"));
        discovery.stop();
        follow.apply(answer("b"));
        assert_eq!(*updates.0.lock(), 1);
        assert_eq!(source.status().servers, [ServerId::from("a")]);
        assert!(follow.pool.server("a").is_some());
    }
}
