//! `search`, `stats` and `tail`.
//!
//! The query is read here before it is sent: an error of it shows at once, and what is no query (a token that somebody
//! typed in the place of a fingerprint) stays on this machine.

use super::client::{self, Client, ClientError, ServerArguments};
use super::table::{cell, table};
use crate::api::{CURSOR_HEADER, EVENT_FIELDS};
use crate::search::{fields, language};
use clap::{Args, ValueEnum};
use serde_json::{Map, Value, json};
use std::io::{BufRead, BufReader, Write};
use std::process::ExitCode;

/// Events of one request.
const PAGE: usize = 1_000;
/// What stands in the accept header for server-sent events.
const EVENT_STREAM: &str = "text/event-stream";

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum Format {
    /// For people
    Table,
    /// One JSON object a line
    Ndjson,
    /// Comma-separated, with a header
    Csv,
}

impl Format {
    fn media_type(self) -> &'static str {
        match self {
            Self::Table | Self::Ndjson => "application/x-ndjson",
            Self::Csv => "text/csv",
        }
    }
}

/// Find events: `tokentrail search 'provider:github status:401 src:10.0.0.0/8 since:24h'`
#[derive(Args, Debug)]
pub struct SearchArguments {
    /// Such as `status:400..499 path:/admin* -user:root since:24h`; without one: everything
    #[arg(default_value = "", allow_hyphen_values = true)]
    pub query: String,
    #[arg(long, value_enum, default_value = "table")]
    pub format: Format,
    /// At most so many events, the newest first
    #[arg(long, default_value_t = 100)]
    pub limit: usize,
    /// Fields of the table or CSV, parted by commas
    #[arg(long, value_name = "FIELD,..")]
    pub fields: Option<String>,
    /// Tell how the events would be found instead
    #[arg(long)]
    pub explain: bool,
    /// Also if very many events have to be read
    #[arg(long)]
    pub force: bool,
    #[command(flatten)]
    pub server: ServerArguments,
}

/// Count events: `tokentrail stats 'kind:usage since:7d' --by provider,status --every 1d`
#[derive(Args, Debug)]
pub struct StatsArguments {
    /// As for `search`
    #[arg(default_value = "", allow_hyphen_values = true)]
    pub query: String,
    /// Count by these fields, parted by commas
    #[arg(long, value_name = "FIELD,..", default_value = "")]
    pub by: String,
    /// Count by spans of time, such as 10m, 1h, 1d
    #[arg(long, value_name = "TIME")]
    pub every: Option<String>,
    #[arg(long, value_enum, default_value = "table")]
    pub format: Format,
    /// At most so many groups, the largest
    #[arg(long, default_value_t = 1_000)]
    pub limit: usize,
    /// Also if very many events have to be read
    #[arg(long)]
    pub force: bool,
    #[command(flatten)]
    pub server: ServerArguments,
}

/// Follow events as they come
#[derive(Args, Debug)]
pub struct TailArguments {
    /// As for `search`
    #[arg(default_value = "", allow_hyphen_values = true)]
    pub query: String,
    #[arg(long, value_enum, default_value = "table")]
    pub format: Format,
    #[command(flatten)]
    pub server: ServerArguments,
}

/// Reads the query, so that one with errors is not sent.
fn checked(query: &str) -> Result<(), ClientError> {
    language::parse(query)
        .map(drop)
        .map_err(|error| ClientError::Query(error.render(query).to_string()))
}

