//! `run`: the load balancer.

mod service;
mod signals;

use std::{path::PathBuf, process::ExitCode, time::Duration};

use super::{FAILED, INVALID, fail};
use crate::sandbox;
use leastconn_config::{Loaded, confinement};
use leastconn_server::{
    logging, memory,
    process::descriptors,
    process::{inherited::Inherited, runtime},
    telemetry::access_log::AccessLog,
};
use signals::EarlySignals;

/// How long the end of the process waits for tasks.
const SHUTDOWN_TIMEOUT: Duration = Duration::from_millis(250);

/// Runs the balancer with the configuration at `path`, or at a default location.
pub fn run(path: Option<PathBuf>) -> ExitCode {
    memory::restart_with_one_arena();
    // Take the inherited descriptors before any file is opened or any thread is started.
    let inherited = Inherited::take();
    // Install the signal handlers before any slow step: until then, signals have their
    // default action.
    let early = match EarlySignals::install() {
        Ok(early) => early,
        Err(error) => {
            inherited.fail(vec![error.to_string()]);
            return fail(&error, FAILED);
        }
    };
    let path = match leastconn_config::find(path) {
        Ok(path) => path,
        Err(error) => {
            inherited.fail(vec![error.to_string()]);
            return fail(&error, INVALID);
        }
    };
    let mut loaded = match leastconn_config::load(&path) {
        Ok(loaded) => loaded,
        Err(problems) => {
            problems.print();
            let code = fail(&format!("{}: not started", path.display()), INVALID);
            inherited.fail(problems.lines().collect());
            return code;
        }
    };
    memory::read_cgroup();
    // The sandbox applies only to this thread and to threads that it starts later.
    if let Err(error) = sandbox::confine(&loaded.config) {
        let code = fail(&error, FAILED);
        inherited.fail(vec![error.to_string()]);
        return code;
    }
    loaded.warn_of_unresolved_names();
    let Loaded {
        config, warnings, ..
    } = loaded;
    logging::start(&config.log);
    confinement::announce();
    for warning in warnings.bare_lines() {
        tracing::warn!("{warning}");
    }
    // The warnings hold the text of the configuration file. Free that memory.
    drop(warnings);
    for problem in inherited.problems() {
        tracing::warn!("{problem}");
    }
    descriptors::raise_limit();
    let (log, _flusher) = match AccessLog::open(&config.log.access) {
        Ok(opened) => opened,
        Err(error) => {
            inherited.fail(vec![error.to_string()]);
            return fail(&error, FAILED);
        }
    };
    let runtime = runtime::start(config.process.workers.get());
    let result = runtime.and_then(|runtime| {
        let result = runtime.block_on(service::serve(config, log, inherited, &early));
        // After a forced drain, connections may still be open: their access log lines are written
        // when their tasks are dropped. Do not wait longer for blocking tasks, such as name
        // resolution.
        runtime.shutdown_timeout(SHUTDOWN_TIMEOUT);
        result
    });
    match result {
        Ok(code) => ExitCode::from(code),
        Err(error) => fail(&error, FAILED),
    }
}
