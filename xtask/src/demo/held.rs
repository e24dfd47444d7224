//! The collector's events against those that the agent wrote: each is there once, and says the same.

use serde_json::Value;
use std::collections::BTreeMap;

/// The agent's events by what came of them.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct Held {
    /// Once, and the same.
    pub same: usize,
    pub missing: usize,
    pub repeated: usize,
    /// Once, and saying something else.
    pub different: usize,
    /// In the collector by this agent, and not written by it.
    pub strange: usize,
}

/// What makes an event that event: (producer, epoch, sequence).
fn name(event: &Value) -> [Option<String>; 3] {
    ["id", "epoch", "sequence"].map(|part| {
        let value = event.pointer(&format!("/producer/{part}"))?;
        Some(value.to_string())
    })
}

/// `written` are one agent's; events of other producers, the collector itself above all, are left out.
pub fn compare(written: &[Value], found: &[Value]) -> Held {
    let mut by_name: BTreeMap<_, Vec<&Value>> = BTreeMap::new();
    for event in found {
        by_name.entry(name(event)).or_default().push(event);
    }
    let mut held = Held::default();
    for event in written {
        let there = by_name.remove(&name(event)).unwrap_or_default();
        let count = match there.as_slice() {
            [] => &mut held.missing,
            [one] if *one == event => &mut held.same,
            [_] => &mut held.different,
            _ => &mut held.repeated,
        };
        *count += 1;
    }
    let agent = written.first().map(|event| name(event)[0].clone());
    held.strange = by_name
        .keys()
        .filter(|name| Some(&name[0]) == agent.as_ref())
        .count();
    held
}

impl Held {
    pub fn is_good(&self) -> bool {
        *self
            == Self {
                same: self.same,
                ..Self::default()
            }
    }

    pub fn line(&self) -> String {
        let Self {
            same,
            missing,
            repeated,
            different,
            strange,
        } = self;
        let all = same + missing + repeated + different;
        if self.is_good() {
            format!(
                "all {all} events of the agent, of every kind: each is there once, as it was written"
            )
        } else {
            format!(
                "of {all} events of the agent {same} are there once, as they were written; {missing} missing, \
                 {repeated} repeated, {different} changed, {strange} more"
            )
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn event(producer: &str, sequence: u64, kind: &str) -> Value {
        json!({"producer": {"id": producer, "epoch": 1, "sequence": sequence}, "kind": kind})
    }

    #[test]
    fn once_and_the_same_is_good() {
        let written = [event("a", 1, "usage"), event("a", 2, "audit")];
        let own = event("collector", 1, "audit");
        let found = [written[1].clone(), own, written[0].clone()];
        let held = compare(&written, &found);
        assert!(held.is_good());
        assert_eq!(held.same, 2);
    }

    #[test]
    fn all_else_is_not() {
        let written = [event("a", 1, "usage"), event("a", 2, "usage")];
        let of = |found: &[Value]| compare(&written, found);
        let (first, second) = (written[0].clone(), written[1].clone());
        for held in [
            of(&written[..1]),
            of(&[first.clone(), second.clone(), first.clone()]),
            of(&[first.clone(), event("a", 2, "loss")]),
            of(&[first, second, event("a", 3, "usage")]),
            of(&[]),
        ] {
            assert!(!held.is_good(), "{held:?}");
        }
    }
}
