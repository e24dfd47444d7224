//! Of the tests of receivers and of delivery.

#[path = "../../receivers/support/arrived.rs"]
pub mod arrived;
#[path = "../../delivery/chance.rs"]
pub mod chance;
#[path = "../../receivers/support/proxy.rs"]
pub mod proxy;
#[path = "../../receivers/support/server.rs"]
pub mod server;
#[path = "../../delivery/verdict.rs"]
pub mod verdict;
