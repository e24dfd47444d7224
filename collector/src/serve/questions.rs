//! What questions need of the running collector: snapshots, new events, who asks, and the audit log.

use super::gate::Gate;
use super::listener::Peer;
use crate::access::{Denied, Role};
use crate::api::{self, Asked, Audit, Authorize, Fresh, Live, Right};
use crate::inbox::Inbox;
use crate::search::engine::Source;
use crate::store::{Entry, Pending, PendingError, Snapshot, Store};
use agent_common::event::{self, Action, AuditDetail, Body, Fingerprint, Time};
use async_trait::async_trait;
use axum::extract::ConnectInfo;
use axum::http::request::Parts;
use futures::stream::{self, BoxStream, StreamExt};
use std::sync::Arc;
use tokio::sync::broadcast::error::RecvError;

/// See the module.
pub struct Questions {
    pub store: Store,
    pub inbox: Inbox,
    pub gate: Gate,
}

impl Pending for Inbox {
    fn pending(&self) -> Vec<Arc<Entry>> {
        Inbox::pending(self)
    }

    fn remove(&self, through: i64) -> Result<(), PendingError> {
        Ok(Inbox::remove(self, through)?)
    }
}

#[async_trait]
impl Source for Questions {
    async fn snapshot(&self) -> Result<Snapshot, String> {
        let snapshot = self.store.snapshot().await;
        snapshot.map_err(|error| error.to_string())
    }
}

impl Live for Questions {
    fn subscribe(&self) -> BoxStream<'static, Fresh> {
        stream::unfold(self.inbox.subscribe(), |mut committed| async {
            match committed.recv().await {
                Ok(entry) => Some((Fresh::Events(entry.events.clone().into()), committed)),
                Err(RecvError::Lagged(missed)) => Some((Fresh::Missed(missed), committed)),
                Err(RecvError::Closed) => None,
            }
        })
        .boxed()
    }
}

#[async_trait]
impl Authorize for Questions {
    async fn authorize(&self, request: &Parts, right: Right) -> Result<Arc<str>, api::Denied> {
        let denied = |denied: Denied| match denied {
            Denied::Missing | Denied::Unknown => api::Denied::Unknown(denied.to_string()),
            Denied::Role { .. } | Denied::FirstUse => api::Denied::Forbidden(denied.to_string()),
        };
        let peer = request.extensions.get::<ConnectInfo<Peer>>();
        let certificate = peer.and_then(|peer| peer.0.certificate.as_deref());
        let caller = self
            .gate
            .caller(&request.headers, certificate)
            .await
            .map_err(denied)?;
        let needed = match right {
            Right::Read => Role::Reader,
            Right::Trail => Role::Analyst,
        };
        caller.may(needed).map_err(denied)?;
        Ok(caller.name)
    }
}

#[async_trait]
impl Audit for Questions {
    async fn asked(&self, who: &str, asked: Asked, named: &[&str]) -> Result<(), String> {
        let (whole, parts): (Vec<_>, Vec<_>) = named
            .iter()
            .map(|text| text.parse::<Fingerprint>().map_err(|_| *text))
            .partition(Result::is_ok);
        let parts: Vec<&str> = parts.into_iter().filter_map(Result::err).collect();
        let detail = match parts.is_empty() {
            true => asked.name().to_owned(),
            false => format!("{} for fingerprints like {}", asked.name(), parts.join(" ")),
        };
        let audit = AuditDetail {
            actor: Some(who.to_owned()),
            fingerprints: whole.into_iter().filter_map(Result::ok).collect(),
            detail: Some(detail),
            ..AuditDetail::of(Action::TrailAsked)
        };
        self.inbox
            .say(Time::now(), Body::Audit(event::Audit { audit }))
            .await
            .map(drop)
            .map_err(|error| error.to_string())
    }
}
