//! `name=value` lists, as schemes have them after their name.
//!
//! Invariant: linear; a quoted value is taken as one even if its end is missing.

use zeroize::Zeroizing;

use super::text;

/// The parameters of a list whose separator is `separator` (`,` in HTTP, `&` or `;` in some schemes). Spaces around
/// are ignored. What has no `=` is left out.
pub(super) fn params(list: &[u8], separator: u8) -> impl Iterator<Item = (&[u8], &[u8])> {
    let mut rest = list;
    std::iter::from_fn(move || {
        while !rest.is_empty() {
            let end = end_of_item(rest, separator);
            let (item, after) = rest.split_at(end);
            rest = after.get(1..).unwrap_or_default();
            if let Some(equals) = item.iter().position(|&byte| byte == b'=') {
                return Some((item[..equals].trim_ascii(), item[equals + 1..].trim_ascii()));
            }
        }
        None
    })
}

fn end_of_item(list: &[u8], separator: u8) -> usize {
    let (mut quoted, mut escaped) = (false, false);
    for (place, &byte) in list.iter().enumerate() {
        match byte {
            _ if escaped => escaped = false,
            b'\\' if quoted => escaped = true,
            b'"' => quoted = !quoted,
            _ if byte == separator && !quoted => return place,
            _ => {}
        }
    }
    list.len()
}

/// The pairs of a query or form, still encoded; what has no `=` is left out.
pub(super) fn pairs(text: &[u8]) -> impl Iterator<Item = (&[u8], &[u8])> {
    text.split(|&byte| byte == b'&').filter_map(|pair| {
        let equals = pair.iter().position(|&byte| byte == b'=')?;
        Some((&pair[..equals], &pair[equals + 1..]))
    })
}

/// The value of the first parameter of that name (in any case), without quotes.
pub(super) fn param(list: &[u8], separator: u8, name: &str) -> Option<Zeroizing<Vec<u8>>> {
    params(list, separator)
        .find(|(key, _)| key.eq_ignore_ascii_case(name.as_bytes()))
        .map(|(_, value)| text::unquoted(value))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lists_are_split_outside_quotes() {
        for (list, expected) in [
            ("a=1, b=2", vec![("a", "1"), ("b", "2")]),
            (
                r#"user="x,y", b = "q\"," "#,
                vec![("user", r#""x,y""#), ("b", r#""q\",""#)],
            ),
            ("bare, a=b=c,,", vec![("a", "b=c")]),
            (r#"a="open, b=2"#, vec![("a", r#""open, b=2"#)]),
            ("", vec![]),
        ] {
            let found: Vec<_> = params(list.as_bytes(), b',').collect();
            let expected: Vec<_> = expected
                .iter()
                .map(|(name, value)| (name.as_bytes(), value.as_bytes()))
                .collect();
            assert_eq!(found, expected, "{list}");
        }
        assert_eq!(
            param(b"A=1&b=%22", b'&', "a").as_deref().map(Vec::as_slice),
            Some(&b"1"[..])
        );
    }
}
