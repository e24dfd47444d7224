//! A query as a filter over the store's columns, and what can be known from it before anything is read.
//!
//! Logic is two-valued: a term holds or does not, and a field that an event has not makes it not hold. In the engine
//! a comparison with null is null, and so would be its negation; so negations are driven down to the terms, and a
//! negated term is `IS NOT TRUE`. Above the terms only `AND` and `OR` are left, which treat null as false is treated.
//!
//! A prefix is a half-open range rather than a pattern: it prunes pages by their minima and maxima, and nothing in the
//! text is special.
//!
//! Invariant: an event that the filter takes is within [`bounds`] and, if there are any, has one of [`fingerprints`].

use super::fields::{Field, Kind};
use super::functions::{address_within, text_contains};
use super::language::{Comparison, Query, Term, Test, Value};
use crate::store::columns;
use arrow::datatypes::DataType;
use datafusion::common::{Column, ScalarValue};
use datafusion::logical_expr::{Expr, Operator, binary_expr, lit};
use std::collections::BTreeSet;

/// The filter; `now` in nanoseconds since the Unix epoch.
#[must_use]
pub fn filter(query: &Query, now: i64) -> Expr {
    filter_alone(query, now, &BTreeSet::new())
}

/// The filter for rows none of which has one of the fingerprints `alone` in a list.
#[must_use]
pub fn filter_alone(query: &Query, now: i64, alone: &BTreeSet<&str>) -> Expr {
    holds(query, Known { now, alone }, true)
}

/// What terms are read with.
#[derive(Clone, Copy)]
struct Known<'a> {
    now: i64,
    alone: &'a BTreeSet<&'a str>,
}

/// `positive`: that it holds; else that it does not.
fn holds(query: &Query, known: Known<'_>, positive: bool) -> Expr {
    let joined = |queries: &[Query], operator| {
        let parts = queries.iter().map(|query| holds(query, known, positive));
        balanced(parts.collect(), operator)
    };
    match query {
        Query::All => lit(positive),
        Query::Not(query) => holds(query, known, !positive),
        Query::And(queries) if positive => joined(queries, Operator::And),
        Query::Or(queries) if !positive => joined(queries, Operator::And),
        Query::And(queries) | Query::Or(queries) => joined(queries, Operator::Or),
        Query::Term(Term {
            field,
            test: Test::Exists,
        }) if !positive => column(field.column).is_null(),
        Query::Term(term) if positive => term_holds(term, known),
        Query::Term(term) => Expr::IsNotTrue(Box::new(term_holds(term, known))),
    }
}

/// As flat a tree as can be: the engine walks it recursively.
fn balanced(mut parts: Vec<Expr>, operator: Operator) -> Expr {
    while parts.len() > 1 {
        let mut pairs = parts.into_iter();
        let mut next = Vec::with_capacity(pairs.len().div_ceil(2));
        while let Some(left) = pairs.next() {
            next.push(match pairs.next() {
                Some(right) => binary_expr(left, operator, right),
                None => left,
            });
        }
        parts = next;
    }
    parts
        .pop()
        .unwrap_or_else(|| lit(operator == Operator::And))
}

pub(super) fn column(name: &str) -> Expr {
    // Not `col()`, which would read dots and capitals in its own way.
    Expr::Column(Column::from_name(name))
}

fn text(value: &str) -> Expr {
    lit(ScalarValue::Utf8View(Some(value.to_owned())))
}

fn term_holds(term: &Term, known: Known<'_>) -> Expr {
    let now = known.now;
    let field = term.field;
    match &term.test {
        Test::Exists => column(field.column).is_not_null(),
        Test::Equals(value) => equals(field, value, known),
        Test::Prefix(prefix) => starts_with(field, prefix),
        Test::Range(low, high) => {
            let low = low
                .as_ref()
                .map(|low| compared(field, Comparison::GreaterOrEqual, low, now));
            let high = high
                .as_ref()
                .map(|high| compared(field, Comparison::LessOrEqual, high, now));
            balanced(low.into_iter().chain(high).collect(), Operator::And)
        }
        Test::Compare(comparison, value) => compared(field, *comparison, value, now),
        Test::Within(network) => address_within(column(field.column), *network),
        Test::Since(moment) => from(field.column, moment.span(now).0),
        Test::Until(moment) => before(field.column, moment.span(now).0),
    }
}

