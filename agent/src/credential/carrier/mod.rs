//! Where a credential rode: every place of an exchange where one may stand.
//!
//! Each carrier takes its part of the exchange and adds what it found to [`Finds`]; none looks at another's part.
//!
//! Invariant: a value is taken whole from its slot; no carrier searches through text.

mod cookie;
mod form;
mod header;
mod path;
mod query;
mod subprotocol;
mod userinfo;

pub(super) use query::is_secret_name;

use super::find::Finds;
use super::redact::Target;
use crate::http::head::Exchange;

/// Adds every credential of the exchange.
pub(super) fn collect(exchange: &Exchange, target: &Target<'_>, finds: &mut Finds<'_>) {
    for (name, value) in exchange.request.headers.iter() {
        header::request(name, value, finds);
    }
    collect_target(target, finds);
    form::collect(&exchange.request.headers, &exchange.request_body, finds);
    if let Some(response) = &exchange.response {
        for value in response.headers.all("set-cookie") {
            cookie::response(value, finds);
        }
    }
}

/// Adds every credential of a request target or another URL.
pub(super) fn collect_target(target: &Target<'_>, finds: &mut Finds<'_>) {
    userinfo::collect(target, finds);
    if let Some(query) = target.query {
        query::collect(query, finds);
    }
    path::collect(target, finds);
}
