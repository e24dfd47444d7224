//! The attacher's searches: asked for where a file is not known, and what comes of them.

use super::{Asked, Place, Thread};
use crate::kernel::attach::{
    Fallback,
    ahead::{Ahead, Ticket},
    findings::Findings,
    point::Target,
};
use crate::kernel::{
    keylog::{
        Class, Found, Job, Library, LookError, SearchError, Searched, discover, process::Failure,
        searches::Reason,
    },
    owner::Owner,
    points::{Mapped, Unattached},
    record::{PointId, ProcessKey},
};
use agent_common::abi::{self, file};
use std::{fs::File, path::PathBuf, sync::Arc};
use tracing::{debug, info};

impl Thread {
    pub(super) fn ask_for(&mut self, process: ProcessKey, of: abi::File, place: &Place) {
        let pid = process.pid;
        let owner = Owner::of(pid);
        match place {
            Place::Program { name, .. } => {
                let asked = Asked {
                    file: Some(of),
                    named: false,
                    name: name.is_absolute().then(|| (name.clone(), owner.clone())),
                };
                self.ask(asked, owner, Class::Prompt, move || {
                    discover::open_program(pid)
                });
            }
            Place::Parts(parts) => {
                let address = parts.first().map_or(0, |part| part.address);
                self.ask(Asked::of(of), owner, Class::Prompt, move || {
                    discover::open_at(pid, address)
                });
            }
        }
    }

    pub(super) fn ask(
        &mut self,
        asked: Asked,
        owner: Owner,
        class: Class,
        open: impl FnOnce() -> Result<File, LookError> + Send + 'static,
    ) {
        let token = self.next_token;
        self.next_token += 1;
        self.asked.insert(token, asked);
        self.searches.ask(Job {
            token,
            owner,
            class,
            open: Box::new(open),
        });
    }

    /// Asks for searches of what is not met yet.
    pub(super) fn ask_ahead(&mut self) {
        while let Some(wanted) = self.ahead.as_ref().and_then(Ahead::next) {
            let known = self.known.contains(&wanted.state);
            if known || self.searching.contains_key(&wanted.state) || self.is_resting() {
                continue;
            }
            let token = self.next_token;
            self.next_token += 1;
            self.asked_ahead.insert(token, wanted.ticket);
            let open = wanted.open;
            self.searches.ask(Job {
                token,
                owner: wanted.owner,
                class: Class::Ahead,
                open: Box::new(move || Ok(open()?)),
            });
        }
    }

    /// A file that no process was met with was searched.
    pub(super) fn searched_ahead(&mut self, ticket: &Ticket, searched: &Searched) {
        self.done_ahead += 1;
        let found = match (&searched.outcome, searched.state) {
            (Ok(found), Some(state)) => Some((found, ticket.state(state))),
            (Err(error), _) => {
                debug!(%error, "not searched ahead");
                None
            }
            (Ok(_), None) => None,
        };
        // A process may have been met with it meanwhile.
        let Some((found, of)) = found.filter(|(_, of)| !self.known.contains(of)) else {
            return;
        };
        let findings = self.findings(found);
        debug!(
            device = of.device,
            inode = of.inode,
            size = of.size,
            points = findings.points.len(),
            lasting = searched.cacheable,
            "searched ahead"
        );
        self.likely.put(likeness(of), Arc::clone(&findings));
        if searched.cacheable {
            self.want_fallback(&findings);
            self.learn(of, &findings);
            self.serve(of, Some(&findings), None);
            return;
        }
        let waiting = self.searching.get(&of).into_iter().flatten();
        for pid in waiting.copied().collect::<Vec<_>>() {
            let Some(waiting) = self.pending.get(&pid) else {
                continue;
            };
            let start = waiting.start;
            let mut places = waiting.places.iter();
            let place = places.find(|(file, place)| *file == of && place.is_program());
            if let Some(place) = place.map(|(_, place)| place.clone()) {
                self.attach_likely(ProcessKey { pid, start }, of, &place);
            }
        }
    }

