//! Classes and their activities.

use super::object;
use serde_json::{Map, Value, json};

pub struct Class {
    category: (u32, &'static str),
    uid: u32,
    name: &'static str,
}

pub const API_ACTIVITY: Class = Class {
    category: (6, "Application Activity"),
    uid: 6003,
    name: "API Activity",
};
pub const APPLICATION_ERROR: Class = Class {
    category: (6, "Application Activity"),
    uid: 6008,
    name: "Application Error",
};
pub const APPLICATION_LIFECYCLE: Class = Class {
    category: (6, "Application Activity"),
    uid: 6002,
    name: "Application Lifecycle",
};
pub const NETWORK_ACTIVITY: Class = Class {
    category: (4, "Network Activity"),
    uid: 4001,
    name: "Network Activity",
};

/// An activity of a class, by id and name.
pub type Activity<'a> = (u32, &'a str);

/// Not one of the class's activities: the name says which.
pub const OTHER: u32 = 99;

#[derive(Clone, Copy)]
pub enum Severity {
    Informational,
    Medium,
}

impl Class {
    pub fn event(&self, activity: Activity<'_>, severity: Severity) -> Map<String, Value> {
        let (severity_id, severity) = match severity {
            Severity::Informational => (1, "Informational"),
            Severity::Medium => (3, "Medium"),
        };
        let kind = if activity.0 == OTHER {
            "Other"
        } else {
            activity.1
        };
        object([
            ("category_uid", json!(self.category.0)),
            ("category_name", json!(self.category.1)),
            ("class_uid", json!(self.uid)),
            ("class_name", json!(self.name)),
            ("activity_id", json!(activity.0)),
            ("activity_name", json!(activity.1)),
            ("type_uid", json!(self.uid * 100 + activity.0)),
            ("type_name", json!(format!("{}: {kind}", self.name))),
            ("severity_id", json!(severity_id)),
            ("severity", json!(severity)),
        ])
    }
}
