//! Text for a terminal: how wide it is, and nothing in it that a terminal obeys.

/// Columns that a character takes: 2 for East Asian wide and emoji blocks (Unicode Standard Annex 11), 0 for
/// combining marks, else 1.
fn columns(character: char) -> usize {
    match u32::from(character) {
        0x300..=0x36f
        | 0x483..=0x489
        | 0x591..=0x5bd
        | 0x610..=0x61a
        | 0x64b..=0x65f
        | 0xfe00..=0xfe0f
        | 0xfe20..=0xfe2f => 0,
        0x1100..=0x115f
        | 0x2e80..=0xa4cf
        | 0xac00..=0xd7a3
        | 0xf900..=0xfaff
        | 0xfe30..=0xfe6f
        | 0xff00..=0xff60
        | 0xffe0..=0xffe6
        | 0x1f300..=0x1f64f
        | 0x1f900..=0x1f9ff
        | 0x20000..=0x3fffd => 2,
        _ => 1,
    }
}

/// Columns that a cleaned text takes.
pub fn width(text: &str) -> usize {
    text.chars().map(columns).sum()
}

/// Replaces what would move the cursor, colour, or reorder text: control characters, and Unicode's format
/// characters for direction and zero width.
pub fn clean(text: &str) -> String {
    text.chars()
        .map(|character| {
            let hidden = character.is_control()
                || matches!(u32::from(character), 0xad | 0x61c | 0x200b..=0x200f | 0x2028..=0x202e | 0x2060..=0x206f | 0xfeff | 0xfff9..=0xfffb | 0xe0000..=0xe0fff);
            if hidden { '?' } else { character }
        })
        .collect()
}

/// Exactly `columns` wide: filled with spaces, or cut with `…`.
pub fn fit(text: &str, columns_wide: usize) -> String {
    let whole = width(text);
    if whole <= columns_wide {
        return format!("{text}{}", " ".repeat(columns_wide - whole));
    }
    let Some(room) = columns_wide.checked_sub(1) else {
        return String::new();
    };
    let mut used = 0;
    let mut out = String::new();
    for character in text.chars() {
        if used + columns(character) > room {
            break;
        }
        used += columns(character);
        out.push(character);
    }
    out.push('…');
    out.push_str(&" ".repeat(room - used));
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn texts_fit_exactly() {
        for text in [
            "",
            "a",
            "abc",
            "héllo",
            "漢字漢字",
            "a漢b",
            "e\u{301}e\u{301}e",
            "🙂🙂",
        ] {
            for wide in 0..12 {
                let fitted = fit(text, wide);
                assert_eq!(width(&fitted), wide, "{text} in {wide}: {fitted:?}");
                let whole = width(text) <= wide;
                assert_eq!(fitted.contains('…'), !whole && wide > 0, "{text} in {wide}");
                assert!(!whole || fitted.trim_end() == text);
            }
        }
    }

    #[test]
    fn nothing_obeyed_is_left() {
        assert_eq!(
            clean("a\x1b[31mb\r\n\u{202e}c\u{200b}\u{9b}d\té"),
            "a?[31mb???c??d?é"
        );
        assert_eq!(clean("/v1/items?x=1"), "/v1/items?x=1");
    }
}