    /// A file that was searched in a state which may come again with another content, or in another state which may have
    /// had the same (a file that was renamed, linked or made executable): it is searched again, and what it is likely to
    /// hold is attached meanwhile, since its process does not wait.
    pub(super) fn attach_likely(&mut self, process: ProcessKey, of: abi::File, place: &Place) {
        let Some(findings) = self.likely.get(&likeness(of)).map(Arc::clone) else {
            return;
        };
        for known in &findings.points {
            let Some(address) = place.address_of(known, &findings) else {
                continue;
            };
            let target = Target {
                process,
                file: of,
                address,
            };
            if !known.is_dropped()
                && let Ok(attached) = self.attachments.attach_unproven(target, known)
            {
                let path = place.path(process.pid).unwrap_or_default();
                self.report(process, known, path, Ok(attached));
            }
        }
    }

    /// What a search has found in a file: with the ids that its points have, if they were known.
    pub(super) fn found(&mut self, of: Option<abi::File>, found: &Found) -> Arc<Findings> {
        // It may have been searched ahead since it was asked for.
        if let Some(known) = of.and_then(|of| self.known.get(&of).map(Arc::clone)) {
            return known;
        }
        let findings = self.findings(found);
        let Some(of) = of else {
            return findings;
        };
        let likely = self.likely.get(&likeness(of)).map(Arc::clone);
        match likely {
            Some(likely) if likely.is_same(&findings) => likely,
            Some(likely) => {
                debug!("a file does not hold what was likely");
                let waiting = self.searching.get(&of).into_iter().flatten();
                for pid in waiting.copied().collect::<Vec<_>>() {
                    self.attachments
                        .take_back(pid, |point| likely.all().any(|known| known.id == point));
                }
                findings
            }
            None => findings,
        }
    }

    pub(super) fn findings(&mut self, found: &Found) -> Arc<Findings> {
        let only = self.fallback == Fallback::Only;
        let next = &mut self.next_point;
        Arc::new(Findings::new(found, only, || {
            *next += 1;
            PointId(*next - 1)
        }))
    }

    pub(super) fn take_results(&mut self) {
        while let Ok(searched) = self.results.receiver.try_recv() {
            self.drain();
            self.searched(searched);
        }
    }

    pub(super) fn searched(&mut self, searched: Searched) {
        if let Some(ticket) = self.asked_ahead.remove(&searched.token) {
            return self.searched_ahead(&ticket, &searched);
        }
        let Some(asked) = self.asked.remove(&searched.token) else {
            return;
        };
        self.done += 1;
        let state = searched.state.map(|state| state.as_kernel());
        let mut changed = false;
        let findings = match &searched.outcome {
            // What a process has mapped is the file as it was then.
            Ok(_)
                if asked.file.zip(state).is_some_and(|(met, now)| {
                    !now.has_content_of(&met) || asked.named && met != now
                }) =>
            {
                debug!("a file has changed since it was mapped");
                changed = true;
                None
            }
            Ok(found) => Some(self.found(asked.file, found)),
            Err(error) => {
                debug!(%error, "not searched");
                None
            }
        };
        if let Some(findings) = &findings {
            self.want_fallback(findings);
            if searched.cacheable
                && let Some(of) = asked.file.or(state)
                && of.inode != 0
            {
                self.learn(of, findings);
            }
            if let Some(of) = asked.file {
                self.likely.put(likeness(of), Arc::clone(findings));
            }
        }
        let failed = searched.outcome.as_ref().err().and_then(unsearched);
        let why = failed.or(changed.then_some(Unattached::Unsearched));
        if let Some(of) = asked.file {
            self.serve(of, findings.as_ref(), why);
        }
        if let (None, Some((name, owner))) = (searched.state, asked.name) {
            self.ask_by_name(asked.file, name, owner);
        }
    }

