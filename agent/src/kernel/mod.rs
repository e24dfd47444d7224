//! Loading the probes, and what they hand over. The only user of aya and the only `unsafe`.

pub mod keylog;
pub mod record;
