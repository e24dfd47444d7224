//! Memory that requests may take together.
//!
//! Invariant: what is held is given back when its request ends, however it ends.

use super::answer::Failure;
use std::sync::Arc;
use tokio::sync::{OwnedSemaphorePermit, Semaphore};

/// Permits are counted in these: their number has 32 bits.
const UNIT: usize = 1024;

pub(super) struct Budget {
    units: Arc<Semaphore>,
}

/// What one request holds of it.
pub(super) struct Held {
    units: Arc<Semaphore>,
    permit: Option<OwnedSemaphorePermit>,
    /// Of the permit, so much is used.
    bytes: usize,
}

impl Budget {
    pub(super) fn new(bytes: usize) -> Self {
        let units = (bytes / UNIT).clamp(1, Semaphore::MAX_PERMITS);
        Self {
            units: Arc::new(Semaphore::new(units)),
        }
    }

    pub(super) fn hold(&self) -> Held {
        Held {
            units: Arc::clone(&self.units),
            permit: None,
            bytes: 0,
        }
    }

    #[cfg(test)]
    pub(super) fn free(&self) -> usize {
        self.units.available_permits() * UNIT
    }
}

impl Held {
    /// More of it.
    ///
    /// # Errors
    /// There is not so much left.
    pub(super) fn grow(&mut self, bytes: usize) -> Result<(), Failure> {
        let wanted = self.bytes.saturating_add(bytes);
        let held = self
            .permit
            .as_ref()
            .map_or(0, OwnedSemaphorePermit::num_permits);
        let missing = wanted.div_ceil(UNIT).saturating_sub(held);
        if missing > 0 {
            let missing = u32::try_from(missing).map_err(|_| Failure::Busy)?;
            let more = Arc::clone(&self.units)
                .try_acquire_many_owned(missing)
                .map_err(|_| Failure::Busy)?;
            match &mut self.permit {
                Some(permit) => permit.merge(more),
                None => self.permit = Some(more),
            }
        }
        self.bytes = wanted;
        Ok(())
    }

    /// Less of it.
    pub(super) fn shrink(&mut self, bytes: usize) {
        self.bytes = self.bytes.saturating_sub(bytes);
        if let Some(permit) = &mut self.permit {
            let over = permit.num_permits() - self.bytes.div_ceil(UNIT);
            drop(permit.split(over));
        }
    }
}
