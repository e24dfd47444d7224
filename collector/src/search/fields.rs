//! The fields that people search by, as [`crate::store::columns`] has them.
//!
//! Invariant: every searchable column is a field, and its kind says what may stand behind its colon.

use crate::store::columns::{self, COLUMNS, Column};
use std::collections::HashMap;
use std::fmt;
use std::sync::LazyLock;

/// What a field's values are.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    Text,
    Integer,
    Boolean,
    Time,
    /// An IP address, or what stands where one may: a socket's path, a host's name.
    Address,
    /// A list of a credential's fingerprints.
    Fingerprint,
    /// A list or map, of which one text is meant.
    List,
}

/// A field.
#[derive(Debug, PartialEq, Eq)]
pub struct Field {
    /// Where the contract has it, dotted.
    pub path: &'static str,
    /// The name of its column.
    pub column: &'static str,
    pub kind: Kind,
    short: &'static [&'static str],
}

impl Field {
    /// The shortest of its names.
    #[must_use]
    pub fn shortest(&self) -> &'static str {
        self.short.first().copied().unwrap_or(self.path)
    }
}

static FIELDS: LazyLock<Vec<Field>> = LazyLock::new(|| {
    COLUMNS
        .iter()
        .filter(|column| column.searchable)
        .map(|column| Field {
            path: column.path,
            column: column.name.as_str(),
            kind: kind(column),
            short: column.short,
        })
        .collect()
});

static BY_NAME: LazyLock<HashMap<&'static str, &'static Field>> = LazyLock::new(|| {
    let names = FIELDS.iter().flat_map(|field| {
        let own = [field.path, field.column];
        own.into_iter()
            .chain(field.short.iter().copied())
            .map(move |name| (name, field))
    });
    names.collect()
});

fn kind(column: &Column) -> Kind {
    match column.kind {
        // The name that the client used for the server may be its address.
        _ if column.path == "server.address" => Kind::Address,
        columns::Kind::Text => Kind::Text,
        columns::Kind::Address => Kind::Address,
        columns::Kind::Json => Kind::List,
        columns::Kind::Int16 | columns::Kind::Int32 | columns::Kind::Int64 => Kind::Integer,
        columns::Kind::Bool => Kind::Boolean,
        columns::Kind::Time => Kind::Time,
        columns::Kind::Fingerprints => Kind::Fingerprint,
    }
}

/// All of them, in the contract's order.
#[must_use]
pub fn all() -> &'static [Field] {
    &FIELDS
}

/// By contract path, column name or short name.
#[must_use]
pub fn find(name: &str) -> Option<&'static Field> {
    BY_NAME.get(name).copied()
}

/// When it happened: the field of `since` and `until`.
#[must_use]
pub fn time() -> &'static Field {
    // The contract has `time` in every event.
    find(columns::TIME).unwrap_or(&FIELDS[0])
}

/// Names that look like `name`, the nearest first, at most three.
#[must_use]
pub fn nearest(name: &str) -> Vec<&'static str> {
    /// Longer ones resemble nothing.
    const LONGEST: usize = 64;
    if name.len() > LONGEST {
        return Vec::new();
    }
    let name = name.to_ascii_lowercase();
    let most = (name.chars().count() / 3).clamp(1, 3);
    let names = FIELDS
        .iter()
        .flat_map(|field| std::iter::once(field.path).chain(field.short.iter().copied()));
    let mut near: Vec<(usize, &'static str)> = names
        .chain(["since", "until"])
        .filter_map(|known| {
            let last = known.rsplit('.').next().unwrap_or(known);
            // A part of a path is meant as the whole of it.
            let distance = if last == name || known.starts_with(&format!("{name}.")) {
                1
            } else {
                distance(&name, known)
            };
            (distance <= most).then_some((distance, known))
        })
        .collect();
    near.sort_by_key(|(distance, known)| (*distance, known.len(), *known));
    near.dedup();
    near.truncate(3);
    near.into_iter().map(|(_, known)| known).collect()
}

/// Insertions, deletions, replacements and swaps of neighbours that lead from one to the other (optimal string
/// alignment).
fn distance(from: &str, to: &str) -> usize {
    let (from, to): (Vec<char>, Vec<char>) = (from.chars().collect(), to.chars().collect());
    let mut rows = vec![(0..=to.len()).collect::<Vec<usize>>()];
    for (i, a) in from.iter().enumerate() {
        let mut row = vec![i + 1];
        for (j, b) in to.iter().enumerate() {
            let replaced = rows[i][j] + usize::from(a != b);
            let mut least = replaced.min(rows[i][j + 1] + 1).min(row[j] + 1);
            if i > 0 && j > 0 && from[i - 1] == *b && to[j - 1] == *a {
                least = least.min(rows[i - 1][j - 1] + 1);
            }
            row.push(least);
        }
        rows.push(row);
    }
    rows[from.len()][to.len()]
}

impl fmt::Display for Kind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Text => "text",
            Self::Integer => "a number",
            Self::Boolean => "true or false",
            Self::Time => "a time",
            Self::Address => "an address",
            Self::Fingerprint => "a fingerprint",
            Self::List => "a list",
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_lead_to_their_fields() {
        for (name, path) in [
            ("provider", "token.provider"),
            ("token.provider", "token.provider"),
            ("token_provider", "token.provider"),
            ("status", "http.response.status_code"),
            ("fingerprint", "token.fingerprints"),
            ("src", "client.address"),
        ] {
            assert_eq!(find(name).map(|field| field.path), Some(path), "{name}");
        }
        assert_eq!(time().path, "time");
        assert_eq!(find("version"), None);
    }

    #[test]
    fn no_name_means_two_fields() {
        let mut seen: HashMap<&str, &str> = HashMap::new();
        for field in all() {
            for name in [field.path, field.column]
                .into_iter()
                .chain(field.short.iter().copied())
            {
                let earlier = seen.insert(name, field.path);
                assert!(
                    earlier.is_none_or(|earlier| earlier == field.path),
                    "{name}"
                );
                assert!(!["since", "until", "and", "or", "not"].contains(&name));
            }
        }
    }

    #[test]
    fn near_names() {
        assert_eq!(nearest("providr").first(), Some(&"provider"));
        assert_eq!(nearest("stauts").first(), Some(&"status"));
        assert_eq!(nearest("sicne").first(), Some(&"since"));
        let both = ["rpc.grpc.status_code", "http.response.status_code"];
        assert!(nearest("status_code").starts_with(&both));
        assert_eq!(nearest("zzzzzz"), Vec::<&str>::new());
        assert_eq!(nearest(&"a".repeat(10_000)), Vec::<&str>::new());
    }
}
