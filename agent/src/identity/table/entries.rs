//! How processes come into the table, are found in it, and leave it.
//!
//! Invariant: `pids` names exactly the running entries, one per pid.

use super::{ANCESTORS, Entry, ProcessTable};
use crate::flow::Nanos;
use crate::identity::image::{Forebear, Image};
use crate::identity::procfs::ProcFs;
use crate::kernel::record::ProcessKey;
use agent_common::event::IdentitySource;
use std::collections::VecDeque;
use std::sync::Arc;
use std::time::Duration;

impl ProcessTable {
    /// Forgets ended processes before their time; how many.
    pub fn forget_ended(&mut self) -> usize {
        let count = self.ended.len();
        self.ended.clear();
        count
    }

    /// Records were missed: forgets what runs and takes in what runs now.
    ///
    /// # Errors
    /// If `/proc` cannot be listed.
    pub fn begin_anew(&mut self) -> std::io::Result<()> {
        self.running.clear();
        self.ended.clear();
        self.pids.clear();
        self.scan().map(drop)
    }

    /// The entry of a process, under its exact key: what `/proc` rounded gets its precise start time here.
    pub(super) fn find(&mut self, key: ProcessKey) -> Option<&mut Entry> {
        if let Some(known) = self.pids.get(&key.pid).copied()
            && known != key
            && self.proc.is_rounded(known.start)
            && self.proc.same_tick(key.start, known.start)
            && let Some(entry) = self.running.pop(&known)
        {
            self.running.put(key, entry);
            self.pids.insert(key.pid, key);
        }
        self.entry(key)
    }

    pub(super) fn entry(&mut self, key: ProcessKey) -> Option<&mut Entry> {
        if self.running.contains(&key) {
            self.running.get_mut(&key)
        } else {
            self.ended.peek_mut(&key)
        }
    }

    /// As [`find`](Self::find), and else from `/proc`, if the pid still means this process.
    pub(super) fn load_known(&mut self, key: ProcessKey) -> Option<&mut Entry> {
        if self.find(key).is_none() {
            self.load(key.pid, Some(key));
            if self.running.contains(&key) {
                self.counters.met_late += 1;
            }
        }
        self.entry(key)
    }

    /// A process that is known from `/proc` only may have run another program since, out of scope, where no
    /// record told. Looks again.
    pub(super) fn look_again(&mut self, key: ProcessKey) {
        let Some(entry) = self.running.peek(&key) else {
            return;
        };
        let Some((image, IdentitySource::Proc)) = entry.images.back() else {
            return;
        };
        if image.still_runs(key.pid, &*self.eyes) {
            return;
        }
        let now = Image::running(key.pid, &*self.eyes);
        let same = |proc: &ProcFs| {
            let stat = proc.stat(key.pid);
            stat.is_some_and(|stat| proc.same_start(key.start, stat.start_ticks))
        };
        if let Some(image) = now
            && same(&self.proc)
            && let Some(entry) = self.running.peek_mut(&key)
        {
            entry.images = VecDeque::from([(Arc::new(image), IdentitySource::Proc)]);
            entry.cached = None;
        }
    }

    /// Reads a process and its parents from `/proc`. With `key`, only if its start time agrees.
    pub(super) fn load(&mut self, pid: u32, key: Option<ProcessKey>) {
        // From the process up to the first known one, then down again.
        let mut line = Vec::new();
        let mut next = (pid, key);
        let mut above: Arc<[Forebear]> = Arc::new([]);
        while line.len() <= ANCESTORS {
            let (pid, exact) = next;
            let Some(stat) = self.proc.stat(pid) else {
                break;
            };
            if exact.is_some_and(|key| !self.proc.same_start(key.start, stat.start_ticks)) {
                break;
            }
            let known = self.pids.get(&pid).copied();
            if let Some(known) = known
                && self.proc.same_start(known.start, stat.start_ticks)
                && self.running.contains(&known)
            {
                self.look_again(known);
                above = self.line_from(known);
                break;
            }
            let Some(image) = Image::running(pid, &*self.eyes) else {
                break;
            };
            // The pid meant the same process all the while.
            if self.proc.stat(pid).map(|again| again.start_ticks) != Some(stat.start_ticks) {
                break;
            }
            let rounded = ProcessKey {
                pid,
                start: self.proc.tick_start(stat.start_ticks),
            };
            line.push((exact.unwrap_or(rounded), stat.parent, Arc::new(image)));
            next = (stat.parent, None);
        }
        while let Some((key, parent, image)) = line.pop() {
            let entry = Entry {
                parent: (parent != 0).then_some(parent),
                ancestors: above,
                user_namespace: None,
                images: VecDeque::from([(image, IdentitySource::Proc)]),
                ended: 0,
                cached: None,
            };
            self.insert(key, entry);
            above = self.line_from(key);
        }
    }

    /// `key` itself and what it descends from.
    fn line_from(&mut self, key: ProcessKey) -> Arc<[Forebear]> {
        let Some(entry) = self.entry(key) else {
            return Arc::new([Forebear { key, image: None }]);
        };
        let own = Forebear {
            key,
            image: entry.images.back().map(|(image, _)| image.clone()),
        };
        std::iter::once(own)
            .chain(entry.ancestors.iter().cloned())
            .take(ANCESTORS)
            .collect()
    }

    pub(super) fn child_of(&mut self, parent: ProcessKey, image: Option<Arc<Image>>) -> Entry {
        // Known by now, if it can be.
        let user_namespace = self.load_known(parent).and_then(|entry| {
            let by_image = entry
                .images
                .back()
                .and_then(|(image, _)| image.executable(Duration::ZERO).1);
            by_image.or(entry.user_namespace)
        });
        Entry {
            parent: (parent.pid != 0).then_some(parent.pid),
            ancestors: if parent.pid == 0 {
                Arc::new([])
            } else {
                self.line_from(parent)
            },
            images: image
                .map(|image| (image, IdentitySource::Fork))
                .into_iter()
                .collect(),
            user_namespace,
            ended: 0,
            cached: None,
        }
    }

    pub(super) fn insert(&mut self, key: ProcessKey, entry: Entry) {
        if let Some(before) = self.pids.insert(key.pid, key)
            && before != key
        {
            // Its end was not told, or it is out of scope.
            self.end(before, key.start);
            self.pids.insert(key.pid, key);
        }
        if let Some((gone, _)) = self.running.push(key, entry)
            && gone != key
        {
            self.counters.evicted += 1;
            self.pids.remove(&gone.pid);
        }
    }

    pub(super) fn end(&mut self, key: ProcessKey, time: Nanos) {
        self.find(key);
        let grace = u64::try_from(self.options.grace.as_nanos()).unwrap_or(u64::MAX);
        while let Some((_, entry)) = self.ended.peek_lru()
            && entry.ended.saturating_add(grace) < time
        {
            self.ended.pop_lru();
        }
        if let Some(mut entry) = self.running.pop(&key) {
            self.pids.remove(&key.pid);
            entry.ended = time;
            if let Some((gone, _)) = self.ended.push(key, entry)
                && gone != key
            {
                self.counters.ended_evicted += 1;
            }
        }
    }
}
