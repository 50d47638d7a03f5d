//! imserver.
fn main() {}
