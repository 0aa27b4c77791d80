//! Several balancers that act as one, through real Redis and Valkey servers.
//!
//! Each test runs with every kind of store that is installed. With `LEASTCONN_LONG=1`
//! (`make test-fleet`), tests run longer, and measured figures are appended to the file in
//! `LEASTCONN_FIGURES`.

mod counts;
mod harness;
mod limits;
mod membership;
mod operators;
mod outage;
mod servers;
mod upgrade;

/// Runs each test with both kinds of stores. A kind that is not installed is skipped.
macro_rules! both_stores {
    ($($test:ident,)+) => {
        mod with_redis {
            $(#[tokio::test(flavor = "multi_thread", worker_threads = 2)] async fn $test() {
                if crate::fleet::harness::is_installed(leastconn_testkit::StoreKind::Redis) {
                    super::$test(leastconn_testkit::StoreKind::Redis).await
                }
            })+
        }
        mod with_valkey {
            $(#[tokio::test(flavor = "multi_thread", worker_threads = 2)] async fn $test() {
                if crate::fleet::harness::is_installed(leastconn_testkit::StoreKind::Valkey) {
                    super::$test(leastconn_testkit::StoreKind::Valkey).await
                }
            })+
        }
    };
}
use both_stores;
