//! `quarantine`: what was acknowledged and is no event.

use super::ask::print;
use super::client::{self, Client, ServerArguments, printable};
use super::table::table;
use anyhow::Context as _;
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use clap::{Args, Subcommand};
use serde_json::Value;
use std::fmt::Write as _;
use std::process::ExitCode;

/// Rows of one request.
const PAGE: usize = 100;

#[derive(Args, Debug)]
pub struct QuarantineArguments {
    #[command(subcommand)]
    command: Option<Command>,
    /// As JSON, one object a line
    #[arg(long, global = true)]
    json: bool,
    #[command(flatten)]
    server: ServerArguments,
}

#[derive(Subcommand, Debug)]
enum Command {
    /// List it, the newest first (this is the default)
    List {
        /// At most so many
        #[arg(long, default_value_t = PAGE)]
        limit: usize,
    },
    /// Show one, with its bytes
    Show {
        /// From the list
        id: i64,
    },
}

pub fn run(arguments: &QuarantineArguments) -> anyhow::Result<ExitCode> {
    let client = Client::new(&arguments.server)?;
    let text = match &arguments.command {
        Some(Command::Show { id }) => {
            let answer = client.get(&format!("/v1/quarantine/{id}"))?;
            let piece: Value = serde_json::from_slice(&client::body(answer)?)?;
            if arguments.json {
                format!("{piece}\n")
            } else {
                whole(&piece)?
            }
        }
        Some(Command::List { limit }) => list(&client, *limit, arguments.json)?,
        None => list(&client, PAGE, arguments.json)?,
    };
    print(&mut std::io::stdout().lock(), text.as_bytes())
}

fn list(client: &Client, limit: usize, json: bool) -> anyhow::Result<String> {
    let mut found: Vec<Value> = Vec::new();
    let mut before = String::new();
    while found.len() < limit {
        let page = (limit - found.len()).min(PAGE);
        let answer = client.get(&format!("/v1/quarantine?limit={page}{before}"))?;
        let mut page: Value = serde_json::from_slice(&client::body(answer)?)?;
        if let Value::Array(rows) = page["quarantined"].take() {
            found.extend(rows);
        }
        match page["before"].as_i64() {
            Some(id) => before = format!("&before={id}"),
            None => break,
        }
    }
    if json {
        let lines = found.iter().map(|row| format!("{row}\n"));
        return Ok(lines.collect());
    }
    if found.is_empty() {
        return Ok("nothing is in quarantine\n".to_owned());
    }
    let header = ["ID", "RECEIVED", "FROM", "FORM", "BYTES", "REASON"];
    let names = ["id", "received", "origin", "form", "length", "reason"];
    let row = |row: &Value| names.iter().map(|name| shown(&row[name])).collect();
    let rows: Vec<Vec<String>> = found.iter().map(row).collect();
    Ok(table(&header, &rows, &[0, 4]))
}

/// Uncut: a reason is what somebody looks for here.
fn shown(value: &Value) -> String {
    let text = value
        .as_str()
        .map_or_else(|| value.to_string(), str::to_owned);
    printable(&text)
}

/// What is known of it, and its bytes: text as it is, everything else in hexadecimal.
fn whole(piece: &Value) -> anyhow::Result<String> {
    let content = piece["content"]
        .as_str()
        .context("the answer has no bytes")?;
    let bytes = STANDARD.decode(content).context("the answer's bytes")?;
    let mut text = String::new();
    for name in ["id", "received", "origin", "form", "length", "reason"] {
        writeln!(text, "{name:<9} {}", shown(&piece[name]))?;
    }
    text.push('\n');
    match std::str::from_utf8(&bytes) {
        Ok(content) if piece["form"] == "json" => text.push_str(&printable(content)),
        _ => {
            for line in bytes.chunks(32) {
                line.iter()
                    .try_for_each(|byte| write!(text, "{byte:02x}"))?;
                text.push('\n');
            }
        }
    }
    if !text.ends_with('\n') {
        text.push('\n');
    }
    Ok(text)
}
