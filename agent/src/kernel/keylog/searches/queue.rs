//! Who is served next: files that wait to be opened or searched, by owner.
//!
//! Owners take turns. Of one owner's files the smallest is next; those that are not open yet come first, since only then
//! their size is known. Each owner may have [`Shares::bytes_per_second`] searched, with as much in reserve as comes in a few
//! seconds: who is over it is served when nobody else waits. And an owner has at most some jobs under way, so that a
//! free thread is left for the others; what takes longer than [`STALL`] does not count for that, up to another bound:
//! it may be hanging on a server of theirs that is dead, which must not hold their other files.
//!
//! Invariant: bounded by owner and in all; what does not fit is given back with the bound that it met.

use super::super::process::{Lane, pool::STALL};
use super::Full;
use crate::kernel::owner::Owner;
use std::collections::{BTreeMap, HashMap, VecDeque};
use std::time::{Duration, Instant};

/// Bounds and shares. One set of them, in [`Shares::default`]; tests use others.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Shares {
    /// Jobs that may wait, of one owner and in all.
    pub waiting_of_owner: usize,
    pub waiting: usize,
    /// Files that wait opened, of one owner and in all.
    pub open_of_owner: usize,
    pub open: usize,
    /// Jobs under way in one lane of one owner: those of less than [`STALL`], and all.
    pub fresh_of_owner: usize,
    pub running_of_owner: usize,
    pub bytes_per_second: u64,
    pub seconds_in_reserve: u64,
}

impl Default for Shares {
    fn default() -> Self {
        Self {
            waiting_of_owner: 2_048,
            waiting: 16_384,
            open_of_owner: 32,
            open: 256,
            fresh_of_owner: 2,
            running_of_owner: 8,
            bytes_per_second: 64 << 20,
            seconds_in_reserve: 8,
        }
    }
}

/// A job's number while it is under way.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Ticket(u64);

/// What a job may cost is said when it is put in: 0 for one that is not open yet.
#[derive(Debug)]
struct OfOwner<J> {
    waiting: BTreeMap<(Lane, u64, u64), J>,
    open: usize,
    running: Vec<(Ticket, Lane, Instant)>,
    /// Bytes that it may have searched, below 0 what it had too much.
    balance: i64,
    reckoned: Instant,
}

#[derive(Debug)]
pub struct Queue<J> {
    shares: Shares,
    owners: HashMap<Owner, OfOwner<J>>,
    /// Whose turn is next.
    turns: VecDeque<Owner>,
    waiting: usize,
    open: usize,
    next: u64,
}

/// A job taken out.
#[derive(Debug)]
pub struct Taken<J> {
    pub owner: Owner,
    pub ticket: Ticket,
    pub job: J,
}

impl<J> Queue<J> {
    pub fn new(shares: Shares) -> Self {
        Self {
            shares,
            owners: HashMap::new(),
            turns: VecDeque::new(),
            waiting: 0,
            open: 0,
            next: 0,
        }
    }

    pub fn waiting(&self) -> usize {
        self.waiting
    }

    /// Puts in a file that is not open yet.
    pub fn push(
        &mut self,
        owner: &Owner,
        lane: Lane,
        job: J,
        now: Instant,
    ) -> Result<(), (Full, J)> {
        let of_owner = self
            .owners
            .get(owner)
            .map_or(0, |of_owner| of_owner.waiting.len());
        if of_owner >= self.shares.waiting_of_owner {
            return Err((Full::Owner, job));
        }
        if self.waiting >= self.shares.waiting {
            return Err((Full::All, job));
        }
        self.put(owner, lane, 0, job, now);
        Ok(())
    }

    /// Puts in a file that was opened, in the place of the job that opened it; `size` is at least 1.
    pub fn push_open(&mut self, owner: &Owner, lane: Lane, size: u64, job: J, now: Instant) {
        self.put(owner, lane, size.max(1), job, now);
        self.open += 1;
        if let Some(of_owner) = self.owners.get_mut(owner) {
            of_owner.open += 1;
        }
    }

    fn put(&mut self, owner: &Owner, lane: Lane, size: u64, job: J, now: Instant) {
        self.next += 1;
        let number = self.next;
        let reserve = self.reserve();
        let of_owner = self.owners.entry(owner.clone()).or_insert_with(|| OfOwner {
            waiting: BTreeMap::new(),
            open: 0,
            running: Vec::new(),
            balance: reserve,
            reckoned: now,
        });
        if of_owner.waiting.is_empty() {
            self.turns.push_back(owner.clone());
        }
        of_owner.waiting.insert((lane, size, number), job);
        self.waiting += 1;
    }

