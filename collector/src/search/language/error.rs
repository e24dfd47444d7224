//! What is wrong with a query, and where.
//!
//! Invariant: a span lies on character boundaries of the query that it is about.

use std::fmt;
use std::ops::Range;

/// A query that is not one: the place, what stands there, and what was expected instead.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{message}; expected {expected} (at byte {})", span.start)]
pub struct QueryError {
    /// Bytes of the query; empty at the query's end.
    pub span: Range<usize>,
    /// What is there.
    pub message: String,
    /// What could be there.
    pub expected: String,
}

impl QueryError {
    pub(super) fn new(
        span: Range<usize>,
        message: impl Into<String>,
        expected: impl Into<String>,
    ) -> Self {
        Self {
            span,
            message: message.into(),
            expected: expected.into(),
        }
    }

    /// For people: the query with a line of carets beneath the place.
    #[must_use]
    pub fn render<'a>(&'a self, query: &'a str) -> impl fmt::Display + 'a {
        Rendered { error: self, query }
    }
}

/// Characters of the query that are shown on either side of the place.
const AROUND: usize = 60;

struct Rendered<'a> {
    error: &'a QueryError,
    query: &'a str,
}

impl fmt::Display for Rendered<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let QueryError {
            span,
            message,
            expected,
        } = self.error;
        let before = self.query.get(..span.start).unwrap_or_default();
        let within = self.query.get(span.clone()).unwrap_or_default();
        let after = self.query.get(span.end..).unwrap_or_default();
        // One terminal cell a character, so that the carets stand where they should.
        let shown = |character: char| {
            if character.is_control() {
                ' '
            } else {
                character
            }
        };
        let skipped = before.chars().count().saturating_sub(AROUND);
        let lead = if skipped == 0 { "" } else { "…" };
        let marked = within.chars().count().clamp(1, 2 * AROUND);
        let before: String = before.chars().skip(skipped).map(shown).collect();
        let within: String = within.chars().take(2 * AROUND).map(shown).collect();
        let after: String = after.chars().take(AROUND).map(shown).collect();
        let margin = lead.chars().count() + before.chars().count();
        writeln!(f, "{message}")?;
        writeln!(f, "  {lead}{before}{within}{after}")?;
        writeln!(f, "  {}{}", " ".repeat(margin), "^".repeat(marked))?;
        write!(f, "expected {expected}")
    }
}