fn equals(field: &Field, value: &Value, known: Known<'_>) -> Expr {
    let own = || column(field.column);
    match value {
        Value::Text(value) => match field.kind {
            Kind::Fingerprint if known.alone.contains(value.as_str()) => own().eq(text(value)),
            Kind::Fingerprint => own().eq(text(value)).or(text_contains(
                column(columns::FINGERPRINTS_MORE),
                quoted(value, true),
            )),
            Kind::List => text_contains(own(), quoted(value, true)),
            _ => own().eq(text(value)),
        },
        Value::Integer(number) => own().eq(lit(*number)),
        Value::Boolean(value) => own().eq(lit(*value)),
        Value::Moment(moment) => {
            let (begin, end) = moment.span(known.now);
            from(field.column, begin).and(before(field.column, end))
        }
    }
}

fn starts_with(field: &Field, prefix: &str) -> Expr {
    let own = || column(field.column);
    let range = || match successor(prefix) {
        _ if prefix.is_empty() => own().is_not_null(),
        Some(next) => own().gt_eq(text(prefix)).and(own().lt(text(&next))),
        None => own().gt_eq(text(prefix)),
    };
    match field.kind {
        Kind::Fingerprint => range().or(text_contains(
            column(columns::FINGERPRINTS_MORE),
            quoted(prefix, false),
        )),
        Kind::List => text_contains(own(), quoted(prefix, false)),
        _ => range(),
    }
}

/// The least text greater than all that begin with `prefix`: by UTF-8 bytes, which order as characters do.
fn successor(prefix: &str) -> Option<String> {
    let mut characters: Vec<char> = prefix.chars().collect();
    while let Some(last) = characters.pop() {
        // The range leaves surrogates out.
        if let Some(next) = (last..=char::MAX).nth(1) {
            characters.push(next);
            return Some(characters.into_iter().collect());
        }
    }
    None
}

/// As it stands in JSON text, from the quote on; up to its quote if `whole`.
fn quoted(value: &str, whole: bool) -> String {
    let mut json = serde_json::Value::from(value).to_string();
    if !whole {
        json.pop();
    }
    json
}

fn compared(field: &Field, comparison: Comparison, value: &Value, now: i64) -> Expr {
    let own = column(field.column);
    match value {
        Value::Moment(moment) => {
            let (begin, end) = moment.span(now);
            match comparison {
                Comparison::Less => before(field.column, begin),
                Comparison::LessOrEqual => before(field.column, end),
                Comparison::Greater => from(field.column, end),
                Comparison::GreaterOrEqual => from(field.column, begin),
            }
        }
        value => {
            let value = match value {
                Value::Integer(number) => lit(*number),
                Value::Boolean(value) => lit(*value),
                Value::Text(value) => text(value),
                Value::Moment(_) => lit(ScalarValue::Null),
            };
            match comparison {
                Comparison::Less => own.lt(value),
                Comparison::LessOrEqual => own.lt_eq(value),
                Comparison::Greater => own.gt(value),
                Comparison::GreaterOrEqual => own.gt_eq(value),
            }
        }
    }
}

/// A time in the two columns that it is kept in: microseconds, and what is left of a microsecond.
pub(super) fn split(nanos: i64) -> (i64, i16) {
    let rest = i16::try_from(nanos.rem_euclid(1000)).unwrap_or_default();
    (nanos.div_euclid(1000), rest)
}

pub(super) fn micros(value: i64) -> Expr {
    lit(ScalarValue::TimestampMicrosecond(
        Some(value),
        Some("UTC".into()),
    ))
}

/// The column of what is left of a microsecond.
pub(super) fn nanos_of(name: &str) -> String {
    format!("{name}_nanos")
}

