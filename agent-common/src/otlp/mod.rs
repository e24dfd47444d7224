//! An event as a log record of OTLP, and back, byte for byte: what agent and collector agree on beside the event.
//!
//! The names that a record's parts have, JSON as flat attributes ([`value`]), a batch as a request ([`request`]), and
//! the way back to the event's canonical JSON ([`restore`]).
//!
//! Invariant: an event's JSON and its log record say the same, and each can be made of the other.

pub mod request;
pub mod restore;
pub mod value;

/// The scope's name, and the begin of each event's name.
pub const NAME: &str = "tokentrail.event";
pub const EVENT_NAME: &str = "tokentrail.";
/// Of a record.
pub const SEQUENCE: &str = "producer.sequence";
/// Attributes for times that 64 bits of nanoseconds cannot say.
pub const TIME: &str = "time";
pub const OBSERVED_TIME: &str = "observed_time";
