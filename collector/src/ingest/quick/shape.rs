//! What stands around the values of a record, and in front of them.

use super::fields::Record;
use super::known::Learned;
use super::rule::Rule;
use super::write::{self, Clock};
use super::{EventKey, Taken};
use agent_common::otlp::{EVENT_NAME, NAME, OBSERVED_TIME, SEQUENCE, TIME, restore};
use opentelemetry_proto::tonic::common::v1::{AnyValue, InstrumentationScope};
use opentelemetry_proto::tonic::resource::v1::Resource;
use std::collections::HashSet;
use std::sync::Arc;

/// The one kind that is quick: nearly all events are of it.
const KIND: &str = "usage";
/// Members of an event that are no attributes of its record.
const IN_FRONT: [&str; 6] = ["version", TIME, OBSERVED_TIME, "producer", "host", "kind"];

/// The JSON in front of a record's attributes, for all records of a resource and scope.
pub(in crate::ingest) struct Head {
    /// Up to the time, between time and observed time, up to the sequence, and behind it.
    parts: [Vec<u8>; 4],
    /// By the first event that the plain way has taken, and that is the same with these parts: resource and scope are
    /// valid, and nothing of producer and host is elsewhere.
    producer: Option<(Arc<str>, u64)>,
}

impl Head {
    /// Whose events they are, or that it is not known.
    pub fn prove(&mut self, key: Option<&EventKey>) {
        self.producer = key.map(|key| (Arc::clone(&key.agent), key.epoch));
    }

    pub fn is_proven(&self) -> bool {
        self.producer.is_some()
    }
}

pub(super) fn head(resource: &Resource, scope: &InstrumentationScope) -> Option<Head> {
    if scope.name != NAME {
        return None;
    }
    let version: u64 = scope.version.parse().ok()?;
    let mut version_text = Vec::new();
    write::whole(version, &mut version_text);
    let mut members: Vec<(&str, Option<Vec<u8>>)> = vec![
        ("version", Some(version_text)),
        (TIME, None),
        (OBSERVED_TIME, None),
    ];
    let value = |value: Option<&AnyValue>| {
        let mut json = Vec::new();
        restore::write_value(value?, 0, &mut json)?;
        Some(json)
    };
    for attribute in &resource.attributes {
        if attribute.key.starts_with("producer.") {
            members.push((&attribute.key, Some(value(attribute.value.as_ref())?)));
        }
    }
    members.push((SEQUENCE, None));
    for attribute in &resource.attributes {
        if ["host.id", "host.name", "host.boot_id"].contains(&attribute.key.as_str()) {
            members.push((&attribute.key, Some(value(attribute.value.as_ref())?)));
        }
    }
    members.push(("kind", Some(format!("\"{KIND}\"").into_bytes())));
    let keys: Vec<&str> = members.iter().map(|(key, _)| *key).collect();
    let (between, _) = between(&keys)?;
    let mut parts: [Vec<u8>; 4] = Default::default();
    let mut part = 0;
    for (between, (_, value)) in between.into_iter().zip(members) {
        let into = parts.get_mut(part)?;
        into.extend_from_slice(&between);
        match value {
            Some(value) => into.extend_from_slice(&value),
            None => part += 1,
        }
    }
    Some(Head {
        parts,
        producer: None,
    })
}

/// Records with the same names in the same order.
pub(super) struct Shape {
    attributes: Vec<Named>,
    /// Which of them is the sequence.
    sequence: usize,
    end: Vec<u8>,
}

struct Named {
    key: Box<[u8]>,
    /// JSON between the value before it and its own.
    between: Vec<u8>,
    rule: Rule,
}