/// # Errors
/// What went wrong, for people.
pub fn search(arguments: &SearchArguments, out: &mut impl Write) -> anyhow::Result<ExitCode> {
    checked(&arguments.query)?;
    let client = Client::new(&arguments.server)?;
    let mut question = Map::from_iter([
        ("q".to_owned(), json!(arguments.query)),
        ("force".to_owned(), json!(arguments.force)),
    ]);
    if arguments.explain {
        question.insert("explain".into(), true.into());
        question.insert("limit".into(), arguments.limit.clamp(1, PAGE).into());
        let answer = client.ask(
            "/v1/search",
            &question,
            "application/json",
            &arguments.query,
        )?;
        let explanation: Value = serde_json::from_slice(&client::body(answer)?)?;
        return print(out, explain(&explanation).as_bytes());
    }
    let shown = fields_of(arguments.fields.as_deref())?;
    if arguments.format == Format::Csv {
        question.insert("fields".into(), shown.join(",").into());
    }
    let mut rows = Vec::new();
    let mut left = arguments.limit;
    let mut first = true;
    while left > 0 {
        let page = left.min(PAGE);
        question.insert("limit".into(), page.into());
        let accept = arguments.format.media_type();
        let answer = client.ask("/v1/search", &question, accept, &arguments.query)?;
        let cursor = answer.headers().get(CURSOR_HEADER).cloned();
        let body = client::body(answer)?;
        match arguments.format {
            Format::Table => {
                for line in body
                    .split(|byte| *byte == b'\n')
                    .filter(|line| !line.is_empty())
                {
                    rows.push(row(&serde_json::from_slice(line)?, &shown));
                }
            }
            Format::Ndjson => {
                if gone(out.write_all(&body))? {
                    return Ok(ExitCode::SUCCESS);
                }
            }
            // Each page has its header.
            Format::Csv => {
                let header = body
                    .windows(2)
                    .position(|two| two == b"\r\n")
                    .map_or(0, |end| end + 2);
                if gone(out.write_all(&body[if first { 0 } else { header }..]))? {
                    return Ok(ExitCode::SUCCESS);
                }
            }
        }
        first = false;
        left -= page;
        match cursor.and_then(|cursor| cursor.to_str().ok().map(str::to_owned)) {
            Some(cursor) => question.insert("cursor".into(), cursor.into()),
            None => break,
        };
    }
    if arguments.format == Format::Table {
        let header: Vec<&str> = shown.iter().map(|path| title(path)).collect();
        let text = if rows.is_empty() {
            "no events\n".to_owned()
        } else {
            table(&header, &rows, &[])
        };
        return print(out, text.as_bytes());
    }
    gone(out.flush())?;
    Ok(ExitCode::SUCCESS)
}

/// # Errors
/// What went wrong, for people.
pub fn stats(arguments: &StatsArguments, out: &mut impl Write) -> anyhow::Result<ExitCode> {
    checked(&arguments.query)?;
    let client = Client::new(&arguments.server)?;
    let mut question = Map::from_iter([
        ("q".to_owned(), json!(arguments.query)),
        ("by".to_owned(), json!(arguments.by)),
        ("limit".to_owned(), json!(arguments.limit)),
        ("force".to_owned(), json!(arguments.force)),
    ]);
    if let Some(every) = &arguments.every {
        question.insert("every".into(), every.as_str().into());
    }
    if arguments.format != Format::Table {
        let accept = arguments.format.media_type();
        let answer = client.ask("/v1/stats", &question, accept, &arguments.query)?;
        return print(out, &client::body(answer)?);
    }
    let answer = client.ask("/v1/stats", &question, "application/json", &arguments.query)?;
    let counts: Value = serde_json::from_slice(&client::body(answer)?)?;
    print(out, counted(&counts).as_bytes())
}

fn counted(counts: &Value) -> String {
    let list = |name: &str| {
        counts[name]
            .as_array()
            .map(Vec::as_slice)
            .unwrap_or_default()
    };
    let timed = list("rows").iter().any(|row| row.get("time").is_some());
    let by = list("by").iter().filter_map(Value::as_str).map(title);
    let header: Vec<&str> = timed
        .then_some("TIME")
        .into_iter()
        .chain(by)
        .chain(["COUNT"])
        .collect();
    let rows: Vec<Vec<String>> = list("rows")
        .iter()
        .map(|row| {
            let time = timed.then(|| cell(&row["time"]));
            let values = row["values"].as_array().into_iter().flatten().map(cell);
            time.into_iter()
                .chain(values)
                .chain([cell(&row["count"])])
                .collect()
        })
        .collect();
    let more = match counts["more"] {
        Value::Bool(true) => ", and more groups (see --limit)",
        _ => "",
    };
    let total = &counts["total"];
    format!(
        "{}{total} events{more}\n",
        table(&header, &rows, &[header.len() - 1])
    )
}

