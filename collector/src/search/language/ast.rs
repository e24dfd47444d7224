//! A query that has been understood.
//!
//! Invariant: what `Display` writes parses back to the same.

use super::moment::Moment;
use super::network::Network;
use crate::search::fields::Field;
use std::fmt;

/// See the module.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Query {
    /// Every event: the empty query.
    All,
    /// At least two, none of them an `And`.
    And(Vec<Query>),
    /// At least two, none of them an `Or`.
    Or(Vec<Query>),
    Not(Box<Query>),
    Term(Term),
}

/// One test of one field.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Term {
    pub field: &'static Field,
    pub test: Test,
}

/// What a field's value is held against.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Test {
    /// There is one.
    Exists,
    Equals(Value),
    /// Text that begins so.
    Prefix(String),
    /// Both ends belong to it; at least one is there.
    Range(Option<Value>, Option<Value>),
    Compare(Comparison, Value),
    /// An address of this block.
    Within(Network),
    /// From the begin of the time on. Of `time` alone.
    Since(Moment),
    /// Before the begin of the time. Of `time` alone.
    Until(Moment),
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Comparison {
    Less,
    LessOrEqual,
    Greater,
    GreaterOrEqual,
}

/// A value, of the field's kind.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Value {
    Text(String),
    Integer(i64),
    Boolean(bool),
    Moment(Moment),
}

impl Query {
    /// Every term, in the order of the text.
    pub fn terms(&self) -> impl Iterator<Item = &Term> {
        let mut stack = vec![self];
        std::iter::from_fn(move || {
            loop {
                match stack.pop()? {
                    Self::All => {}
                    Self::Term(term) => return Some(term),
                    Self::Not(query) => stack.push(query),
                    Self::And(queries) | Self::Or(queries) => stack.extend(queries.iter().rev()),
                }
            }
        })
    }
}

impl Comparison {
    pub(super) fn sign(self) -> &'static str {
        match self {
            Self::Less => "<",
            Self::LessOrEqual => "<=",
            Self::Greater => ">",
            Self::GreaterOrEqual => ">=",
        }
    }
}

impl fmt::Display for Query {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let joined = |f: &mut fmt::Formatter<'_>, queries: &[Self], by: &str, within: bool| {
            for (index, query) in queries.iter().enumerate() {
                if index > 0 {
                    f.write_str(by)?;
                }
                match query {
                    Self::And(_) | Self::Or(_) if within => write!(f, "({query})")?,
                    _ => write!(f, "{query}")?,
                }
            }
            Ok(())
        };
        match self {
            Self::All => Ok(()),
            Self::And(queries) => joined(f, queries, " ", true),
            Self::Or(queries) => joined(f, queries, " or ", false),
            Self::Not(query) => match **query {
                Self::And(_) | Self::Or(_) => write!(f, "-({query})"),
                _ => write!(f, "-{query}"),
            },
            Self::Term(term) => write!(f, "{term}"),
        }
    }
}

impl fmt::Display for Term {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let path = self.field.path;
        match &self.test {
            Test::Exists => write!(f, "{path}:*"),
            Test::Equals(value) => write!(f, "{path}:{value}"),
            Test::Prefix(text) => write!(f, "{path}:{}*", Quoted(text)),
            Test::Range(low, high) => {
                write!(f, "{path}:")?;
                low.iter().try_for_each(|value| write!(f, "{value}"))?;
                f.write_str("..")?;
                high.iter().try_for_each(|value| write!(f, "{value}"))
            }
            Test::Compare(comparison, value) => write!(f, "{path}:{}{value}", comparison.sign()),
            Test::Within(network) => write!(f, "{path}:{network}"),
            Test::Since(moment) => write!(f, "since:{moment}"),
            Test::Until(moment) => write!(f, "until:{moment}"),
        }
    }
}

impl fmt::Display for Value {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Text(text) => Quoted(text).fmt(f),
            Self::Integer(number) => number.fmt(f),
            Self::Boolean(value) => value.fmt(f),
            Self::Moment(moment) => moment.fmt(f),
        }
    }
}

/// A text, in quotes where it needs them.
struct Quoted<'a>(&'a str);

impl fmt::Display for Quoted<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let plain = |byte: u8| byte.is_ascii_alphanumeric() || b"_./:@{}+=~%&?,;-".contains(&byte);
        if !self.0.is_empty() && self.0.bytes().all(plain) {
            return f.write_str(self.0);
        }
        f.write_str("\"")?;
        for character in self.0.chars() {
            match character {
                '"' | '\\' => write!(f, "\\{character}")?,
                _ => write!(f, "{character}")?,
            }
        }
        f.write_str("\"")
    }
}