    /// A program has ended before it could be opened. It is searched for its next use, by its name: the findings count if
    /// the name leads to the very file that was executed, and nothing is attached by them now.
    pub(super) fn ask_by_name(&mut self, file: Option<abi::File>, name: PathBuf, owner: Owner) {
        let asked = Asked {
            file,
            named: true,
            name: None,
        };
        self.ask(asked, owner, Class::Ahead, move || {
            discover::open_regular(&name)
        });
    }

    /// Keeps what was found, and tells the probes which mappings of it they need not tell.
    pub(super) fn learn(&mut self, of: abi::File, findings: &Arc<Findings>) {
        let what = if findings.matters(self.fallback_wanted) {
            file::WITH_POINTS
        } else {
            file::WITHOUT_POINTS
        };
        if let Err(error) = self.attachments.maps.set_file(of, what) {
            debug!(%error, "the probes cannot be told of a file");
        }
        self.known.put(of, Arc::clone(findings));
    }

    /// Gives those that wait for a file what it holds, or `why` nobody knows.
    pub(super) fn serve(
        &mut self,
        of: abi::File,
        findings: Option<&Arc<Findings>>,
        why: Option<Unattached>,
    ) {
        for pid in self.searching.remove(&of).into_iter().flatten() {
            let Some(waiting) = self.pending.get_mut(&pid) else {
                continue;
            };
            let process = ProcessKey {
                pid,
                start: waiting.start,
            };
            let mut places = Vec::new();
            waiting.places.retain(|(file, place)| {
                let fits = *file == of;
                if fits {
                    places.push(place.clone());
                }
                !fits
            });
            if waiting.places.is_empty() {
                self.pending.remove(&pid);
            }
            for place in places {
                if let Some(findings) = findings {
                    self.attach_all(process, of, findings, &place, None);
                }
                if let Some(why) = why {
                    self.unsearched(process, why);
                }
                self.points.answered(process);
            }
        }
    }

    /// Nobody knows what a process has mapped, which is told as a library of its own.
    pub(super) fn unsearched(&self, process: ProcessKey, why: Unattached) {
        self.points.map(
            process,
            Mapped {
                library: Library::Unknown,
                path: PathBuf::new(),
                attached: None,
                point: None,
                why: Some(why),
            },
        );
    }

    pub(super) fn want_fallback(&mut self, findings: &Findings) {
        if !findings.wants_fallback || self.fallback_wanted {
            return;
        }
        info!("an OpenSSL without a key-log point: the fallback is used where it is mapped");
        self.fallback_wanted = true;
        let with: Vec<abi::File> = self
            .known
            .iter()
            .filter(|(_, known)| known.fallback.is_some())
            .map(|(file, _)| *file)
            .collect();
        for of in with {
            if let Err(error) = self.attachments.maps.set_file(of, file::WITH_POINTS) {
                debug!(%error, "the probes cannot be told of a file");
            }
        }
    }
}

/// What two states of a file have in common that most likely have the same content.
fn likeness(of: abi::File) -> abi::File {
    abi::File { changed: 0, ..of }
}

/// Why a file was not searched; `None`: there can be nothing in it. Nobody is to take one for the other.
fn unsearched(reason: &Reason) -> Option<Unattached> {
    let failure = match reason {
        Reason::OwnerFull | Reason::Full => return Some(Unattached::Limit),
        Reason::NoDescriptor => return Some(Unattached::Descriptors),
        Reason::Changed => return Some(Unattached::Unsearched),
        Reason::Open(error) => Failure::from(error),
        Reason::Search(SearchError::Failed(failure)) => *failure,
        Reason::Search(SearchError::Look(error)) => Failure::from(error),
        Reason::Search(_) => return Some(Unattached::Unsearched),
    };
    match failure {
        Failure::NotElf | Failure::OtherMachine | Failure::OtherKind | Failure::NotAFile => None,
        Failure::Read(libc::EMFILE | libc::ENFILE) => Some(Unattached::Descriptors),
        _ => Some(Unattached::Unsearched),
    }
}
