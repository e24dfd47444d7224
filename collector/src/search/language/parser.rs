//! From text to [`Query`], by recursive descent.
//!
//! ```text
//! query = and { "or" and }
//! and   = unary { [ "and" ] unary }
//! unary = ( "not" | "-" ) unary | "(" query ")" | field ":" test
//! test  = "*" | value | prefix "*" | [ value ] ".." [ value ] | ( "<" | "<=" | ">" | ">=" ) value | address "/" bits
//! ```
//!
//! The text's length, the number of its terms and the depth of its parentheses are limited, so a query costs little
//! before it is known to be one.
//!
//! Invariant: never panics, and never recurses deeper than [`DEPTH_MAX`].

use super::ast::{Query, Term};
use super::error::QueryError;
use super::lexer::{Lexer, Sign};
use super::value;
use crate::search::fields;
use std::ops::Range;

/// Bytes of a query.
pub const LENGTH_MAX: usize = 16 * 1024;
/// Terms of a query.
pub const TERMS_MAX: usize = 256;
/// Parentheses and negations within one another.
pub const DEPTH_MAX: usize = 32;

/// Reads a query; an empty one asks for everything.
///
/// # Errors
/// What is wrong, and where.
pub fn parse(query: &str) -> Result<Query, QueryError> {
    if query.len() > LENGTH_MAX {
        let mut begin = LENGTH_MAX;
        while !query.is_char_boundary(begin) {
            begin -= 1;
        }
        return Err(QueryError::new(
            begin..query.len(),
            format!("the query has {} bytes", query.len()),
            format!("at most {LENGTH_MAX}"),
        ));
    }
    let mut parser = Parser {
        query,
        lexer: Lexer::new(query),
        terms: 0,
    };
    if parser.peek()?.0 == Sign::End {
        return Ok(Query::All);
    }
    let parsed = parser.any(0)?;
    match parser.lexer.sign()? {
        (Sign::End, _) => Ok(parsed),
        // All else has been taken as the begin of a term.
        (_, span) => Err(QueryError::new(
            span,
            "this parenthesis closes none",
            "another term or the end",
        )),
    }
}

struct Parser<'a> {
    query: &'a str,
    lexer: Lexer<'a>,
    terms: usize,
}

impl Parser<'_> {
    fn peek(&self) -> Result<(Sign, Range<usize>), QueryError> {
        self.lexer.clone().sign()
    }

    fn any(&mut self, depth: usize) -> Result<Query, QueryError> {
        let mut queries = vec![self.all(depth)?];
        while self.peek()?.0 == Sign::Or {
            self.lexer.sign()?;
            queries.push(self.all(depth)?);
        }
        Ok(joined(queries, Query::Or, |query| match query {
            Query::Or(queries) => Ok(queries),
            other => Err(other),
        }))
    }

    fn all(&mut self, depth: usize) -> Result<Query, QueryError> {
        let mut queries = vec![self.unary(depth)?];
        loop {
            match self.peek()?.0 {
                Sign::End | Sign::Close | Sign::Or => break,
                Sign::And => {
                    self.lexer.sign()?;
                }
                _ => {}
            }
            queries.push(self.unary(depth)?);
        }
        Ok(joined(queries, Query::And, |query| match query {
            Query::And(queries) => Ok(queries),
            other => Err(other),
        }))
    }

    fn unary(&mut self, depth: usize) -> Result<Query, QueryError> {
        let (sign, span) = self.lexer.sign()?;
        if depth >= DEPTH_MAX && matches!(sign, Sign::Open | Sign::Not | Sign::Minus) {
            return Err(QueryError::new(
                span,
                "too much within one another",
                format!("at most {DEPTH_MAX} parentheses and negations within one another"),
            ));
        }
        match sign {
            Sign::Field => self.term(span),
            Sign::Not | Sign::Minus => Ok(Query::Not(Box::new(self.unary(depth + 1)?))),
            Sign::Open => {
                let inner = self.any(depth + 1)?;
                match self.lexer.sign()? {
                    (Sign::Close, _) => Ok(inner),
                    (_, end) => Err(QueryError::new(
                        span,
                        format!(
                            "this parenthesis is not closed (the query ends at byte {})",
                            end.end
                        ),
                        "`)`",
                    )),
                }
            }
            Sign::End => Err(QueryError::new(
                span,
                "the query ends where a term is due",
                "`field:value`, `not`, `-` or `(`",
            )),
            Sign::Close | Sign::And | Sign::Or => Err(QueryError::new(
                span.clone(),
                format!("`{}` stands where a term is due", &self.query[span]),
                "`field:value`, `not`, `-` or `(`",
            )),
        }
    }

    fn term(&mut self, name_span: Range<usize>) -> Result<Query, QueryError> {
        self.terms += 1;
        if self.terms > TERMS_MAX {
            return Err(QueryError::new(
                name_span,
                format!("this is term {}", self.terms),
                format!("at most {TERMS_MAX} terms"),
            ));
        }
        let name = &self.query[name_span.clone()];
        if let Some(edge) = value::Edge::by_name(name) {
            let field = fields::time();
            let test = value::edge(&mut self.lexer, edge)?;
            return Ok(Query::Term(Term { field, test }));
        }
        let field = fields::find(name).ok_or_else(|| unknown(name, name_span))?;
        let test = value::test(&mut self.lexer, field)?;
        Ok(Query::Term(Term { field, test }))
    }
}

fn unknown(name: &str, span: Range<usize>) -> QueryError {
    let nearest = fields::nearest(name);
    let expected = if nearest.is_empty() {
        "a field of the event, such as `provider`, `status` or `http.request.method`".to_owned()
    } else {
        let names: Vec<String> = nearest.iter().map(|name| format!("`{name}`")).collect();
        format!("a field: did you mean {}?", names.join(" or "))
    };
    let shown: String = name.chars().take(60).collect();
    QueryError::new(span, format!("there is no field `{shown}`"), expected)
}

/// One query of several; those of the same kind are taken in.
fn joined(
    mut queries: Vec<Query>,
    by: fn(Vec<Query>) -> Query,
    same: fn(Query) -> Result<Vec<Query>, Query>,
) -> Query {
    if queries.len() == 1
        && let Some(query) = queries.pop()
    {
        return query;
    }
    let flat = queries.into_iter().flat_map(|query| match same(query) {
        Ok(inner) => inner,
        Err(other) => vec![other],
    });
    by(flat.collect())
}
