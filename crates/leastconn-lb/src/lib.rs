//! The rooms of `leastconn-lb`, as a library so that tests, fuzz targets and
//! benches reach them. Not a public API: only the program is.

pub mod cli;
pub mod config;
