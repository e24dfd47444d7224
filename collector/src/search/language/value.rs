//! What stands behind a field's colon, by the field's kind.
//!
//! Quotes take stars, dots and comparison signs as they are; what the value must be stays the same. In text, two dots
//! are nothing special (paths have them).

use super::ast::{Comparison, Test, Value};
use super::error::QueryError;
use super::lexer::{Lexer, Operand};
use super::moment::{self, Moment};
use super::network::{Network, NoNetwork};
use crate::search::fields::{Field, Kind};
use std::net::IpAddr;

/// `since` and `until`.
#[derive(Clone, Copy)]
pub(super) enum Edge {
    Since,
    Until,
}

impl Edge {
    pub(super) fn by_name(name: &str) -> Option<Self> {
        match name {
            "since" => Some(Self::Since),
            "until" => Some(Self::Until),
            _ => None,
        }
    }
}

pub(super) fn edge(lexer: &mut Lexer<'_>, edge: Edge) -> Result<Test, QueryError> {
    let operand = due(lexer, false, moment::EXPECTED)?;
    no_star(&operand)?;
    let moment = as_moment(&operand)?;
    Ok(match edge {
        Edge::Since => Test::Since(moment),
        Edge::Until => Test::Until(moment),
    })
}

pub(super) fn test(lexer: &mut Lexer<'_>, field: &Field) -> Result<Test, QueryError> {
    let ordered = matches!(field.kind, Kind::Integer | Kind::Time);
    let sign_begin = lexer.at();
    let comparison = [
        Comparison::LessOrEqual,
        Comparison::GreaterOrEqual,
        Comparison::Less,
        Comparison::Greater,
    ]
    .into_iter()
    .find(|comparison| lexer.take(comparison.sign()));
    if let Some(comparison) = comparison {
        if !ordered {
            return Err(QueryError::new(
                sign_begin..lexer.at(),
                format!(
                    "`{}` is {}, which has no order here",
                    field.path, field.kind
                ),
                "a value (in quotes, if it begins like this)",
            ));
        }
        let operand = due(lexer, false, expected(field.kind))?;
        no_star(&operand)?;
        return Ok(Test::Compare(comparison, as_value(&operand, field)?));
    }
    let begin = lexer.at();
    let low = lexer.operand(ordered)?;
    if ordered && lexer.take("..") {
        return range(lexer, field, begin, low);
    }
    let Some(operand) = low else {
        return Err(QueryError::new(
            begin..begin,
            format!("`{}` has no value", field.path),
            expected(field.kind),
        ));
    };
    if operand.starred {
        return match field.kind {
            _ if operand.text.is_empty() && !operand.quoted => Ok(Test::Exists),
            Kind::Text | Kind::Address | Kind::Fingerprint | Kind::List => {
                Ok(Test::Prefix(operand.text))
            }
            Kind::Integer | Kind::Boolean | Kind::Time => Err(QueryError::new(
                operand.span.start..operand.span.end + 1,
                format!("`{}` is {}, which has no prefix", field.path, field.kind),
                expected(field.kind),
            )),
        };
    }
    if field.kind == Kind::Address
        && let Some((address, bits)) = operand.text.split_once('/')
        && !operand.text.starts_with(['/', '@'])
    {
        return block(&operand, address, bits);
    }
    Ok(Test::Equals(as_value(&operand, field)?))
}

fn range(
    lexer: &mut Lexer<'_>,
    field: &Field,
    begin: usize,
    low: Option<Operand>,
) -> Result<Test, QueryError> {
    let high = lexer.operand(true)?;
    let whole = begin..lexer.at();
    if lexer.take("..") {
        return Err(QueryError::new(
            lexer.at() - 2..lexer.at(),
            "a range has two ends",
            "a blank",
        ));
    }
    let end = |operand: &Operand| {
        no_star(operand)?;
        as_value(operand, field)
    };
    let low = low.as_ref().map(end).transpose()?;
    let high = high.as_ref().map(end).transpose()?;
    let empty = match (&low, &high) {
        (None, None) => {
            return Err(QueryError::new(
                whole,
                "the range has no end",
                expected(field.kind),
            ));
        }
        (Some(Value::Integer(low)), Some(Value::Integer(high))) => low > high,
        (
            Some(Value::Moment(Moment::At { nanos: low, .. })),
            Some(Value::Moment(Moment::At { nanos: high, .. })),
        ) => low > high,
        (Some(Value::Moment(Moment::Ago(low))), Some(Value::Moment(Moment::Ago(high)))) => {
            low < high
        }
        _ => false,
    };
    if empty {
        return Err(QueryError::new(
            whole,
            "nothing is in this range",
            "the lower or earlier end first",
        ));
    }
    Ok(Test::Range(low, high))
}

