//! Why something was not read.

#[cfg(doc)]
use super::Limits;

/// What was not read, and why. Each is said once per loss.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Reason {
    /// The connection does not begin with anything known. Once.
    OpaqueProtocol,
    /// Bytes in which at least one request's head lay are not known.
    RequestLost,
    /// A response whose request was not seen.
    ResponseWithoutRequest,
    /// Where a message ends could not be known: a chunked body with a gap or an error, contradictory lengths, a lost
    /// answer to CONNECT or Upgrade.
    FramingLost,
    /// Over [`Limits::head`].
    HeadTooLong,
    /// Over [`Limits::fields`].
    TooManyFields,
    /// Not a head where one was due.
    Malformed,
    /// The connection ended within a request's head.
    HeadIncomplete,
    /// Over [`Limits::outstanding`]: from here on requests are given out without their responses.
    TooManyOutstanding,
    /// Header fields refer to what was sent before the agent could read it (HTTP/2); the exchange is given out without.
    FieldsUnresolved,
    /// Over [`Limits::held`] while a CONNECT or Upgrade was unanswered: nothing more is read.
    OverLimit,
}
