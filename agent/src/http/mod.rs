//! HTTP exchanges out of plaintext pieces.
//!
//! [`detect`] says what a stream begins with, [`proxy`] reads a PROXY protocol header before it, [`h1`] pairs requests
//! and responses of one connection, [`h2`] those of HTTP/2. What is not HTTP/1 is handed on ([`h1::Output::Inner`]) or
//! reported with a reason ([`Reason`]).
//!
//! The pipeline makes one [`h1::Connection`] per plaintext stream pair (the socket's, or that of the TLS connection on
//! it), pushes every [`Piece`](crate::flow::Piece) of both directions, calls `flush` now and then and `finish` at the end.
//!
//! Invariant: knows neither credentials nor pids.
//! Invariant: whatever holds other people's bytes is wiped when it is dropped or grows ([`buffer`]).

mod buffer;
pub mod detect;
mod draft;
#[doc(hidden)]
pub mod fuzz;
pub mod grpc;
pub mod h1;
pub mod h2;
pub mod head;
mod layer;
mod limits;
mod prefix;
pub mod proxy;
mod reason;

pub use layer::Layer;
pub use limits::Limits;
pub use reason::Reason;
