//! What of an exchange and of a command line is recorded.
//!
//! By allow-list: a value is kept because it is known to be harmless, never because nothing was found wrong with it.
//! Three marks stand where something was:
//!
//! - `{secret}`: a credential (known from this exchange, of a known form, or in a slot that holds one);
//! - `{opaque}`: in a path, what reads neither like words nor like an ordinary id, and so may be one;
//! - `{redacted}`: anything else that is not on the allow-list;
//! - `{cut}`: what is beyond the length that is recorded.
//!
//! Invariant: no value that this exchange presented as a credential is in the output, raw, percent-encoded, as part of
//! a longer value, or in part.
//! Invariant: output is printable ASCII and bounded, whatever the input.

mod agent;
mod command_line;
mod forwarded;
mod host;
mod ids;
mod known;
pub(super) mod opaque;
mod path;
mod query;
mod target;
mod url;

pub use command_line::command_line;
pub(super) use known::Known;
pub(super) use target::Target;

use super::find::Finds;
use super::observation::Sanitized;
use crate::http::head::Exchange;

pub(super) const SECRET: &str = "{secret}";
pub(super) const OPAQUE: &str = "{opaque}";
pub(super) const REDACTED: &str = "{redacted}";
pub(super) const CUT: &str = "{cut}";

/// The recordable part of an exchange.
pub(super) fn sanitize(exchange: &Exchange, target: &Target<'_>, finds: &Finds<'_>) -> Sanitized {
    let known = Known::new(finds);
    let request = &exchange.request.headers;
    let response = exchange.response.as_ref().map(|response| &response.headers);
    let path::Sanitized { path, template } = path::sanitize(target.path, &known);
    let (host, port) = host::sanitize(target.host, &known);
    Sanitized {
        path,
        template,
        query: target.query.map(|query| query::sanitize(query, &known)),
        host,
        port: port.or(target.port),
        user_agent: request
            .first("user-agent")
            .filter(|agent| !agent.is_empty())
            .map(|agent| agent::sanitize(agent, &known)),
        ids: ids::collect(request, response, &known),
        forwarded: forwarded::collect(request, exchange.proxy_claim.as_ref(), &known),
    }
}
