//! What the attacher attaches to a process, and what it tells the worker of it.

use super::{Place, Thread};
use crate::kernel::attach::{
    findings::{Findings, Known},
    look,
    point::{Attached as Now, Refused, Target},
};
use crate::kernel::{
    decode::now,
    keeper::{Lost, Why, is_translator},
    points::{Attached, Mapped, State, Unattached},
    record::ProcessKey,
    scope::start_ticks,
};
use agent_common::abi::{self, TICK};
use std::{path::PathBuf, sync::Arc};
use tracing::info;

impl Thread {
    pub(super) fn attach_all(
        &mut self,
        process: ProcessKey,
        of: abi::File,
        findings: &Arc<Findings>,
        place: &Place,
        path: Option<PathBuf>,
    ) {
        if !findings.matters(self.fallback_wanted) {
            return;
        }
        let mut results = Vec::new();
        let wanted = self.fallback_wanted;
        let fallback = findings.fallback.iter().filter(|_| wanted);
        let target = |known: &Known| {
            let address = place.address_of(known, findings)?;
            Some(Target {
                process,
                file: of,
                address,
            })
        };
        let watched = !self.attachments.is_uprobes_alone();
        let points = findings.points.iter();
        let instead = findings.instead.iter().filter(|_| !watched);
        for known in points
            .filter(|known| watched || !known.is_watched())
            .chain(instead)
            .chain(fallback)
        {
            let result = match target(known) {
                Some(target) => self.try_attach(target, known),
                None if start_ticks(process.pid) == Some(process.start / TICK) => continue,
                // Nobody can say any more where it was.
                None => Err(Refused::Gone),
            };
            results.push((Arc::clone(known), result));
        }
        let refused = results.iter().find_map(|(known, result)| match result {
            Err(Refused::For(why)) if known.is_watched() => Some(*why),
            _ => None,
        });
        for known in findings.instead.iter().filter(|known| !known.is_dropped()) {
            if let (Some(why), Some(target)) = (refused, target(known)) {
                let result = self.attachments.attach_instead(target, known, why);
                results.push((Arc::clone(known), result));
            }
        }
        let path = path.or_else(|| place.path(process.pid)).unwrap_or_default();
        for library in &findings.unread {
            self.points.map(
                process,
                Mapped {
                    library: *library,
                    path: path.clone(),
                    attached: None,
                    point: None,
                    why: None,
                },
            );
        }
        for (known, result) in results {
            self.report(process, &known, path.clone(), result);
        }
        if findings.wants_fallback {
            self.look_for_fallback(process);
        }
    }

    pub(super) fn attach(&mut self, target: Target, known: &Known, path: Option<PathBuf>) {
        let result = self.try_attach(target, known);
        let path = path
            .or_else(|| look::path_at(target.process.pid, known.code_at(target.address)))
            .unwrap_or_default();
        self.report(target.process, known, path, result);
    }

    pub(super) fn try_attach(&mut self, target: Target, known: &Known) -> Result<Now, Refused> {
        if known.is_dropped() {
            return Err(Refused::For(Unattached::Dropped));
        }
        self.attachments.attach(target, known)
    }

    /// What the keeper has answered, and what it has lost.
    pub(super) fn take_kept(&mut self) {
        while let Some((process, point, address, result)) = self.attachments.kept() {
            if let Some((_, known)) = self.point(point) {
                let path = look::path_at(process.pid, address).unwrap_or_default();
                self.report(process, &known, path, result.map(Now::Since));
            }
            self.points.answered(process);
        }
        let lost: Vec<Lost> = match &self.lost_uprobes {
            Some(lost) => lost.try_iter().collect(),
            None => return,
        };
        for Lost { ids, why } in lost {
            let again = matches!(why, Why::Restarted(_));
            for (process, point) in self.attachments.lost(&ids) {
                info!(pid = process.pid, %why, "uprobes are gone");
                for mut mapped in self.points.of_process(process) {
                    if mapped.point == Some(point) {
                        mapped.attached = None;
                        mapped.why = Some(Unattached::Written);
                        self.points.map(process, mapped);
                    }
                }
                if again {
                    self.look(process);
                }
            }
        }
    }

    /// Tells the worker what came of a point in a process.
    pub(super) fn report(
        &mut self,
        process: ProcessKey,
        known: &Known,
        path: PathBuf,
        result: Result<Now, Refused>,
    ) {
        let is_asked = matches!(result, Ok(Now::Asked { .. }));
        let (attached, why) = match result {
            Ok(Now::Since(since)) => (Some(since), None),
            Ok(Now::Asked { first, refused }) => {
                if first {
                    self.points.asked(process);
                }
                // That breakpoints are not used at all says nothing of this point.
                (
                    None,
                    Some(refused).filter(|why| *why != Unattached::Refused),
                )
            }
            Err(Refused::For(why)) => (None, Some(why)),
            // Its connections are there to be told of.
            Err(Refused::Gone) => (None, Some(Unattached::Ended)),
        };
        let point = &known.point;
        // What is to come is told when it is there.
        if !is_asked && known.tell() {
            self.points.add(
                known.id,
                Attached {
                    path: path.clone(),
                    library: point.library,
                    version: point.version.clone(),
                    kind: point.kind,
                    file_offset: point.file_offset,
                    state: State::Candidate,
                    since: attached.unwrap_or_else(now),
                },
            );
        }
        info!(
            pid = process.pid,
            path = %path.display(),
            library = point.library.name(),
            version = point.version.as_deref().unwrap_or("unknown"),
            offset = format_args!("{:#x}", point.file_offset),
            fallback = Findings::is_fallback(known),
            attached = attached.unwrap_or(0),
            refused = ?why,
            "key-log point"
        );
        // What runs translated comes to no breakpoint, and may end before it is looked at again.
        let why = match attached {
            Some(_) if is_translated(process.pid) => Some(Unattached::TextCopied),
            _ => why,
        };
        if attached.is_some() {
            self.fresh.push(process);
        }
        self.points.map(
            process,
            Mapped {
                library: point.library,
                path,
                attached,
                point: Some(known.id),
                why,
            },
        );
    }

    /// The process has an OpenSSL without a key-log point: its libcrypto may be mapped already, without a word.
    pub(super) fn look_for_fallback(&mut self, process: ProcessKey) {
        for code in look::code(process).unwrap_or_default() {
            let known = self.known.get(&code.file).map(Arc::clone);
            if let Some(findings) = known.filter(|findings| findings.fallback.is_some()) {
                let place = Place::Parts(code.parts);
                if let Some(known) = &findings.fallback
                    && let Some(address) = place.address_of(known, &findings)
                {
                    let target = Target {
                        process,
                        file: code.file,
                        address,
                    };
                    self.attach(target, known, Some(code.mapping.path));
                }
            }
        }
    }

    /// Programs that copy their code to other memory, and such as run translated, have no hits.
    pub(super) fn check_code(&mut self, process: ProcessKey) {
        let addresses: Vec<u64> = self
            .attachments
            .processes
            .of(process)
            .map(|attachment| attachment.spot.code)
            .collect();
        if addresses.is_empty() {
            return;
        }
        let moved = look::is_mapped_at(process.pid, &addresses) == Some(false);
        if moved || is_translated(process.pid) {
            for mut mapped in self.points.of_process(process) {
                if mapped.attached.is_some() {
                    mapped.why = Some(Unattached::TextCopied);
                    self.points.map(process, mapped);
                }
            }
        }
    }
}

/// Whether the process's program runs others' code translated.
fn is_translated(pid: u32) -> bool {
    look::program(pid).is_some_and(|path| is_translator(&path))
}
