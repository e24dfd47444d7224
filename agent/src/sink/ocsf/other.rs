//! Losses, coverage, and the agent about itself.

use super::class::{
    APPLICATION_ERROR, APPLICATION_LIFECYCLE, Activity, NETWORK_ACTIVITY, OTHER, Severity,
};
use super::{actor, endpoint, object, plain, product};
use agent_common::event::{Action, Audit, Coverage, CoverageScope, Envelope, Loss, Time};
use serde_json::{Map, Value, json};

pub fn loss(loss: &Loss) -> Map<String, Value> {
    let detail = &loss.loss;
    let severity = if detail.intentional {
        Severity::Informational
    } else {
        Severity::Medium
    };
    let mut event = APPLICATION_ERROR.event((1, "General Error"), severity);
    span(
        &mut event,
        detail.from,
        detail.to,
        detail.count.unwrap_or(0),
    );
    let word = |value: Value| value.as_str().unwrap_or_default().replace('_', " ");
    let message = format!(
        "{} {} {} in stage {}: {}",
        detail.count.map_or_else(
            || "an unknown number of".to_owned(),
            |count| count.to_string()
        ),
        word(plain(&detail.unit)),
        if detail.intentional {
            "left out"
        } else {
            "lost"
        },
        word(plain(&detail.stage)),
        word(plain(&detail.reason)),
    );
    event.insert("message".to_owned(), json!(message));
    event.insert("status_code".to_owned(), plain(&detail.reason));
    event.insert("unmapped".to_owned(), json!({ "loss": plain(detail) }));
    event
}

pub fn coverage(envelope: &Envelope, coverage: &Coverage) -> Map<String, Value> {
    let detail = &coverage.coverage;
    let mut event = NETWORK_ACTIVITY.event((6, "Traffic"), Severity::Informational);
    span(&mut event, detail.from, detail.to, detail.connections.seen);
    let ends = coverage.network.as_ref();
    let local = ends.and_then(|network| network.local.as_ref());
    let peer = ends.and_then(|network| network.peer.as_ref());
    let source = local.map_or_else(
        || endpoint::host(envelope),
        |local| endpoint::end(&local.address, local.port),
    );
    event.insert("src_endpoint".to_owned(), Value::Object(source));
    if let Some(peer) = peer {
        let end = endpoint::end(&peer.address, peer.port);
        event.insert("dst_endpoint".to_owned(), Value::Object(end));
    }
    // The observed process's end comes first; who of the two called is not said.
    event.insert("is_src_dst_assignment_known".to_owned(), json!(false));
    if let Some(network) = &coverage.network {
        event.insert(
            "connection_info".to_owned(),
            endpoint::connection(network, 0),
        );
    }
    if let Some(principal) = &coverage.principal {
        let actor = object([
            ("process", actor::process(principal, None)),
            ("user", actor::user(&principal.process)),
        ]);
        event.insert("actor".to_owned(), Value::Object(actor));
    }
    if let Some(tls) = coverage.tls.as_ref().and_then(endpoint::tls) {
        event.insert("tls".to_owned(), tls);
    }
    if let Some(protocol) = &detail.protocol {
        event.insert("app_protocol_name".to_owned(), json!(protocol));
    }
    let connections = detail.connections;
    let of = match detail.scope {
        CoverageScope::Connection => "a connection",
        CoverageScope::Process => "a process's connections",
        CoverageScope::Agent => "all connections",
    };
    let mut message = format!(
        "coverage of {of}: {} seen, {} read, {} unread",
        connections.seen, connections.read, connections.unread
    );
    if let Some(reason) = &detail.reason {
        let reason = plain(reason);
        let word = reason.as_str().unwrap_or_default().replace('_', " ");
        message = format!("{message}: {word}");
        event.insert("status_code".to_owned(), reason);
    }
    event.insert("message".to_owned(), json!(message));
    let mut unmapped = object([("coverage", plain(detail))]);
    if let Some(principal) = &coverage.principal {
        let mut put = |name: &str, value: Value| {
            if !value.is_null() {
                unmapped.insert(name.to_owned(), value);
            }
        };
        put("process", actor::unmapped(&principal.process));
        put("systemd", plain(&principal.systemd));
        put("k8s", plain(&principal.k8s));
    }
    event.insert("unmapped".to_owned(), Value::Object(unmapped));
    event
}

pub fn audit(envelope: &Envelope, audit: &Audit) -> Map<String, Value> {
    let detail = &audit.audit;
    let activity: Activity<'_> = match detail.action {
        Action::AgentStarted | Action::CollectorStarted => (3, "Start"),
        Action::AgentStopped | Action::CollectorStopped => (4, "Stop"),
        Action::AgentReport => (OTHER, "Report"),
        Action::TrailAsked => (OTHER, "Query"),
        Action::ConfigChanged | Action::ScopeChanged | Action::AccessChanged => (8, "Update"),
        Action::PointAttached | Action::WithinBudget | Action::ProbesAttached => (6, "Enable"),
        Action::PointDropped | Action::OverBudget | Action::ProbesDetached => (7, "Disable"),
    };
    let severity = match detail.action {
        Action::PointDropped | Action::OverBudget | Action::ProbesDetached => Severity::Medium,
        _ => Severity::Informational,
    };
    let mut event = APPLICATION_LIFECYCLE.event(activity, severity);
    event.insert("app".to_owned(), product(envelope));
    let action = plain(&detail.action);
    let mut message = action.as_str().unwrap_or_default().replace('_', " ");
    if let Some(more) = &detail.detail {
        message = format!("{message}: {more}");
    }
    event.insert("message".to_owned(), json!(message));
    event.insert("unmapped".to_owned(), json!({ "audit": plain(detail) }));
    event
}

fn span(event: &mut Map<String, Value>, from: Time, to: Time, count: u64) {
    event.insert("start_time".to_owned(), json!(endpoint::millis(from)));
    event.insert("end_time".to_owned(), json!(endpoint::millis(to)));
    // An integer of OCSF has 32 bits with a sign; the whole number is in `unmapped`. None at all is no count.
    if let Ok(count @ 1..) = i32::try_from(count) {
        event.insert("count".to_owned(), json!(count));
    }
}
