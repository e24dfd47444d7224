//! `documents`: what the command line says about itself: man pages, one for each subcommand, and completions for
//! shells.
//!
//! `cargo xtask dist` runs it. A subcommand and not an example as the agent's: an example would be built without
//! optimisation, and the query engine with it.

use super::Arguments;
use anyhow::Context as _;
use clap::{Command, CommandFactory as _};
use clap_complete::Shell;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::ExitCode;

const NAME: &str = "tokentrail";

/// What the command line does not say about itself.
const MORE: &str = "\
Exit status: 0 done; 1 failed; 2 wrong usage, or a configuration that cannot be used.

Files: /etc/tokentrail/collector.toml (configuration; every key is explained in \
/usr/share/doc/tokentrail/examples/collector.toml), /var/lib/tokentrail-collector (events, catalog, keys).

Environment: TOKENTRAIL_SERVER, TOKENTRAIL_KEY_FILE, TOKENTRAIL_CA_FILE and TOKENTRAIL_FINGERPRINT_KEY stand for the \
options of these names; TOKENTRAIL_LOG, what `serve` logs (info, debug, or a filter of tracing-subscriber's form); the \
usual AWS_* variables for segments in an S3 bucket.

Signals: SIGTERM and SIGINT end `serve` in order: requests that are being answered get 10 seconds.";

#[derive(clap::Args)]
pub struct DocumentsArguments {
    /// `man` and `completions` are made in it
    folder: PathBuf,
}

pub fn documents(arguments: &DocumentsArguments) -> anyhow::Result<ExitCode> {
    let made = |name: &str| -> anyhow::Result<PathBuf> {
        let folder = arguments.folder.join(name);
        fs::create_dir_all(&folder).with_context(|| format!("cannot make {}", folder.display()))?;
        Ok(folder)
    };
    write(&made("man")?, &made("completions")?)?;
    Ok(ExitCode::SUCCESS)
}

fn write(man: &Path, completions: &Path) -> anyhow::Result<()> {
    let pages = Arguments::command().name(NAME).after_long_help(MORE);
    clap_mangen::generate_to(pages, man).context("man pages")?;
    for shell in [Shell::Bash, Shell::Zsh, Shell::Fish] {
        let mut command = visible(&Arguments::command());
        clap_complete::generate_to(shell, &mut command, NAME, completions)
            .with_context(|| format!("completions for {shell}"))?;
    }
    Ok(())
}

/// Without the subcommands that `--help` does not list, which clap_complete would offer.
fn visible(command: &Command) -> Command {
    let shown = command
        .get_subcommands()
        .filter(|subcommand| !subcommand.is_hide_set());
    Command::new(NAME)
        .about(command.get_about().cloned().unwrap_or_default())
        .version(env!("CARGO_PKG_VERSION"))
        .args(command.get_arguments())
        .subcommands(shown.cloned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_hidden_is_in_no_document() {
        let folder = tempfile::tempdir().unwrap();
        let arguments = DocumentsArguments {
            folder: folder.path().to_owned(),
        };
        documents(&arguments).unwrap();
        let read = |file: &str| fs::read_to_string(folder.path().join(file)).unwrap();
        for file in [
            "man/tokentrail.1",
            "completions/tokentrail.bash",
            "completions/_tokentrail",
            "completions/tokentrail.fish",
        ] {
            let text = read(file);
            assert!(text.contains("trail"), "{file}");
            assert!(!text.contains("documents"), "{file}");
        }
        let page = read("man/tokentrail-serve.1");
        assert!(page.contains("first\\-key\\-file"), "{page}");
        let hidden = folder.path().join("man/tokentrail-documents.1");
        assert!(!hidden.exists());
    }
}
