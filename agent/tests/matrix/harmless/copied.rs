//! Programs that copy or translate their own code: they run as without an agent, whether their points are met or not.

use super::stage::{NOBODY, Stage, unhurt};
use crate::support::clients::{CLIENTS, CURL};
use crate::support::expect::{LATE, stop};
use crate::support::process::{Place, Spec};
use crate::support::report::Cells;
use crate::support::scenario::requests;
use crate::support::text::text_is_untouched;
use crate::support::{brief, fixtures, turn};
use anyhow::{Context, Result};
use std::path::Path;

/// Why a connection is not read whose program moved its code: one that ends soon is not looked at again, or is over
/// before anything could be attached.
const MOVED: [&str; 4] = ["text_copied", "no_secret", LATE[0], LATE[1]];
/// How often a program is run that may be over before anything is known of it.
const TRIES: usize = 5;

#[test]
fn copied() {
    let Some(_turn) = turn("copied") else { return };
    let mut stage = Stage::new("copied").unwrap();
    let mut cells = Cells::new("copied");
    let library = stage.library("library").unwrap();
    let read = stage.curl_until_read(&library).map(drop);
    cells.check("library-read", read);
    for (name, place) in [
        ("in-scope", stage.lab.inside()),
        ("out-of-scope", stage.lab.outside()),
        ("as-nobody", stage.lab.inside_as(NOBODY)),
    ] {
        let copied = anonymous(&mut stage, &library, &place, name);
        cells.check(&format!("anonymous-{name}"), copied);
    }
    match fixtures::system("/usr/bin/valgrind") {
        Ok(valgrind) => {
            for (name, place) in both(&stage) {
                let below = translated(&mut stage, &valgrind, &library, &place, name);
                cells.check(&format!("valgrind-{name}"), below);
            }
        }
        Err(missing) => cells.skip("valgrind", &format!("{missing:#}")),
    }
    large_pages(&mut stage, &mut cells);
    stop(stage.agent, &mut cells);
    cells.finish();
}

fn both(stage: &Stage) -> [(&'static str, Place); 2] {
    [
        ("in-scope", stage.lab.inside()),
        ("out-of-scope", stage.lab.outside()),
    ]
}

/// The library's text is replaced by a copy in anonymous memory, at the same addresses.
fn anonymous(stage: &mut Stage, library: &Path, place: &Place, name: &str) -> Result<()> {
    let asked = requests(&stage.lab, &format!("anonymous-{name}"), 3);
    let mut scenario = stage.script("copied_text", library, &asked)?.start(place)?;
    scenario.reach("begun")?;
    scenario.go()?;
    scenario.reach("met")?;
    let untouched = text_is_untouched(scenario.pid());
    scenario.go()?;
    scenario.finish()?;
    if name != "out-of-scope" {
        for one in &asked {
            stage
                .read_or_listed(&one.path, &one.credential, &MOVED)
                .with_context(|| one.cell.clone())?;
        }
    }
    untouched.map(drop)
}

/// curl below valgrind, which runs no instruction of the file.
fn translated(
    stage: &mut Stage,
    valgrind: &Path,
    library: &Path,
    place: &Place,
    name: &str,
) -> Result<()> {
    let mut listed = Ok(());
    for _ in 0..TRIES {
        let (errand, _) = stage.ask_once(&CURL, place, |mut spec| {
            let curl = std::mem::replace(&mut spec.program, valgrind.to_owned());
            let words = ["-q".into(), "--tool=none".into(), curl.into_os_string()];
            spec.args.splice(0..0, words);
            spec.env("LD_LIBRARY_PATH", library)
        })?;
        if name != "in-scope" {
            break;
        }
        let (path, credential) = (errand.path, errand.credential);
        listed = stage.read_or_listed(&path, &credential, &["text_copied"]);
        if listed.is_ok() {
            break;
        }
    }
    listed
}

/// node copies its text to large pages while it starts.
fn large_pages(stage: &mut Stage, cells: &mut Cells) {
    const FLAG: &str = "--use-largepages=on";
    let Some(client) = CLIENTS.iter().find(|client| client.name == "node-https") else {
        return cells.check("node", Err(anyhow::anyhow!("no such client")));
    };
    if brief() {
        return cells.skip("node", "its file is large, and this machine is slow");
    }
    let node = match fixtures::system("/usr/bin/node") {
        Ok(node) => node,
        Err(missing) => return cells.skip("node", &format!("{missing:#}")),
    };
    let copy = stage.lab.path("node");
    let control = std::fs::copy(&node, &copy)
        .context("copy node")
        .and_then(|_| {
            // Before any agent knows the copy.
            let words = [FLAG, "-e", "process.exit(0)"];
            unhurt(&Spec::new(&copy).args(words), &Place::default())
        });
    if let Err(error) = control {
        return cells.skip("node", &format!("not without an agent either: {error:#}"));
    }
    let ask = |stage: &Stage, place: &Place, flag: Option<&str>| {
        let asked = stage.ask_once(client, place, |mut spec| {
            spec.program.clone_from(&copy);
            spec.args.splice(0..0, flag.map(Into::into));
            spec
        });
        asked.map(|(errand, _)| (errand.path, errand.credential))
    };
    let place = stage.lab.inside();
    let plain = stage.until_read(|stage| Ok(ask(stage, &place, None)?.1));
    cells.check("node-plain", plain.map(drop));
    for (name, place) in both(stage) {
        let asked = ask(stage, &place, Some(FLAG));
        let told = asked.and_then(|(path, credential)| match name {
            "in-scope" => stage.read_or_listed(&path, &credential, &MOVED),
            _ => Ok(()),
        });
        cells.check(&format!("node-{name}"), told);
    }
}
