//! JSON taken apart where it stands, in one pass.
//!
//! For what was read as an event before: it finds the ends of values and does not look whether they are JSON. What is
//! made of the pieces is compared with the whole (`split`).
//!
//! Invariant: never panics, whatever the text is.

use memchr::memchr2;

/// A place in a text.
pub(super) struct Scan<'a> {
    text: &'a str,
    at: usize,
}

impl<'a> Scan<'a> {
    pub fn new(text: &'a str) -> Self {
        Self { text, at: 0 }
    }

    /// The whole text is behind it.
    pub fn is_done(&self) -> bool {
        self.at == self.text.len()
    }

    pub fn place(&self) -> usize {
        self.at
    }

    /// The text from a place up to here.
    pub fn since(&self, begin: usize) -> &'a str {
        self.text.get(begin..self.at).unwrap_or_default()
    }

    fn rest(&self) -> &'a [u8] {
        self.text.as_bytes().get(self.at..).unwrap_or_default()
    }

    pub fn is_at(&self, byte: u8) -> bool {
        self.rest().first() == Some(&byte)
    }

    pub fn take(&mut self, byte: u8) -> bool {
        let taken = self.is_at(byte);
        self.at += usize::from(taken);
        taken
    }

    pub fn expect(&mut self, byte: u8) -> Option<()> {
        self.take(byte).then_some(())
    }

    /// A key without escapes, and its colon.
    pub fn key(&mut self) -> Option<&'a str> {
        let begin = self.at + 1;
        self.expect(b'"')?;
        let length = memchr2(b'"', b'\\', self.rest())?;
        self.at += length;
        let key = self.since(begin);
        self.expect(b'"')?;
        self.expect(b':')?;
        Some(key)
    }

    /// The text of a value.
    pub fn value(&mut self) -> Option<&'a str> {
        let begin = self.at;
        match self.rest().first()? {
            b'"' => self.string()?,
            b'{' | b'[' => self.nested()?,
            _ => {
                let end = |byte: &u8| matches!(byte, b',' | b'}' | b']');
                let length = self.rest().iter().position(end)?;
                self.at += length;
            }
        }
        Some(self.since(begin))
    }

    fn string(&mut self) -> Option<()> {
        self.expect(b'"')?;
        loop {
            let length = memchr2(b'"', b'\\', self.rest())?;
            self.at += length;
            if self.take(b'"') {
                return Some(());
            }
            // A backslash, and what it is before.
            self.at += 1;
            let escaped = self.text.get(self.at..)?.chars().next()?;
            self.at += escaped.len_utf8();
        }
    }

    fn nested(&mut self) -> Option<()> {
        let mut depth = 0_usize;
        loop {
            match self.rest().first()? {
                b'"' => {
                    self.string()?;
                    continue;
                }
                b'{' | b'[' => depth += 1,
                b'}' | b']' => depth -= 1,
                _ => {}
            }
            // All that is not within a string is ASCII, or no JSON: then it ends within a character, and nowhere.
            self.at += 1;
            if depth == 0 {
                return Some(());
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use serde_json::Value;

    fn values() -> impl Strategy<Value = Value> {
        let leaf = prop_oneof![
            Just(Value::Null),
            any::<bool>().prop_map(Value::from),
            any::<i64>().prop_map(Value::from),
            "[\"\\\\{}\\[\\]a\u{e9}\n,:]{0,8}".prop_map(Value::from),
        ];
        leaf.prop_recursive(4, 32, 4, |inner| {
            prop_oneof![
                prop::collection::vec(inner.clone(), 0..4).prop_map(Value::from),
                prop::collection::btree_map("[\"\\\\{}a:,]{0,4}", inner, 0..4)
                    .prop_map(|map| Value::Object(map.into_iter().collect())),
            ]
        })
    }

    proptest! {
        #[test]
        fn values_end_where_they_end(value in values(), behind in "[,}]") {
            let json = value.to_string();
            let text = format!("{json}{behind}");
            let mut scan = Scan::new(&text);
            prop_assert_eq!(scan.value(), Some(json.as_str()));
            prop_assert!(!scan.is_done());
        }

        #[test]
        fn any_text_is_survived(text in "[\"\\\\{}\\[\\],:a\u{e9}0]{0,24}") {
            let mut scan = Scan::new(&text);
            while scan.value().is_some() && !scan.is_done() {
                scan.take(b',');
                if scan.key().is_none() {
                    break;
                }
            }
        }
    }
}
