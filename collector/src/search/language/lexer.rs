//! Words and signs of a query.
//!
//! Two states, which the parser knows: before a term (a sign, a connecting word or a field with its colon), and after
//! the colon (a comparison, then operands). Values may hold colons, slashes and dashes without quotes; blanks,
//! parentheses and quotes end them.
//!
//! Invariant: always on a character boundary, and never behind the end.

use super::error::QueryError;
use std::ops::Range;

/// What stands where a term may begin.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Sign {
    Open,
    Close,
    Minus,
    And,
    Or,
    Not,
    /// A field's name; the lexer is behind its colon.
    Field,
    End,
}

/// One operand of a term.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Operand {
    pub(super) text: String,
    pub(super) span: Range<usize>,
    pub(super) quoted: bool,
    /// A star follows at once, outside of the quotes.
    pub(super) starred: bool,
}

#[derive(Clone)]
pub(super) struct Lexer<'a> {
    query: &'a str,
    at: usize,
}

/// Where a term may begin, these may stand.
const TERM: &str = "`field:value`, `not`, `-` or `(`";

impl<'a> Lexer<'a> {
    pub(super) fn new(query: &'a str) -> Self {
        Self { query, at: 0 }
    }

    pub(super) fn at(&self) -> usize {
        self.at
    }

    fn rest(&self) -> &'a str {
        self.query.get(self.at..).unwrap_or_default()
    }

    fn peek(&self) -> Option<char> {
        self.rest().chars().next()
    }

    /// The next sign and its place; a field's is its name, without the colon.
    pub(super) fn sign(&mut self) -> Result<(Sign, Range<usize>), QueryError> {
        let rest = self.rest();
        self.at += rest.len() - rest.trim_start().len();
        let begin = self.at;
        let one = |lexer: &mut Self, sign| {
            lexer.at += 1;
            Ok((sign, begin..lexer.at))
        };
        match self.peek() {
            None => return Ok((Sign::End, begin..begin)),
            Some('(') => return one(self, Sign::Open),
            Some(')') => return one(self, Sign::Close),
            Some('-') => return one(self, Sign::Minus),
            Some(_) => {}
        }
        let name = |character: char| {
            character.is_ascii_alphanumeric() || matches!(character, '_' | '.' | '-')
        };
        let length = self.rest().find(|character| !name(character));
        let word = &self.rest()[..length.unwrap_or(self.rest().len())];
        self.at += word.len();
        let span = begin..self.at;
        if word.is_empty() {
            let end = begin + self.peek().map_or(0, char::len_utf8);
            return Err(QueryError::new(
                begin..end,
                "a term cannot begin like this",
                TERM,
            ));
        }
        if self.peek() == Some(':') {
            self.at += 1;
            return Ok((Sign::Field, span));
        }
        let sign = match word {
            "and" | "AND" => Sign::And,
            "or" | "OR" => Sign::Or,
            "not" | "NOT" => Sign::Not,
            _ => {
                return Err(QueryError::new(
                    span,
                    format!("`{word}` stands alone, and there is no search in all fields"),
                    format!("`field:{word}`, or a field and a colon in front of it"),
                ));
            }
        };
        Ok((sign, span))
    }

    /// Takes `text` if it comes next.
    pub(super) fn take(&mut self, text: &str) -> bool {
        let there = self.rest().starts_with(text);
        if there {
            self.at += text.len();
        }
        there
    }

    /// The next operand; `None` where none begins. `dots`: two of them end it.
    pub(super) fn operand(&mut self, dots: bool) -> Result<Option<Operand>, QueryError> {
        let begin = self.at;
        let quoted = self.peek() == Some('"');
        let text = if quoted {
            self.quoted()?
        } else {
            self.bare(dots)
        };
        let span = begin..self.at;
        let starred = self.take("*");
        if text.is_empty() && !quoted && !starred {
            return Ok(None);
        }
        // What follows at once would be read as something else than what was meant.
        let ended = match self.peek() {
            None | Some('(' | ')') => true,
            Some('.') => dots,
            Some(character) => character.is_whitespace(),
        };
        if !ended {
            let end = self.at + self.peek().map_or(0, char::len_utf8);
            return Err(QueryError::new(
                self.at..end,
                if starred {
                    "a star stands for the end of a value alone"
                } else {
                    "the value goes on behind its quotes"
                },
                "a blank; a value with stars, blanks or quotes in it stands in quotes",
            ));
        }
        Ok(Some(Operand {
            text,
            span,
            quoted,
            starred,
        }))
    }

    fn bare(&mut self, dots: bool) -> String {
        let rest = self.rest();
        let mut end = rest
            .find(|character: char| {
                character.is_whitespace() || matches!(character, '(' | ')' | '"' | '*')
            })
            .unwrap_or(rest.len());
        if dots && let Some(place) = rest.find("..") {
            end = end.min(place);
        }
        self.at += end;
        rest[..end].to_owned()
    }

    /// From quote to quote; a backslash takes the next character as it is.
    fn quoted(&mut self) -> Result<String, QueryError> {
        let begin = self.at;
        let mut text = String::new();
        let mut characters = self.rest().char_indices().skip(1);
        while let Some((place, character)) = characters.next() {
            match character {
                '"' => {
                    self.at = begin + place + 1;
                    return Ok(text);
                }
                '\\' => match characters.next() {
                    Some((_, character @ ('"' | '\\'))) => text.push(character),
                    Some((next, character)) => {
                        return Err(QueryError::new(
                            begin + place..begin + next + character.len_utf8(),
                            "a backslash in quotes stands before a quote or a backslash",
                            "`\\\"` or `\\\\`",
                        ));
                    }
                    None => break,
                },
                _ => text.push(character),
            }
        }
        Err(QueryError::new(
            begin..self.query.len(),
            "the quote is not closed",
            "`\"` at the value's end",
        ))
    }
}
