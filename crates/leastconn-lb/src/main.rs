//! The program: see the library `leastconn_lb` for the rooms.
fn main() {}