/// At this time or later.
fn from(name: &str, nanos: i64) -> Expr {
    let (us, rest) = split(nanos);
    let at_or_after = column(name).gt_eq(micros(us));
    if rest == 0 {
        return at_or_after;
    }
    let later = column(name).gt(micros(us));
    at_or_after.and(later.or(column(&nanos_of(name)).gt_eq(lit(rest))))
}

/// Before this time.
fn before(name: &str, nanos: i64) -> Expr {
    let (us, rest) = split(nanos);
    if rest == 0 {
        return column(name).lt(micros(us));
    }
    let earlier = column(name).lt(micros(us));
    column(name)
        .lt_eq(micros(us))
        .and(earlier.or(column(&nanos_of(name)).lt(lit(rest))))
}

/// First and last nanosecond at which an event that the query takes can have happened.
#[must_use]
pub fn bounds(query: &Query, now: i64) -> (i64, i64) {
    const ALWAYS: (i64, i64) = (i64::MIN, i64::MAX);
    let last = |end: i64| end.saturating_sub(1);
    match query {
        Query::And(queries) => queries.iter().fold(ALWAYS, |(low, high), query| {
            let (from, to) = bounds(query, now);
            (low.max(from), high.min(to))
        }),
        Query::Or(queries) => queries
            .iter()
            .fold((i64::MAX, i64::MIN), |(low, high), query| {
                let (from, to) = bounds(query, now);
                (low.min(from), high.max(to))
            }),
        Query::Term(Term { field, test }) if field.column == columns::TIME => {
            let span = |value: &Value| match value {
                Value::Moment(moment) => moment.span(now),
                _ => ALWAYS,
            };
            match test {
                Test::Since(moment) => (moment.span(now).0, i64::MAX),
                Test::Until(moment) => (i64::MIN, last(moment.span(now).0)),
                Test::Equals(value) => (span(value).0, last(span(value).1)),
                Test::Range(low, high) => (
                    low.as_ref().map_or(i64::MIN, |low| span(low).0),
                    high.as_ref().map_or(i64::MAX, |high| last(span(high).1)),
                ),
                Test::Compare(Comparison::Less, value) => (i64::MIN, last(span(value).0)),
                Test::Compare(Comparison::LessOrEqual, value) => (i64::MIN, last(span(value).1)),
                Test::Compare(Comparison::Greater, value) => (span(value).1, i64::MAX),
                Test::Compare(Comparison::GreaterOrEqual, value) => (span(value).0, i64::MAX),
                Test::Exists | Test::Prefix(_) | Test::Within(_) => ALWAYS,
            }
        }
        Query::All | Query::Not(_) | Query::Term(_) => ALWAYS,
    }
}

/// The fingerprints of which every event that the query takes has one; `None` if it takes others too.
#[must_use]
pub fn fingerprints(query: &Query) -> Option<BTreeSet<&str>> {
    match query {
        Query::And(queries) => queries
            .iter()
            .filter_map(fingerprints)
            .min_by_key(BTreeSet::len),
        Query::Or(queries) => {
            let each: Option<Vec<_>> = queries.iter().map(fingerprints).collect();
            Some(each?.into_iter().flatten().collect())
        }
        Query::Term(Term {
            field,
            test: Test::Equals(Value::Text(value)),
        }) if field.kind == Kind::Fingerprint => Some(BTreeSet::from([value.as_str()])),
        Query::All | Query::Not(_) | Query::Term(_) => None,
    }
}

/// Every fingerprint, or prefix of one, that the query names, wherever: who asks so looks for a credential.
#[must_use]
pub fn named_fingerprints(query: &Query) -> BTreeSet<&str> {
    let named = query
        .terms()
        .filter(|term| term.field.kind == Kind::Fingerprint);
    named
        .filter_map(|term| match &term.test {
            Test::Equals(Value::Text(value)) | Test::Prefix(value) => Some(value.as_str()),
            _ => None,
        })
        .collect()
}