fn block(operand: &Operand, address: &str, bits: &str) -> Result<Test, QueryError> {
    Network::parse(address, bits)
        .map(Test::Within)
        .map_err(|error| {
            // In quotes the places within are not those of the text, with a backslash in it.
            let part = |begin: usize, end: usize| {
                if operand.quoted {
                    operand.span.clone()
                } else {
                    operand.span.start + begin..operand.span.start + end
                }
            };
            match error {
                NoNetwork::Address => QueryError::new(
                    part(0, address.len()),
                    "not an address",
                    "a block such as `10.0.0.0/8` or `2001:db8::/32`",
                ),
                NoNetwork::Length { most } => QueryError::new(
                    part(address.len() + 1, operand.text.len()),
                    "not a prefix length of this address",
                    format!("a number from 0 to {most}"),
                ),
            }
        })
}

fn as_value(operand: &Operand, field: &Field) -> Result<Value, QueryError> {
    let text = operand.text.as_str();
    let wrong = |message: &str| {
        QueryError::new(
            operand.span.clone(),
            message.to_owned(),
            expected(field.kind),
        )
    };
    match field.kind {
        Kind::Text | Kind::List => Ok(Value::Text(text.to_owned())),
        Kind::Address => Ok(Value::Text(match text.parse::<IpAddr>() {
            Ok(address) => address.to_canonical().to_string(),
            Err(_) => text.to_owned(),
        })),
        Kind::Fingerprint => match text.parse::<agent_common::event::Fingerprint>() {
            Ok(fingerprint) => Ok(Value::Text(fingerprint.to_string())),
            // Not repeated: whoever types a token here should not see it in a log.
            Err(_) => Err(wrong("not a fingerprint")),
        },
        Kind::Integer => text
            .parse()
            .map(Value::Integer)
            .map_err(|_| wrong(&format!("not a number from {} to {}", i64::MIN, i64::MAX))),
        Kind::Boolean => text
            .parse()
            .map(Value::Boolean)
            .map_err(|_| wrong("neither true nor false")),
        Kind::Time => as_moment(operand).map(Value::Moment),
    }
}

fn as_moment(operand: &Operand) -> Result<Moment, QueryError> {
    Moment::parse(&operand.text)
        .ok_or_else(|| QueryError::new(operand.span.clone(), "not a time", moment::EXPECTED))
}

fn due(lexer: &mut Lexer<'_>, dots: bool, expected: &str) -> Result<Operand, QueryError> {
    let begin = lexer.at();
    lexer
        .operand(dots)?
        .ok_or_else(|| QueryError::new(begin..begin, "a value is due here", expected))
}

fn no_star(operand: &Operand) -> Result<(), QueryError> {
    if operand.starred {
        return Err(QueryError::new(
            operand.span.end..operand.span.end + 1,
            "a star has no sense here",
            "a blank",
        ));
    }
    Ok(())
}

fn expected(kind: Kind) -> &'static str {
    match kind {
        Kind::List => "a text of the list, a prefix of one, or `*`",
        Kind::Text => "a value, a prefix such as `/admin*`, or `*`",
        Kind::Address => "an address, a name, a block such as `10.0.0.0/8`, a prefix, or `*`",
        Kind::Fingerprint => {
            "`tkf1:<key id>:<43 characters>`, a prefix such as `tkf1:k1:*`, or `*`"
        }
        Kind::Integer => {
            "a number, a range such as `400..499`, a comparison such as `>=500`, or `*`"
        }
        Kind::Boolean => "`true`, `false` or `*`",
        Kind::Time => moment::EXPECTED,
    }
}