impl Shape {
    /// `None`: not such as is kept.
    pub fn of(record: &Record<'_>) -> Option<Self> {
        let keys = record
            .attributes
            .iter()
            .map(|attribute| std::str::from_utf8(attribute.key))
            .collect::<Result<Vec<_>, _>>()
            .ok()?;
        let mut others = keys.clone();
        others.retain(|key| *key != SEQUENCE);
        let sequence = keys.iter().position(|key| *key == SEQUENCE)?;
        let in_front = |key: &&str| IN_FRONT.contains(&key.split('.').next().unwrap_or_default());
        let kind = std::str::from_utf8(record.event_name).ok()?;
        if others.len() + 1 != keys.len()
            || others.iter().any(in_front)
            || kind.strip_prefix(EVENT_NAME) != Some(KIND)
        {
            return None;
        }
        // Behind the kind, which stands by itself in the object of the event.
        let mut all = vec!["kind"];
        all.extend(&others);
        let (between, end) = between(&all)?;
        let mut between = between.into_iter().skip(1);
        let attributes = keys.iter().enumerate().map(|(at, key)| {
            Some(Named {
                key: key.as_bytes().into(),
                between: if at == sequence {
                    Vec::new()
                } else {
                    between.next()?
                },
                rule: Rule::of(key),
            })
        });
        Some(Self {
            attributes: attributes.collect::<Option<_>>()?,
            sequence,
            end,
        })
    }

    pub fn fits(&self, record: &Record<'_>) -> bool {
        record.attributes.len() == self.attributes.len()
            && record.event_name.strip_prefix(EVENT_NAME.as_bytes()) == Some(KIND.as_bytes())
            && self
                .attributes
                .iter()
                .zip(record.attributes.iter())
                .all(|(named, attribute)| *named.key == *attribute.key)
    }

    /// Bytes that it takes, about.
    pub fn weight(&self) -> usize {
        let each = |named: &Named| named.key.len() + named.between.len() + 80;
        self.attributes.iter().map(each).sum::<usize>() + self.end.len()
    }

    /// Appends the event of a record that fits. What is appended is of no use if it is `None`.
    pub fn write(
        &self,
        head: &Head,
        record: &Record<'_>,
        learned: &Learned,
        clock: &mut Clock,
        json: &mut Vec<u8>,
    ) -> Option<Taken> {
        let (agent, epoch) = head.producer.as_ref()?;
        let time = i64::try_from(record.time).ok()?;
        let observed = i64::try_from(record.observed_time).ok()?;
        let sequence = record.attributes.get(self.sequence)?;
        let sequence = Rule::sequence(sequence.value)?;
        let [first, second, third, fourth] = &head.parts;
        json.extend_from_slice(first);
        clock.time(time.unsigned_abs(), json);
        json.extend_from_slice(second);
        clock.time(observed.unsigned_abs(), json);
        json.extend_from_slice(third);
        write::whole(sequence, json);
        json.extend_from_slice(fourth);
        for (named, attribute) in self.attributes.iter().zip(record.attributes.iter()) {
            if named.rule == Rule::Sequence {
                continue;
            }
            json.extend_from_slice(&named.between);
            let before = json.len();
            if !named.rule.write(attribute.value, json) {
                json.truncate(before);
                json.extend_from_slice(learned.value(attribute.whole)?);
            }
        }
        json.extend_from_slice(&self.end);
        Some(Taken {
            key: EventKey {
                agent: Arc::clone(agent),
                epoch: *epoch,
                sequence,
            },
            time,
        })
    }
}

/// The JSON in front of the value of each dotted name, and behind the last one. `None`: an object would be opened
/// twice, or a name is there twice.
fn between(keys: &[&str]) -> Option<(Vec<Vec<u8>>, Vec<u8>)> {
    let mut pieces = Vec::with_capacity(keys.len());
    let mut open: Vec<&str> = Vec::new();
    let mut taken: HashSet<Vec<&str>> = HashSet::new();
    for (at, key) in keys.iter().enumerate() {
        let parts: Vec<&str> = key.split('.').collect();
        let (name, above) = parts.split_last()?;
        let common = open
            .iter()
            .zip(above)
            .take_while(|(one, other)| one == other)
            .count();
        let mut piece = Vec::new();
        piece.resize(open.len() - common, b'}');
        open.truncate(common);
        piece.push(if at == 0 { b'{' } else { b',' });
        for part in above.get(common..)? {
            open.push(part);
            if !taken.insert(open.clone()) {
                return None;
            }
            write::string(part, &mut piece);
            piece.extend_from_slice(b":{");
        }
        if !taken.insert(parts.clone()) {
            return None;
        }
        write::string(name, &mut piece);
        piece.push(b':');
        pieces.push(piece);
    }
    Some((pieces, vec![b'}'; open.len() + 1]))
}
