//! imtracker.
fn main() {}