/// The query for events of any of the fingerprints.
#[must_use]
pub fn of_fingerprints(fingerprints: &[agent_common::event::Fingerprint]) -> Option<Query> {
    let field = super::fields::find("token.fingerprints")?;
    let mut terms: Vec<Query> = fingerprints
        .iter()
        .map(|fingerprint| {
            let test = Test::Equals(Value::Text(fingerprint.to_string()));
            Query::Term(Term { field, test })
        })
        .collect();
    match terms.len() {
        0 | 1 => terms.pop(),
        _ => Some(Query::Or(terms)),
    }
}

/// Begin of the time's bucket of this many microseconds, as microseconds since the Unix epoch.
pub(super) fn bucket(width_us: i64) -> Expr {
    let time = || {
        Expr::Cast(datafusion::logical_expr::Cast::new(
            Box::new(column(columns::TIME)),
            DataType::Int64,
        ))
    };
    let width = || lit(width_us);
    // The remainder of a negative number is negative.
    time() - ((time() % width()) + width()) % width()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::search::language::moment::Moment;
    use crate::search::language::parse;

    const NOW: i64 = 1_000_000_000_000_000_000;
    const HOUR: i64 = 3_600_000_000_000;

    #[test]
    fn bounds_of_time() {
        let day = |text: &str| Moment::parse(text).unwrap().span(NOW);
        for (query, low, high) in [
            ("", i64::MIN, i64::MAX),
            ("since:1h", NOW - HOUR, i64::MAX),
            ("since:2h until:1h", NOW - 2 * HOUR, NOW - HOUR - 1),
            (
                "since:2h (until:1h or kind:usage)",
                NOW - 2 * HOUR,
                i64::MAX,
            ),
            ("since:2h or since:3h", NOW - 3 * HOUR, i64::MAX),
            ("since:2h or kind:usage", i64::MIN, i64::MAX),
            ("-since:2h", i64::MIN, i64::MAX),
            (
                "time:2001-09-01",
                day("2001-09-01").0,
                day("2001-09-01").1 - 1,
            ),
            (
                "time:2001-09-01..2001-09-02",
                day("2001-09-01").0,
                day("2001-09-02").1 - 1,
            ),
            (
                "time:>2001-09-01 time:<2001-09-03",
                day("2001-09-02").0,
                day("2001-09-03").0 - 1,
            ),
            ("observed_time:>2001-09-01", i64::MIN, i64::MAX),
        ] {
            assert_eq!(bounds(&parse(query).unwrap(), NOW), (low, high), "{query}");
        }
    }

    #[test]
    fn fingerprints_that_a_query_needs() {
        let [a, b] = ["a", "b"].map(|mac| format!("tkf1:k:{}", mac.repeat(43)));
        for (query, expected) in [
            (format!("fp:{a}"), Some(vec![&a])),
            (format!("fp:{a} kind:usage"), Some(vec![&a])),
            (format!("fp:{a} or fp:{b}"), Some(vec![&a, &b])),
            (format!("(fp:{a} or fp:{b}) fp:{b}"), Some(vec![&b])),
            (format!("fp:{a} or kind:usage"), None),
            (format!("-fp:{a}"), None),
            ("fp:tkf1:k:*".to_owned(), None),
            (String::new(), None),
        ] {
            let parsed = parse(&query).unwrap();
            let expected = expected.map(|all| all.into_iter().map(String::as_str).collect());
            assert_eq!(fingerprints(&parsed), expected, "{query}");
        }
        let parsed = parse(&format!("-fp:{a} or fp:tkf1:k* or fp:*")).unwrap();
        assert_eq!(named_fingerprints(&parsed).len(), 2);
    }

    #[test]
    fn successors_are_the_next_text() {
        for (prefix, next) in [
            ("a", Some("b")),
            ("/admin", Some("/admio")),
            ("a\u{10ffff}", Some("b")),
            ("\u{10ffff}", None),
            ("\u{d7ff}", Some("\u{e000}")),
            ("", None),
        ] {
            assert_eq!(successor(prefix).as_deref(), next);
        }
    }
}
