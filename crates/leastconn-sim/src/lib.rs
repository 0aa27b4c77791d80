//! A deterministic load-balancing simulator: it runs the pools of the `leastconn` library with
//! simulated time, clients and servers.
//!
//! Modules, in the order in which data passes through them: a [`scenario`] consists of a [`site`]
//! and a [`workload`]; the [`simulation`] runs it; the [`meter`] records it; each [`measure`] is a
//! column of the [`report`]. A report can be drawn as [`chart`]s and inserted into a [`document`].
//! A [`replay`] takes the connections from access logs instead.

pub mod chart;
pub mod cli;
pub mod document;
pub mod measure;
pub mod meter;
pub mod random;
pub mod replay;
pub mod report;
pub mod scenario;
pub mod simulation;
pub mod site;
pub mod workload;
