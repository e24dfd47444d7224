//! A process out of the scope is not touched: no hit, and no byte of its code, while others use the same files in scope.

use super::stage::Stage;
use crate::support::expect::stop;
use crate::support::report::Cells;
use crate::support::scenario::requests;
use crate::support::text::text_is_untouched;
use crate::support::{host_scope, known, repeat, turn};
use anyhow::{Context, Result, ensure};
use std::path::Path;

/// Handshakes out of the scope, and as many beside them in it.
const HANDSHAKES: usize = 200;

#[test]
fn outside() {
    let Some(_turn) = turn("outside") else { return };
    let mut cells = Cells::new("outside");
    if host_scope() {
        cells.skip("all", "with scope host nothing is outside");
        return cells.finish();
    }
    let mut stage = Stage::new("outside").unwrap();
    let library = stage.library("library").unwrap();
    // The server's own handshakes are out of the scope too.
    let before = alone(&mut stage, &library, 0);
    cells.check("before-anyone", before);
    let read = stage.curl_until_read(&library).map(drop);
    cells.check("library-read", read);
    let hits = stage.agent.hits().unwrap();
    let after = alone(&mut stage, &library, hits);
    cells.check("after-one-inside", after);
    let beside = beside(&mut stage, &library);
    cells.check("beside-one-inside", beside);
    stop(stage.agent, &mut cells);
    cells.finish();
}

/// Handshakes by a process out of the scope alone: nothing is met, and its code is that of its files.
fn alone(stage: &mut Stage, library: &Path, hits: u64) -> Result<()> {
    let count = repeat(HANDSHAKES);
    let asked = requests(&stage.lab, &format!("alone-{hits}"), count);
    let place = stage.lab.outside();
    let mut scenario = stage.script("apart", library, &asked)?.start(&place)?;
    scenario.reach("begun")?;
    scenario.go()?;
    scenario.reach("done")?;
    let untouched = text_is_untouched(scenario.pid());
    scenario.go()?;
    let done = scenario.finish()?;
    ensure!(done.len() == count, "{} of {count} exchanges", done.len());
    untouched?;
    let now = stage.agent.hits()?;
    ensure!(
        now == hits,
        "{count} handshakes out of the scope: {} hits more",
        now - hits
    );
    Ok(())
}

/// One process in scope and one out of it at the same time: every hit is of the first, by the count of one handshake.
fn beside(stage: &mut Stage, library: &Path) -> Result<()> {
    let count = repeat(HANDSHAKES);
    let of = |name: &str| requests(&stage.lab, name, count + 2);
    let (inner_asked, outer_asked) = (of("inner"), of("outer"));
    let places = [stage.lab.inside(), stage.lab.outside()];
    let mut inner = stage
        .script("anew", library, &inner_asked)?
        .start(&places[0])?;
    let mut outer = stage
        .script("apart", library, &outer_asked)?
        .start(&places[1])?;
    outer.reach("begun")?;
    // The first makes the library known to the agent in this process, the second says what one handshake costs.
    let mut one = 0;
    for request in &inner_asked[..2] {
        let before = stage.agent.hits()?;
        inner.reach(&request.cell)?;
        inner.go()?;
        inner.exchange()?;
        known::settled(&stage.agent);
        one = stage.agent.hits()? - before;
    }
    ensure!(
        stage.was_read(&inner_asked[1].credential)?,
        "the second request in scope was not read"
    );
    ensure!(one > 0, "a handshake that was read had no hit");
    let before = stage.agent.hits()?;
    outer.go()?;
    for request in &inner_asked[2..] {
        inner.reach(&request.cell)?;
        inner.go()?;
        inner.exchange()?;
    }
    outer.reach("done")?;
    let untouched = text_is_untouched(outer.pid());
    outer.go()?;
    outer.finish()?;
    inner.finish()?;
    let last = inner_asked.last().context("a request")?;
    ensure!(stage.was_read(&last.credential)?, "the last was not read");
    let hits = stage.agent.hits()? - before;
    let wanted = one * count as u64;
    ensure!(
        hits == wanted,
        "{hits} hits of {count} handshakes in scope, each with {one}"
    );
    untouched.map(drop)
}
