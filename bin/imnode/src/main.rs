//! imnode.
fn main() {}
