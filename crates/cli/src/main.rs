//! The vlmd command.
fn main() {}
