//! The snapshot for people.

use super::Snapshot;
use agent_common::event::{CoverageReason, SinkReport};
use std::fmt::Write as _;

/// What a reason is called in events.
pub(super) fn reason(reason: CoverageReason) -> String {
    match serde_json::to_value(reason) {
        Ok(serde_json::Value::String(name)) => name,
        // An enum without fields is a string.
        _ => String::new(),
    }
}

/// One line per program, protocol and library, least read first, and the sum; then one per output behind the spool.
pub fn table(snapshot: &Snapshot) -> String {
    let mut rows: Vec<_> = snapshot.rows.iter().collect();
    rows.sort_by_key(|row| std::cmp::Reverse(row.unread.values().sum::<u64>()));
    let width = rows.iter().map(|row| row.program.chars().count()).max();
    let width = width.unwrap_or(0).max("program".len());
    let mut text = String::new();
    // Writing to a string does not fail.
    let _ = writeln!(
        text,
        "{:width$}  {:8}  {:10}  {:>8}  {:>8}  {:>8}  unread, by reason",
        "program", "protocol", "library", "seen", "read", "open",
    );
    for row in rows {
        let unread: Vec<String> = row
            .unread
            .iter()
            .map(|(why, count)| format!("{} {count}", reason(*why)))
            .collect();
        let _ = writeln!(
            text,
            "{:width$}  {:8}  {:10}  {:>8}  {:>8}  {:>8}  {}",
            row.program,
            row.protocol,
            row.library.as_deref().unwrap_or("-"),
            row.seen,
            row.read,
            row.undecided,
            if unread.is_empty() {
                "-".to_owned()
            } else {
                unread.join(", ")
            },
        );
    }
    let total = snapshot.total;
    let _ = writeln!(
        text,
        "\n{} connections seen, {} read, {} not read; scope {}, since {}",
        total.seen,
        total.read,
        total.unread,
        snapshot.scope.join(" "),
        snapshot.from,
    );
    let searches = &snapshot.searches;
    let _ = writeln!(
        text,
        "files searched: {} that were run or mapped, {} waiting; {} ahead of use, {} waiting",
        searches.done, searches.waiting, searches.ahead_done, searches.ahead_waiting,
    );
    text.push_str(&sinks(&snapshot.sinks));
    text
}

/// The outputs behind the spool, if there are any.
fn sinks(sinks: &[SinkReport]) -> String {
    if sinks.is_empty() {
        return String::new();
    }
    let mut text = format!(
        "\n{:8}  {:>10}  {:>8}  {:>8}  {:>8}  {:>11}  {:>9}  last delivered\n",
        "output", "delivered", "retried", "refused", "waiting", "quarantined", "restarted",
    );
    for sink in sinks {
        // Writing to a string does not fail.
        let _ = writeln!(
            text,
            "{:8}  {:>10}  {:>8}  {:>8}  {:>8}  {:>11}  {:>9}  {}",
            sink.name,
            sink.delivered,
            sink.retried,
            sink.refused,
            sink.waiting,
            sink.quarantined,
            sink.restarted,
            sink.last_delivered
                .map_or_else(|| "-".to_owned(), |time| time.to_string()),
        );
    }
    text
}

#[cfg(test)]
mod tests {
    use super::super::{Ledger, Subject};
    use super::*;
    use agent_common::event::Time;

    #[test]
    fn least_read_first() {
        let mut ledger = Ledger::new(8);
        let subject = |program: &str, library| Subject {
            program: program.to_owned(),
            protocol: "tls",
            library,
        };
        ledger.record(subject("/bin/a", Some("openssl")), None);
        ledger.record_open(subject("/bin/a", Some("openssl")), false, None);
        ledger.record(subject("/bin/b", None), Some(CoverageReason::NoKeyLogPoint));
        let snapshot = Snapshot {
            from: Time::now(),
            to: Time::now(),
            scope: vec!["cgroup:/x".into()],
            total: ledger.total(),
            rows: ledger.rows(),
            sinks: vec![super::super::metrics::tests::sink()],
            searches: crate::kernel::points::SearchCounts {
                done: 3,
                ..Default::default()
            },
            counters: Default::default(),
        };
        let text = table(&snapshot);
        let lines: Vec<Vec<&str>> = text
            .lines()
            .map(|line| line.split_whitespace().collect())
            .collect();
        assert_eq!(
            lines[1],
            ["/bin/b", "tls", "-", "1", "0", "0", "no_key_log_point", "1"]
        );
        assert_eq!(lines[2], ["/bin/a", "tls", "openssl", "2", "1", "1", "-"]);
        assert!(text.contains("3 connections seen, 1 read, 1 not read"));
        let last: Vec<&str> = text.lines().last().unwrap().split_whitespace().collect();
        assert_eq!(last[..7], ["otlp", "1000", "2", "3", "17", "5", "0"]);
    }
}
