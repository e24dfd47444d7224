//! Writes what the command line says about itself: man pages, one for each subcommand, and completions for shells.
//!
//! `cargo xtask dist` runs it: `documents FOLDER` makes `FOLDER/man` and `FOLDER/completions`. It is an example and
//! not a subcommand so that what it is made with stays a development dependency: the agent runs as root.

// The program's own definition, compiled a second time; what only the program does is not used here.
#[allow(dead_code, unused_imports)]
#[path = "../src/cli/mod.rs"]
mod cli;

use anyhow::Context as _;
use clap::{Command, CommandFactory as _};
use clap_complete::Shell;
use std::{fs, path::PathBuf};

const NAME: &str = "tokentrail-agent";

/// What the command line does not say about itself.
const MORE: &str = "\
Exit status: 0 done; 1 failed, or a check did not hold; 2 wrong usage, or a configuration or key that cannot be used.

Files: /etc/tokentrail/agent.toml (configuration; every key is explained in \
/usr/share/doc/tokentrail-agent/examples/agent.toml), /etc/tokentrail/key.toml (fingerprint key), \
/var/log/tokentrail (events), /var/cache/tokentrail (findings about TLS libraries).

Environment: TOKENTRAIL_LOG, what is logged (info, debug, or a filter of tracing-subscriber's form).

Signals: SIGTERM and SIGINT end it in order: probes are detached, what was read is given out.";

fn main() -> anyhow::Result<()> {
    let folder = PathBuf::from(std::env::args_os().nth(1).context("documents FOLDER")?);
    let (man, completions) = (folder.join("man"), folder.join("completions"));
    for folder in [&man, &completions] {
        fs::create_dir_all(folder).with_context(|| format!("cannot make {}", folder.display()))?;
    }
    let command = || cli::Arguments::command().name(NAME);
    clap_mangen::generate_to(command().after_long_help(MORE), &man).context("man pages")?;
    for shell in [Shell::Bash, Shell::Zsh, Shell::Fish] {
        clap_complete::generate_to(shell, &mut visible(&command()), NAME, &completions)
            .with_context(|| format!("completions for {shell}"))?;
    }
    Ok(())
}

/// Without the subcommands that `--help` does not list, which clap_complete would offer.
fn visible(command: &Command) -> Command {
    let subcommands = command.get_subcommands();
    let shown = subcommands.filter(|subcommand| !subcommand.is_hide_set());
    Command::new(NAME)
        .about(command.get_about().cloned().unwrap_or_default())
        .version(env!("CARGO_PKG_VERSION"))
        .args(command.get_arguments())
        .subcommands(shown.cloned())
}
