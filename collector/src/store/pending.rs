//! What the store asks of the inbox.

pub use crate::inbox::Entry;

use std::sync::Arc;

/// Why entries could not be removed.
pub type PendingError = Box<dyn std::error::Error + Send + Sync>;

/// Events that are durable and not sealed.
pub trait Pending: Send + Sync + 'static {
    /// Committed and not removed, ascending ids. An entry that appears later has a greater id than all that were ever
    /// returned.
    fn pending(&self) -> Vec<Arc<Entry>>;

    /// Entries up to and with `through` are durable elsewhere. Nothing is wrong with repeating it.
    ///
    /// # Errors
    /// They stay; the next seal or start removes them.
    fn remove(&self, through: i64) -> Result<(), PendingError>;
}
