//! An S3 server for the collector's tests, in the cache's tools: `s3s-fs`, which keeps objects as files.

use super::{Missing, packages};
use crate::process;
use crate::workspace::Workspace;

/// The last one that Rust 1.95 builds.
const VERSION: &str = "0.14.1";

pub fn ensure(workspace: &Workspace) -> Option<Missing> {
    if workspace.tools().join("bin/s3s-fs").exists() {
        return None;
    }
    let arguments = ["s3s-fs", "--version", VERSION, "--features", "binary"];
    let mut command = packages::cargo_install(workspace);
    command.args(arguments);
    let built = process::logged(
        &format!("building s3s-fs {VERSION} (some minutes)"),
        &mut command,
        &workspace.logs().join("s3s-fs.log"),
    );
    built.err().map(|error| Missing {
        what: "s3s-fs (the S3 server of the collector's tests)".to_owned(),
        command: format!(
            "cargo install --locked --root {} {}",
            workspace.tools().display(),
            arguments.join(" ")
        ),
        cause: Some(format!("{error:#}")),
        optional: false,
    })
}
