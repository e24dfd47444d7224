//! `trail`: the story of a leaked token.
//!
//! The token is read from standard input, never from an argument, and wiped. What is sent is its fingerprints under
//! every key of the key file, which are computed here.
//!
//! Invariant: the token leaves this function neither by the network nor in an error or a file.

use super::ask::{Format, print};
use super::client::{self, Client, ServerArguments};
use super::table::{cell, table};
use crate::api::{CURSOR_HEADER, EVENT_FIELDS, TrailBody};
use crate::search::fields;
use agent_common::event::Fingerprint;
use agent_common::fingerprint::{Keyring, Secret};
use anyhow::Context as _;
use clap::Args;
use serde_json::Value;
use std::io::{Read, Write};
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use zeroize::Zeroizing;

/// Longest secret that is read.
const SECRET_BYTES: u64 = 64 * 1024;

/// Everything about one credential: where a leaked token was used, by whom, for what
///
/// Reads the token from standard input and sends its fingerprints only; or takes fingerprints. The question is
/// recorded by the collector.
#[derive(Args, Debug)]
pub struct TrailArguments {
    /// `tkf1:KEY:...`, instead of a token on standard input
    #[arg(value_name = "FINGERPRINT")]
    pub fingerprints: Vec<String>,
    /// The agents' fingerprint keys, to name a token by
    #[arg(long, env = "TOKENTRAIL_FINGERPRINT_KEY", value_name = "FILE")]
    pub fingerprint_key: Option<PathBuf>,
    /// As a table: the story; as NDJSON and CSV: its events
    #[arg(long, value_enum, default_value = "table")]
    pub format: Format,
    /// At most so many lines of each part, and events
    #[arg(long, default_value_t = 100)]
    pub limit: usize,
    /// Also if very many events have to be read
    #[arg(long)]
    pub force: bool,
    #[command(flatten)]
    pub server: ServerArguments,
}

/// `input`: standard input.
///
/// # Errors
/// What went wrong, for people.
pub fn trail(
    arguments: &TrailArguments,
    input: &mut impl Read,
    out: &mut impl Write,
) -> anyhow::Result<ExitCode> {
    let client = Client::new(&arguments.server)?;
    let fingerprints = if arguments.fingerprints.is_empty() {
        let file = arguments.fingerprint_key.as_deref();
        named(
            file.context(
                "a token on standard input needs the agents' key file: --fingerprint-key FILE",
            )?,
            input,
        )?
    } else {
        given(&arguments.fingerprints)?
    };
    let mut question = TrailBody {
        fingerprints,
        limit: Some(arguments.limit),
        cursor: None,
        force: arguments.force,
    };
    let accept = match arguments.format {
        Format::Table => "application/json",
        Format::Ndjson => "application/x-ndjson",
        Format::Csv => "text/csv",
    };
    let answer = client.ask("/v1/trail", &question, accept, "")?;
    if arguments.format == Format::Table {
        let trail: Value = serde_json::from_slice(&client::body(answer)?)?;
        return print(out, story(&trail, &question.fingerprints).as_bytes());
    }
    question.cursor = answer
        .headers()
        .get(CURSOR_HEADER)
        .and_then(|cursor| cursor.to_str().ok().map(str::to_owned));
    if question.cursor.is_some() {
        eprintln!(
            "there are more events than these {}: see --limit",
            arguments.limit
        );
    }
    print(out, &client::body(answer)?)
}

/// What `echo` and editors add is not part of a secret.
fn named(key_file: &Path, input: &mut impl Read) -> anyhow::Result<Vec<String>> {
    let keyring = Keyring::load(key_file)?;
    // In one piece from the start: a vector that grows leaves copies behind.
    let mut text = Zeroizing::new(Vec::with_capacity(SECRET_BYTES as usize + 1));
    input
        .take(SECRET_BYTES + 1)
        .read_to_end(&mut text)
        .context("cannot read standard input")?;
    anyhow::ensure!(
        text.len() as u64 <= SECRET_BYTES,
        "the token is longer than {SECRET_BYTES} bytes"
    );
    let secret = text.strip_suffix(b"\n").unwrap_or(&text);
    let secret = secret.strip_suffix(b"\r").unwrap_or(secret);
    anyhow::ensure!(
        !secret.is_empty(),
        "nothing on standard input: give the token there, never as an argument"
    );
    let fingerprints = keyring.fingerprints_ever(&Secret::copy_from(secret));
    Ok(fingerprints.iter().map(ToString::to_string).collect())
}

fn given(texts: &[String]) -> anyhow::Result<Vec<String>> {
    for (index, text) in texts.iter().enumerate() {
        // Not repeated: it may be the token.
        anyhow::ensure!(
            text.parse::<Fingerprint>().is_ok(),
            "argument {} is not a fingerprint (tkf1:KEY:...). If it is a token: arguments are seen by everyone on this \
             host and kept by the shell; give it on standard input",
            index + 1
        );
    }
    Ok(texts.to_vec())
}

fn story(trail: &Value, fingerprints: &[String]) -> String {
    let names: Vec<String> = fingerprints
        .iter()
        .map(|name| cell(&name.as_str().into()))
        .collect();
    let mut text = format!("credential  {}\n", names.join(", "));
    if trail["count"] == 0 {
        return text + "never seen\n";
    }
    text += &format!(
        "first seen  {}\nlast seen   {}\nuses        {}\n",
        cell(&trail["first"]),
        cell(&trail["last"]),
        cell(&trail["count"])
    );
    for facet in trail["facets"].as_array().into_iter().flatten() {
        text += &part(facet);
    }
    let shown = EVENT_FIELDS
        .iter()
        .filter(|path| **path != "token.fingerprints");
    let shown: Vec<&str> = shown.copied().collect();
    let header: Vec<&str> = shown
        .iter()
        .map(|path| fields::find(path).map_or(*path, |field| field.shortest()))
        .collect();
    let rows: Vec<Vec<String>> = trail["events"]
        .as_array()
        .into_iter()
        .flatten()
        .map(|event| {
            let value = |path: &&str| event.pointer(&format!("/{}", path.replace('.', "/")));
            shown
                .iter()
                .map(|path| cell(value(path).unwrap_or(&Value::Null)))
                .collect()
        })
        .collect();
    text += &format!("\nTIMELINE\n{}", table(&header, &rows, &[]));
    if trail.get("cursor").is_some() {
        text += &format!(
            "… and more: these are the first {} (see --limit)\n",
            rows.len()
        );
    }
    text
}

fn part(facet: &Value) -> String {
    let rows = facet["rows"]
        .as_array()
        .map(Vec::as_slice)
        .unwrap_or_default();
    if rows.is_empty() {
        return String::new();
    }
    let cells: Vec<Vec<String>> = rows
        .iter()
        .map(|row| {
            let values = row["values"].as_array().into_iter().flatten();
            let values: Vec<String> = values.filter(|value| !value.is_null()).map(cell).collect();
            vec![
                values.join("  "),
                cell(&row["count"]),
                cell(&row["first"]),
                cell(&row["last"]),
            ]
        })
        .collect();
    let name = client::printable(facet["name"].as_str().unwrap_or_default()).to_uppercase();
    let mut text = format!(
        "\n{}",
        table(&[&name, "COUNT", "FIRST", "LAST"], &cells, &[1])
    );
    if facet["more"] == true {
        text += &format!(
            "… and more: these are the {} most frequent (see --limit)\n",
            rows.len()
        );
    }
    text
}
