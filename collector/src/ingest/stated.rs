//! What a batch says of itself: whose events it holds, and the first and last of them.

use crate::event::EventKey;
use axum::http::HeaderMap;
use opentelemetry_proto::tonic::common::v1::any_value::Value;
use opentelemetry_proto::tonic::common::v1::{InstrumentationScope, KeyValue};
use std::sync::Arc;

#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Stated {
    agent: Arc<str>,
    epoch: u64,
    first: u64,
    last: u64,
}

/// What of it has come.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Span {
    ends: Option<(u64, u64)>,
    /// There was an event of somebody else.
    strange: bool,
}

impl Stated {
    /// By the headers `tokentrail-*` of the agent; nothing where one is missing.
    pub(super) fn headers(headers: &HeaderMap) -> Option<Self> {
        let text = |name: &str| headers.get(name)?.to_str().ok();
        let number = |name: &str| text(name)?.parse().ok();
        Some(Self {
            agent: text("tokentrail-agent")?.into(),
            epoch: number("tokentrail-epoch")?,
            first: number("tokentrail-first-sequence")?,
            last: number("tokentrail-last-sequence")?,
        })
    }

    /// By the attributes `tokentrail.*` of a scope.
    pub(super) fn scope(scope: &InstrumentationScope) -> Option<Self> {
        let value = |name: &str| {
            let named = |attribute: &&KeyValue| attribute.key == name;
            let found = scope.attributes.iter().find(named)?;
            found.value.as_ref()?.value.as_ref()
        };
        let number = |name: &str| match value(name)? {
            Value::IntValue(number) => u64::try_from(*number).ok(),
            _ => None,
        };
        let Value::StringValue(agent) = value("tokentrail.agent")? else {
            return None;
        };
        Some(Self {
            agent: agent.as_str().into(),
            epoch: number("tokentrail.epoch")?,
            first: number("tokentrail.first_sequence")?,
            last: number("tokentrail.last_sequence")?,
        })
    }
}

impl Span {
    pub(super) fn add(&mut self, stated: &Stated, event: &EventKey) {
        if event.agent != stated.agent || event.epoch != stated.epoch {
            self.strange = true;
            return;
        }
        let sequence = event.sequence;
        let (first, last) = self.ends.unwrap_or((sequence, sequence));
        self.ends = Some((first.min(sequence), last.max(sequence)));
    }

    /// The batch has come as it was sent. A hole within it is a hole, and no disagreement.
    pub(super) fn agrees(&self, stated: &Stated) -> bool {
        !self.strange && self.ends == Some((stated.first, stated.last))
    }
}