    /// The next job of a lane that may be done now.
    pub fn next(&mut self, lane: Lane, now: Instant) -> Option<Taken<J>> {
        let (turn, key) = self.choose(lane, now)?;
        let owner = self.turns.remove(turn)?;
        self.next += 1;
        let ticket = Ticket(self.next);
        let per_second = self.shares.bytes_per_second;
        let reserve = self.reserve();
        let of_owner = self.owners.get_mut(&owner)?;
        let job = of_owner.waiting.remove(&key)?;
        self.waiting -= 1;
        of_owner.balance = of_owner.balance_at(now, per_second, reserve);
        of_owner.reckoned = now;
        let (_, size, _) = key;
        if size > 0 {
            self.open -= 1;
            of_owner.open -= 1;
            let cost = i64::try_from(size).unwrap_or(i64::MAX);
            of_owner.balance = of_owner.balance.saturating_sub(cost);
        }
        of_owner.running.push((ticket, lane, now));
        if !of_owner.waiting.is_empty() {
            self.turns.push_back(owner.clone());
        }
        Some(Taken { owner, ticket, job })
    }

    /// Whether [`next`](Self::next) would give one.
    pub fn waits(&self, lane: Lane, now: Instant) -> bool {
        self.choose(lane, now).is_some()
    }

    /// A job that was taken is done.
    pub fn done(&mut self, owner: &Owner, ticket: Ticket, now: Instant) {
        let (per_second, reserve) = (self.shares.bytes_per_second, self.reserve());
        if let Some(of_owner) = self.owners.get_mut(owner) {
            of_owner.running.retain(|(known, ..)| *known != ticket);
        }
        // Who has nothing here and owes nothing need not be known.
        if self.owners.len() > 1024 {
            self.owners.retain(|_, of_owner| {
                !of_owner.waiting.is_empty()
                    || !of_owner.running.is_empty()
                    || of_owner.balance_at(now, per_second, reserve) < reserve
            });
        }
    }

    fn reserve(&self) -> i64 {
        let bytes = self.shares.bytes_per_second * self.shares.seconds_in_reserve;
        i64::try_from(bytes).unwrap_or(i64::MAX)
    }

    /// Place in the turns, and which of its jobs.
    fn choose(&self, lane: Lane, now: Instant) -> Option<(usize, (Lane, u64, u64))> {
        let mut over = None;
        for (turn, owner) in self.turns.iter().enumerate() {
            let Some(of_owner) = self.owners.get(owner) else {
                continue;
            };
            let Some(key) = self.of_owner(of_owner, lane, now) else {
                continue;
            };
            let (per_second, reserve) = (self.shares.bytes_per_second, self.reserve());
            if of_owner.balance_at(now, per_second, reserve) > 0 {
                return Some((turn, key));
            }
            over = over.or(Some((turn, key)));
        }
        over
    }

    fn of_owner(
        &self,
        of_owner: &OfOwner<J>,
        lane: Lane,
        now: Instant,
    ) -> Option<(Lane, u64, u64)> {
        let running = of_owner.running.iter().filter(|(_, of, _)| *of == lane);
        let (mut all, mut fresh) = (0, 0);
        for (_, _, since) in running {
            all += 1;
            fresh += usize::from(now.saturating_duration_since(*since) < STALL);
        }
        if all >= self.shares.running_of_owner || fresh >= self.shares.fresh_of_owner {
            return None;
        }
        let room = of_owner.open < self.shares.open_of_owner && self.open < self.shares.open;
        let first = if room { 0 } else { 1 };
        let range = (lane, first, 0)..=(lane, u64::MAX, u64::MAX);
        of_owner.waiting.range(range).next().map(|(key, _)| *key)
    }
}

