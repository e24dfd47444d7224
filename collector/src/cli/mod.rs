//! What people type.

pub mod ask;
pub mod client;
mod table;
#[cfg(test)]
mod tests;
pub mod trail;