/// # Errors
/// What went wrong, for people; also when the server ends it.
pub fn tail(arguments: &TailArguments, out: &mut impl Write) -> anyhow::Result<ExitCode> {
    checked(&arguments.query)?;
    let client = Client::new(&arguments.server)?;
    let question = json!({"q": arguments.query});
    let answer = client.ask("/v1/tail", &question, EVENT_STREAM, &arguments.query)?;
    let shown = fields_of(None)?;
    if arguments.format == Format::Csv && gone(writeln!(out, "{}\r", shown.join(",")))? {
        return Ok(ExitCode::SUCCESS);
    }
    let body = answer
        .into_body()
        .into_with_config()
        .limit(u64::MAX)
        .reader();
    let mut kind = String::new();
    for line in BufReader::new(body).lines() {
        let line = line.map_err(ClientError::Cut)?;
        // https://html.spec.whatwg.org/multipage/server-sent-events.html, as far as the collector uses it.
        if let Some(name) = line.strip_prefix("event: ") {
            name.clone_into(&mut kind);
        } else if let Some(data) = line.strip_prefix("data: ") {
            if kind == "missed" {
                eprintln!(
                    "{} batches went by unseen: more comes than is read here",
                    client::printable(data)
                );
                continue;
            }
            let text = match arguments.format {
                Format::Ndjson => data.to_owned(),
                Format::Table => row(&serde_json::from_str(data)?, &shown).join("  "),
                Format::Csv => {
                    let values = row(&serde_json::from_str(data)?, &shown);
                    let quoted = values
                        .iter()
                        .map(|value| format!("\"{}\"", value.replace('"', "\"\"")));
                    format!("{}\r", quoted.collect::<Vec<_>>().join(","))
                }
            };
            if gone(writeln!(out, "{text}").and_then(|()| out.flush()))? {
                return Ok(ExitCode::SUCCESS);
            }
        }
    }
    anyhow::bail!("the collector has ended the tail")
}

fn fields_of(names: Option<&str>) -> anyhow::Result<Vec<&'static str>> {
    let Some(names) = names else {
        return Ok(EVENT_FIELDS.to_vec());
    };
    names
        .split(',')
        .map(|name| {
            let name = name.trim();
            let field = fields::find(name).ok_or_else(|| {
                let nearest = fields::nearest(name).join(", ");
                anyhow::anyhow!(
                    "there is no field `{}` (nearest: {nearest})",
                    client::printable(name)
                )
            })?;
            Ok(field.path)
        })
        .collect()
}

fn row(event: &Value, shown: &[&str]) -> Vec<String> {
    let value = |path: &&str| event.pointer(&format!("/{}", path.replace('.', "/")));
    shown
        .iter()
        .map(|path| cell(value(path).unwrap_or(&Value::Null)))
        .collect()
}

/// A column's name: the shortest that the language knows.
fn title(path: &str) -> &str {
    fields::find(path).map_or(path, |field| field.shortest())
}

fn explain(explanation: &Value) -> String {
    let of = |name: &str| cell(&explanation[name]);
    let mut text = format!(
        "query     {}\ntime      {} to {}\nsegments  {} of {} read ({} left out by time, {} by fingerprint)\n\
         events    {} looked at, at most ({} of them not in a segment yet; {} without --force)\n",
        client::printable(explanation["query"].as_str().unwrap_or_default()),
        of("from"),
        of("to"),
        of("files_read"),
        of("segments"),
        of("segments_excluded_by_time"),
        of("segments_excluded_by_fingerprint"),
        of("rows"),
        of("pending_rows"),
        of("rows_without_force"),
    );
    let files = explanation["files"].as_array().into_iter().flatten();
    let rows: Vec<Vec<String>> = files
        .map(|file| {
            ["path", "rows", "bytes", "first", "last"]
                .map(|name| cell(&file[name]))
                .to_vec()
        })
        .collect();
    if !rows.is_empty() {
        text += &format!(
            "\n{}",
            table(
                &["FILE", "EVENTS", "BYTES", "FIRST", "LAST"],
                &rows,
                &[1, 2]
            )
        );
    }
    let plan = explanation["plan"].as_str().unwrap_or_default();
    text += "\n";
    for line in plan.lines() {
        text += &format!("{}\n", client::printable(line));
    }
    text
}

/// Writes it all; a reader that has gone has read enough.
pub(super) fn print(out: &mut impl Write, text: &[u8]) -> anyhow::Result<ExitCode> {
    gone(out.write_all(text).and_then(|()| out.flush()))?;
    Ok(ExitCode::SUCCESS)
}

/// Whether the reader has gone.
fn gone(written: std::io::Result<()>) -> std::io::Result<bool> {
    match written {
        Ok(()) => Ok(false),
        Err(error) if error.kind() == std::io::ErrorKind::BrokenPipe => Ok(true),
        Err(error) => Err(error),
    }
}