impl<J> OfOwner<J> {
    fn balance_at(&self, now: Instant, per_second: u64, most: i64) -> i64 {
        let passed = now.saturating_duration_since(self.reckoned);
        let gained = passed
            .as_secs_f64()
            .min(Duration::from_secs(3600).as_secs_f64())
            * per_second as f64;
        self.balance.saturating_add(gained as i64).min(most)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SHARES: Shares = Shares {
        waiting_of_owner: 40,
        waiting: 60,
        open_of_owner: 8,
        open: 12,
        fresh_of_owner: 1,
        running_of_owner: 3,
        bytes_per_second: 100,
        seconds_in_reserve: 10,
    };

    fn owner(name: &str) -> Owner {
        Owner::named(name)
    }

    /// The names of the next jobs, each done at once.
    fn served(queue: &mut Queue<&'static str>, now: Instant) -> Vec<&'static str> {
        std::iter::from_fn(|| {
            let taken = queue.next(Lane::Prompt, now)?;
            queue.done(&taken.owner, taken.ticket, now);
            Some(taken.job)
        })
        .collect()
    }

    #[test]
    fn owners_take_turns_and_small_files_go_first() {
        let mut queue = Queue::new(SHARES);
        let now = Instant::now();
        for (name, size, job) in [
            ("a", 30, "a30"),
            ("a", 10, "a10"),
            ("a", 20, "a20"),
            ("b", 500, "b500"),
            ("c", 5, "c5"),
        ] {
            queue.push_open(&owner(name), Lane::Prompt, size, job, now);
        }
        queue
            .push(&owner("c"), Lane::Prompt, "c not open", now)
            .unwrap();
        let expected = ["a10", "b500", "c not open", "a20", "c5", "a30"];
        assert_eq!(served(&mut queue, now), expected);
        assert_eq!(queue.waiting(), 0);
    }

    /// One owner's many large files hold nobody else: 40 files of 1 GB, and another's of 8 MB.
    #[test]
    fn who_is_over_the_budget_waits_for_the_others() {
        let mut queue = Queue::new(SHARES);
        let mut now = Instant::now();
        for job in ["x1", "x2", "x3", "x4"] {
            queue.push_open(&owner("x"), Lane::Prompt, 900, job, now);
        }
        // It has 1,000 in reserve: after two it owes.
        for expected in ["x1", "x2"] {
            let taken = queue.next(Lane::Prompt, now).unwrap();
            queue.done(&taken.owner, taken.ticket, now);
            assert_eq!(taken.job, expected);
        }
        for job in ["y1", "y2", "y3"] {
            queue.push_open(&owner("y"), Lane::Prompt, 8, job, now);
        }
        assert_eq!(served(&mut queue, now), ["y1", "y2", "y3", "x3", "x4"]);
        // It owes 2,600, and pays 100 a second.
        queue.push_open(&owner("x"), Lane::Prompt, 1, "x5", now);
        queue.push_open(&owner("y"), Lane::Prompt, 1, "y4", now);
        assert_eq!(served(&mut queue, now), ["y4", "x5"]);
        now += Duration::from_secs(30);
        queue.push_open(&owner("x"), Lane::Prompt, 1, "x6", now);
        queue.push_open(&owner("y"), Lane::Prompt, 1, "y5", now);
        assert_eq!(served(&mut queue, now), ["x6", "y5"]);
    }

    #[test]
    fn an_owner_has_a_bounded_share_of_the_threads() {
        let mut queue = Queue::new(SHARES);
        let mut now = Instant::now();
        for job in ["1", "2", "3", "4", "5"] {
            queue.push_open(&owner("hangs"), Lane::Prompt, 1, job, now);
        }
        queue.push_open(&owner("other"), Lane::Prompt, 1, "other", now);
        let first = queue.next(Lane::Prompt, now).unwrap();
        assert_eq!(queue.next(Lane::Prompt, now).unwrap().job, "other");
        assert!(!queue.waits(Lane::Prompt, now));
        // What hangs is not counted any more, up to a bound.
        for expected in ["2", "3"] {
            now += STALL;
            assert_eq!(queue.next(Lane::Prompt, now).unwrap().job, expected);
            assert!(queue.next(Lane::Prompt, now).is_none());
        }
        now += STALL;
        assert!(!queue.waits(Lane::Prompt, now));
        queue.done(&first.owner, first.ticket, now);
        assert_eq!(queue.next(Lane::Prompt, now).unwrap().job, "4");
        // Other lanes are counted for themselves.
        queue.push_open(&owner("hangs"), Lane::Ahead, 1, "ahead", now);
        assert_eq!(queue.next(Lane::Ahead, now).unwrap().job, "ahead");
    }

    #[test]
    fn what_does_not_fit_is_given_back() {
        let mut queue = Queue::new(SHARES);
        let now = Instant::now();
        for _ in 0..SHARES.waiting_of_owner {
            queue.push(&owner("a"), Lane::Prompt, "x", now).unwrap();
        }
        assert_eq!(
            queue.push(&owner("a"), Lane::Prompt, "y", now),
            Err((Full::Owner, "y"))
        );
        for _ in SHARES.waiting_of_owner..SHARES.waiting {
            queue.push(&owner("b"), Lane::Prompt, "x", now).unwrap();
        }
        assert_eq!(
            queue.push(&owner("c"), Lane::Prompt, "z", now),
            Err((Full::All, "z"))
        );
        assert_eq!(queue.waiting(), SHARES.waiting);
    }

    /// Files wait closed while enough wait opened.
    #[test]
    fn open_files_are_bounded() {
        let mut queue = Queue::new(SHARES);
        let now = Instant::now();
        for _ in 0..SHARES.open_of_owner {
            queue.push_open(&owner("a"), Lane::Prompt, 7, "open", now);
        }
        queue
            .push(&owner("a"), Lane::Prompt, "closed", now)
            .unwrap();
        assert_eq!(queue.next(Lane::Prompt, now).unwrap().job, "open");
    }

    #[test]
    fn owners_are_forgotten_when_they_owe_nothing() {
        let mut queue = Queue::new(SHARES);
        let now = Instant::now();
        for number in 0..5000 {
            queue.push_open(&owner(&number.to_string()), Lane::Prompt, 1, "x", now);
            let taken = queue.next(Lane::Prompt, now).unwrap();
            queue.done(&taken.owner, taken.ticket, now + Duration::from_secs(60));
        }
        assert!(queue.owners.len() <= 1025, "{}", queue.owners.len());
    }
}
