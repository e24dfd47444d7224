//! Loading the probes, and what they hand over. The only user of aya and the only `unsafe`.

pub mod attach;
pub mod bare;
pub mod bridge;
pub mod btf;
pub mod cgroups;
pub mod decode;
pub mod device;
pub mod empty;
pub mod features;
pub mod hooks;
pub mod keeper;
pub mod keylog;
pub mod owner;
pub mod points;
pub mod probes;
pub mod record;
pub mod renewal;
pub mod scope;
