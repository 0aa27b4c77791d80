//! What the running configuration became: upstreams, rules, listeners' ways.
//!
//! It is made as a whole and never changed; a connection keeps the one that it
//! started with.

use std::{collections::HashMap, sync::Arc};

use leastconn::UpstreamId;

use crate::{
    config::Config,
    policy::Policy,
    upstream::{Upstream, UpstreamError},
};

/// A configuration, running.
#[derive(Debug)]
pub struct State {
    /// What it was made of.
    pub config: Config,
    /// Its upstreams.
    pub upstreams: HashMap<UpstreamId, Arc<Upstream>>,
    /// Its client rules.
    pub policy: Policy,
}

impl State {
    /// Starts the upstreams of `config`, with their health checks.
    ///
    /// # Errors
    /// If an upstream cannot be started.
    ///
    /// # Panics
    /// Outside a Tokio runtime.
    pub fn start(config: Config) -> Result<Self, UpstreamError> {
        let mut upstreams = HashMap::new();
        for upstream in &config.upstreams {
            upstreams.insert(upstream.id.clone(), Arc::new(Upstream::start(upstream)?));
        }
        let policy = Policy::new(&config, &upstreams);
        Ok(Self {
            config,
            upstreams,
            policy,
        })
    }
}
