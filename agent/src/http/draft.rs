//! An exchange in the making, of either version.
//!
//! Invariant: it becomes one [`Exchange`]: making that takes it.

use super::head::{BodyPrefix, Exchange, Outcome, ProxyClaim, RequestHead, ResponseHead};
use super::prefix::Prefix;
use crate::flow::Direction;

pub(super) struct Draft {
    pub request: RequestHead,
    pub request_body: Prefix,
    pub response: Option<ResponseHead>,
    pub response_body: Prefix,
    pub grpc_status: Option<u16>,
}

/// What all exchanges of a connection share.
#[derive(Clone, Copy)]
pub(super) struct Common {
    /// Direction of the requests.
    pub client: Direction,
    pub claim: Option<ProxyClaim>,
}

impl Draft {
    /// As it is; `unanswered` is the outcome if it has no response.
    pub fn exchange(mut self, unanswered: Outcome, common: Common) -> Exchange {
        let (outcome, response_body) = match self.response {
            Some(_) => (Outcome::Answered, self.response_body.take()),
            None => (unanswered, BodyPrefix::default()),
        };
        Exchange {
            request_direction: common.client,
            request: self.request,
            request_body: self.request_body.take(),
            response: self.response,
            response_body,
            grpc_status: self.grpc_status,
            outcome,
            proxy_claim: common.claim,
        }
    }
}
