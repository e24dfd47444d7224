//! `access`: keys and the admin's password of a running collector.

use super::ask::print;
use super::client::{self, Client, ServerArguments};
use super::table::table;
use crate::access::Role;
use anyhow::Context as _;
use clap::{Args, Subcommand};
use serde_json::{Value, json};
use std::io::{IsTerminal as _, Read as _};
use std::process::ExitCode;
use zeroize::Zeroizing;

const PASSWORD_BYTES: u64 = 4 * 1024;

#[derive(Args, Debug)]
pub struct AccessArguments {
    #[command(subcommand)]
    command: Command,
    #[command(flatten)]
    server: ServerArguments,
}

#[derive(Subcommand, Debug)]
enum Command {
    /// Make a key, and print it: it is not shown again
    Key {
        /// Whose it is, for people
        name: String,
        /// What it is for: delivering events (ingest), searching them (reader), looking for one credential, too
        /// (analyst), managing keys, too (admin)
        #[arg(long, value_enum)]
        role: Role,
        /// Days until it expires
        #[arg(long)]
        days: Option<u32>,
    },
    /// List keys, without their secrets
    Keys,
    /// Make a key worthless at once
    Revoke {
        /// The first 8 characters behind `ttk_`
        id: String,
    },
    /// Set the local admin's password, read from standard input
    Password,
}

pub fn run(arguments: &AccessArguments) -> anyhow::Result<ExitCode> {
    let client = Client::new(&arguments.server)?;
    let mut out = std::io::stdout().lock();
    match &arguments.command {
        Command::Key { name, role, days } => {
            let wanted = json!({ "name": name, "role": role, "days": days });
            let answer = client.ask("/v1/access/keys", &wanted, "application/json", "")?;
            let made: Value = serde_json::from_slice(&client::body(answer)?)?;
            let key = made["key"].as_str().context("the answer has no key")?;
            print(&mut out, format!("{key}\n").as_bytes())
        }
        Command::Keys => {
            let answer = client.get("/v1/access/keys")?;
            let keys: Vec<Value> = serde_json::from_slice(&client::body(answer)?)?;
            let rows: Vec<Vec<String>> = keys.iter().map(row).collect();
            let header = ["ID", "NAME", "ROLE", "CREATED", "EXPIRES", "REVOKED"];
            print(&mut out, table(&header, &rows, &[]).as_bytes())
        }
        Command::Revoke { id } => {
            client.delete(&format!("/v1/access/keys/{id}"))?;
            Ok(ExitCode::SUCCESS)
        }
        Command::Password => {
            let mut input = std::io::stdin().lock();
            anyhow::ensure!(
                !input.is_terminal(),
                "a terminal would show the password: give it by a pipe or from a file"
            );
            let mut text = Zeroizing::new(String::with_capacity(PASSWORD_BYTES as usize + 1));
            (&mut input)
                .take(PASSWORD_BYTES)
                .read_to_string(&mut text)
                .context("cannot read standard input")?;
            let password = text.trim_end_matches(['\n', '\r']);
            let wanted = json!({ "password": password });
            client.ask("/v1/access/password", &wanted, "application/json", "")?;
            Ok(ExitCode::SUCCESS)
        }
    }
}

fn row(key: &Value) -> Vec<String> {
    let text = |name: &str| client::printable(key[name].as_str().unwrap_or(""));
    let day = |name: &str| {
        let second = key[name].as_i64();
        second
            .and_then(|second| jiff::Timestamp::from_second(second).ok())
            .map_or_else(|| "-".to_owned(), |time| time.to_string())
    };
    vec![
        text("id"),
        text("name"),
        text("role"),
        day("created"),
        day("expires"),
        day("revoked"),
    ]
}
