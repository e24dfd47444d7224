//! Shapes and values that the plain way has taken.
//!
//! Invariant: at most [`SHAPES`], [`VALUES`] and [`BYTES`]; over that everything is learned anew.

use super::fields::Record;
use super::shape::{Head, Shape};
use super::write::Clock;
use crate::event::EventKey;
use agent_common::otlp::restore;
use ahash::AHashMap;
use opentelemetry_proto::tonic::common::v1::AnyValue;
use prost::Message;
use std::sync::Arc;

const SHAPES: usize = 512;
const VALUES: usize = 200_000;
const BYTES: usize = 64 * 1024 * 1024;
/// Larger values are not worth it.
const VALUE_BYTES: usize = 16 * 1024;
/// What a value takes beside its bytes, about.
const BESIDE: usize = 96;

/// A cheap copy of what is known.
#[derive(Clone, Default)]
pub(super) struct Learned {
    shapes: Vec<Arc<Shape>>,
    values: Arc<Values>,
    /// Since it was copied.
    fresh: Values,
}

/// JSON by an attribute's bytes.
#[derive(Clone, Default)]
struct Values {
    json: AHashMap<Arc<[u8]>, Arc<[u8]>>,
    bytes: usize,
}

impl Values {
    fn insert(&mut self, whole: Arc<[u8]>, json: Arc<[u8]>) {
        let bytes = whole.len() + json.len() + BESIDE;
        if self.json.insert(whole, json).is_none() {
            self.bytes += bytes;
        }
    }

    fn remove(&mut self, whole: &[u8]) {
        if let Some((whole, json)) = self.json.remove_entry(whole) {
            self.bytes -= whole.len() + json.len() + BESIDE;
        }
    }
}

impl Learned {
    /// JSON of an attribute that is known.
    pub fn value(&self, whole: &[u8]) -> Option<&[u8]> {
        let found = self.values.json.get(whole);
        found
            .or_else(|| self.fresh.json.get(whole))
            .map(|json| &**json)
    }

    /// The shape that fits; it is looked at earlier the next time.
    pub fn shape(&mut self, record: &Record<'_>) -> Option<Arc<Shape>> {
        let at = self.shapes.iter().position(|shape| shape.fits(record))?;
        let found = Arc::clone(self.shapes.get(at)?);
        self.shapes.swap(at, at / 2);
        Some(found)
    }

    #[cfg(test)]
    pub fn shapes(&self) -> usize {
        self.shapes.len()
    }

    pub fn is_fresh(&self) -> bool {
        self.fresh.bytes > 0
    }

    /// Learns from a record, and the event that the plain way made of it.
    pub fn learn(
        &mut self,
        head: &mut Head,
        record: &Record<'_>,
        (key, json): (&EventKey, &[u8]),
        clock: &mut Clock,
    ) {
        let Some(values) = values(record) else {
            return;
        };
        let (shape, new) = match self.shape(record) {
            Some(shape) => (shape, false),
            None => match Shape::of(record) {
                Some(shape) => (Arc::new(shape), true),
                None => return,
            },
        };
        let mut new_values = Vec::new();
        for (whole, json) in values {
            if self.value(&whole).is_none() {
                new_values.push(Arc::clone(&whole));
                self.fresh.insert(whole, json);
            }
        }
        let mut own = Vec::with_capacity(json.len());
        let proven = head.is_proven();
        if !proven {
            head.prove(Some(key));
        }
        let written = shape.write(head, record, self, clock, &mut own);
        if written.is_none_or(|taken| taken.key != *key) || own != json {
            for whole in new_values {
                self.fresh.remove(&whole);
            }
            if !proven {
                head.prove(None);
            }
            return;
        }
        if new {
            if self.shapes.len() >= SHAPES {
                self.shapes.clear();
            }
            self.fresh.bytes += shape.weight();
            self.shapes.push(shape);
        }
    }

    /// Takes over what another one has learned since it was copied from this one.
    pub fn merge(&mut self, other: &Self) {
        for shape in &other.shapes {
            if self.shapes.len() < SHAPES && !self.shapes.iter().any(|it| Arc::ptr_eq(it, shape)) {
                self.shapes.push(Arc::clone(shape));
            }
        }
        let values = Arc::make_mut(&mut self.values);
        if values.json.len() + other.fresh.json.len() > VALUES
            || values.bytes + other.fresh.bytes > BYTES
        {
            *values = Values::default();
        }
        for (whole, json) in &other.fresh.json {
            values.insert(Arc::clone(whole), Arc::clone(json));
        }
    }
}

/// An attribute's bytes, and its JSON.
type Value = (Arc<[u8]>, Arc<[u8]>);

/// Each attribute that no rule decides.
fn values(record: &Record<'_>) -> Option<Vec<Value>> {
    let mut values = Vec::new();
    let mut written = Vec::new();
    for attribute in record.attributes.iter() {
        let key = std::str::from_utf8(attribute.key).ok()?;
        written.clear();
        if super::rule::Rule::of(key).write(attribute.value, &mut written) {
            continue;
        }
        if attribute.whole.len() > VALUE_BYTES {
            return None;
        }
        written.clear();
        let value = AnyValue::decode(attribute.value).ok()?;
        restore::write_value(&value, 0, &mut written)?;
        values.push((attribute.whole.into(), written.as_slice().into()));
    }
    Some(values)
}
