//! Least-connections load balancing for TCP.
