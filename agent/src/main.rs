//! `tokentrail-agent`.
fn main() {}
