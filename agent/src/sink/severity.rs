//! How much an event wants attention, for protocols that ask.

use serde::Deserialize;

/// Usage is what is watched for, not a fault; what is missing from the record of it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Severity {
    Informational,
    Warning,
}

#[derive(Deserialize)]
struct Facts {
    kind: String,
    #[serde(default)]
    loss: Option<LossFacts>,
    #[serde(default)]
    audit: Option<AuditFacts>,
}

#[derive(Deserialize)]
struct LossFacts {
    #[serde(default)]
    intentional: bool,
}

#[derive(Deserialize)]
struct AuditFacts {
    #[serde(default)]
    action: String,
}

impl Severity {
    /// Of an event's JSON.
    ///
    /// # Errors
    /// If it is not that of an event.
    pub fn of(json: &[u8]) -> Result<Self, serde_json::Error> {
        let facts: Facts = serde_json::from_slice(json)?;
        let warning = match facts.kind.as_str() {
            "loss" => facts.loss.is_some_and(|loss| !loss.intentional),
            "audit" => facts.audit.is_some_and(|audit| {
                matches!(
                    audit.action.as_str(),
                    "point_dropped" | "over_budget" | "probes_detached"
                )
            }),
            _ => false,
        };
        Ok(if warning {
            Self::Warning
        } else {
            Self::Informational
        })
    }
}
