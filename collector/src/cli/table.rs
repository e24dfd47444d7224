//! Tables for terminals: columns as wide as their widest cell, cut at a limit.
//!
//! Invariant: nothing that a terminal would act on is printed, whatever events say.

use super::client::printable;
use serde_json::Value;

/// Characters of a cell.
const CELL_MAX: usize = 48;

/// What a cell shows of a value.
#[must_use]
pub fn cell(value: &Value) -> String {
    let text = match value {
        Value::Null => "-".to_owned(),
        Value::String(text) => text.clone(),
        Value::Array(values) => values.iter().map(cell).collect::<Vec<_>>().join(" "),
        other => other.to_string(),
    };
    short(&printable(&text))
}

/// A fingerprint by its key id and the begin of its MAC, a digest or container id by its begin, a time to the
/// millisecond; all else cut in the middle.
fn short(text: &str) -> String {
    if let Ok(fingerprint) = text.parse::<agent_common::event::Fingerprint>() {
        let kid = text.split(':').nth(1).unwrap_or_default();
        return format!("{kid}:{}…", fingerprint.short());
    }
    let hexadecimal = |byte: u8| byte.is_ascii_digit() || (b'a'..=b'f').contains(&byte);
    if text.len() == 64 && text.bytes().all(hexadecimal) {
        return format!("{}…", &text[..12]);
    }
    if text.len() == 30 && text.ends_with('Z') && text.parse::<agent_common::event::Time>().is_ok()
    {
        return format!("{}Z", &text[..23]);
    }
    let count = text.chars().count();
    if count <= CELL_MAX {
        return text.to_owned();
    }
    let half = CELL_MAX / 2;
    let head: String = text.chars().take(half).collect();
    let tail: String = text.chars().skip(count - half + 1).collect();
    format!("{head}…{tail}")
}

/// Rows under a header; numbers in `right` columns stand at the right.
#[must_use]
pub fn table(header: &[&str], rows: &[Vec<String>], right: &[usize]) -> String {
    let header: Vec<String> = header.iter().map(|name| name.to_uppercase()).collect();
    let width = |column: usize| {
        let cells = rows.iter().filter_map(|row| row.get(column));
        let widths = cells
            .chain([&header[column]])
            .map(|cell| cell.chars().count());
        widths.max().unwrap_or_default()
    };
    let widths: Vec<usize> = (0..header.len()).map(width).collect();
    let line = |cells: &mut dyn Iterator<Item = &str>| {
        let mut line = String::new();
        for (column, (cell, width)) in cells.zip(&widths).enumerate() {
            let fill = " ".repeat(width.saturating_sub(cell.chars().count()));
            let gap = if column == 0 { "" } else { "  " };
            let (before, after) = if right.contains(&column) {
                (fill.as_str(), "")
            } else {
                ("", fill.as_str())
            };
            line.push_str(&format!("{gap}{before}{cell}{after}"));
        }
        format!("{}\n", line.trim_end())
    };
    let mut text = line(&mut header.iter().map(String::as_str));
    for row in rows {
        text.push_str(&line(&mut row.iter().map(String::as_str)));
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;
    use expect_test::expect;
    use serde_json::json;

    #[test]
    fn cells_are_short_and_harmless() {
        let print = format!("tkf1:k1:{}", "a".repeat(43));
        let cells = [
            json!(null),
            json!(401),
            json!("2026-11-22T07:41:02.141340977Z"),
            json!([print]),
            json!("0123456789abcdef".repeat(4)),
            json!("\u{1b}[31mred\r\n\u{9b}2J"),
            json!("/a/long/path/that/does/not/fit/into/a/cell/of/the/table/at/all"),
        ];
        let rows: Vec<Vec<String>> = cells
            .iter()
            .map(|value| vec![cell(value), "1".into()])
            .collect();
        expect![[r#"
            VALUE                                             COUNT
            -                                                     1
            401                                                   1
            2026-11-22T07:41:02.141Z                              1
            k1:aaaaaaaaaa…                                        1
            0123456789ab…                                         1
            �[31mred���2J                                         1
            /a/long/path/that/does/n…ell/of/the/table/at/all      1
        "#]]
        .assert_eq(&table(&["VALUE", "COUNT"], &rows, &[1]));
    }
}
