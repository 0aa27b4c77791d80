//! What the configuration promises, by example.
