//! What a loader's threads share: the queues, and who sleeps.

use std::collections::VecDeque;
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};

use super::counters::Counters;
use super::options::LoaderOptions;
use super::order::{self, Ended, Order, Payload};
use super::planned::{Planned, Reads};
use super::queues::Queues;
use super::slots::Slot;
use super::threads::Threads;
use crate::plan::job::Job;
use crate::storage::file::pread::copiers;
use crate::storage::file::wake::WakeFd;
use crate::transfer::{DataPath, Priority, TransferError, Valid};

/// The most reads that wait for their fingerprints. Beyond that, who has read takes them.
const CHECKS_MAX: usize = 256;

/// The most threads that read one piece at a time past the page cache, into a peer's memory or where there is no io_uring.
const READERS_MAX: usize = 16;

/// What a loader's threads share.
#[derive(Debug)]
pub(super) struct Shared {
    pub(super) options: LoaderOptions,
    pub(super) counters: Counters,
    /// Wakes the ring.
    pub(super) wake: Arc<WakeFd>,
    state: Mutex<State>,
    /// The queues may take requests again.
    space: Condvar,
    /// There is work for a worker.
    work: Condvar,
    /// There is something for a copier.
    arrived: Condvar,
    threads: Threads,
    copiers: Threads,
    /// What a worker does.
    worker: fn(&Arc<Self>),
    /// A thread of the program's drives the ring.
    is_driven: bool,
}

#[derive(Debug, Default)]
struct State {
    direct: Queues<Waiting>,
    for_workers: Queues<Waiting>,
    checks: VecDeque<Taken>,
    /// Reads whose pages are to be made ready by a worker.
    lacking_pages: VecDeque<Taken>,
    /// Those whose pages are ready, for the ring.
    ready: VecDeque<Taken>,
    /// How many are between the two.
    preparing: usize,
    /// What there is for copiers, by their number.
    arrived: Vec<VecDeque<Arrived>>,
    /// The bytes that are with the drive, by priority.
    in_flight: [u64; 4],
    ring: Ring,
    /// There is no ring: workers read.
    no_ring: bool,
    workers: usize,
    /// How many of them copy at most: found out once, because the kernel is asked for it by files.
    copiers: usize,
    /// The workers that wait for work.
    idle: usize,
    /// The threads that wait to submit.
    blocked: usize,
    closing: bool,
    /// Who may still bring reads for the copiers: the loader with its threads, and its driver. They end with the last.
    bringing: u32,
}

/// What the ring's thread does.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
enum Ring {
    /// It has taken reads, and looks into the queues again before it waits.
    #[default]
    Awake,
    /// It waits for one of many reads, of which the first will be back soon: nobody but who is urgent need wake it.
    Busy,
    /// It waits, and has little to wait for.
    Idle,
}

/// Reads of an order that are not begun.
#[derive(Debug)]
struct Waiting {
    order: Arc<Order>,
    reads: Reads,
}

/// A read that is begun.
#[derive(Debug)]
pub(super) struct Taken {
    pub(super) order: Arc<Order>,
    pub(super) payload: Arc<Payload>,
    pub(super) job: Job,
    /// Nobody need ask any more whether its pages are present.
    pub(super) prepared: bool,
}

/// What a copier is given.
#[derive(Debug)]
pub(super) enum Arrived {
    /// A read whose bytes are in a slot that its device copies out of.
    Read(Taken, Arc<Slot>),
    /// A request of which nothing is left to be done but to end the copies.
    Ended(Ended),
}

/// What a worker does next.
pub(super) enum Task {
    /// Read it.
    Read(Taken),
    /// It was read: take its fingerprints.
    Check(Taken),
    /// Make the pages ready that it will fill.
    Prepare(Taken),
}

/// What the ring finds in the queues.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Found {
    /// Something, or nothing for the moment.
    Open,
    /// Nothing, and nothing will come.
    Closed,
    /// Nothing: the rest is read by workers.
    Lost,
}

impl State {
    fn waiting(&self) -> usize {
        self.direct.len() + self.for_workers.len()
    }

    /// How many workers there may be, for what the processor copies.
    const fn workers_max(&self) -> usize {
        if self.no_ring { READERS_MAX } else { self.copiers }
    }

    /// Takes the next read past the page cache, if what is with the drive allows one.
    fn take_direct(&mut self, options: &LoaderOptions) -> Option<Taken> {
        let Self { direct, in_flight, .. } = self;
        let all: u64 = in_flight.iter().sum();
        let low = in_flight[Priority::Low.index()];
        let taken = take(direct, |priority, len| match priority {
            Priority::Realtime => true,
            Priority::Low if low > 0 && low + len > options.background => false,
            _ => all == 0 || all + len <= options.in_flight,
        })?;
        in_flight[taken.order.priority.index()] += taken.job.piece.len;
        Some(taken)
    }
}

/// Takes the next read whose priority and length `may` go.
fn take(queues: &mut Queues<Waiting>, may: impl Fn(Priority, u64) -> bool) -> Option<Taken> {
    loop {
        let lens = Priority::ALL
            .map(|priority| queues.first(priority).map_or(0, |first| first.reads.next_len()));
        let priority = queues.next(|priority| may(priority, lens[priority.index()]))?;
        let first = queues.first(priority)?;
        let (job, last) = first.reads.take()?;
        let begun = first.order.begin(last);
        let order = Arc::clone(&first.order);
        if last || begun.is_none() {
            queues.pop(priority);
        }
        let Some(payload) = begun else { continue };
        queues.charge(priority, job.piece.len);
        return Some(Taken { order, payload, job, prepared: false });
    }
}

impl Shared {
    pub(super) fn new(
        options: LoaderOptions,
        wake: WakeFd,
        worker: fn(&Arc<Self>),
        is_driven: bool,
    ) -> Self {
        let wake = Arc::new(wake);
        Self {
            options,
            counters: Counters::default(),
            wake,
            state: Mutex::new(State {
                copiers: copiers(usize::MAX),
                bringing: 1 + u32::from(is_driven),
                ..State::default()
            }),
            space: Condvar::new(),
            work: Condvar::new(),
            arrived: Condvar::new(),
            threads: Threads::default(),
            copiers: Threads::default(),
            worker,
            is_driven,
        }
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Whether the queues take another request.
    pub(super) fn has_space(&self) -> bool {
        self.state().waiting() < self.options.waiting
    }

    /// Whether nothing waits that a new request would overtake.
    pub(super) fn is_idle(&self) -> bool {
        let state = self.state();
        state.direct.is_empty() && state.in_flight.iter().sum::<u64>() < self.options.in_flight
    }

    /// Puts the reads of orders into the queues. Waits while they are full.
    pub(super) fn push(self: &Arc<Self>, orders: impl IntoIterator<Item = (Arc<Order>, Planned)>) {
        let mut nothing_to_do = Vec::new();
        let mut calls = 0;
        let mut state = self.state();
        for (order, Planned { direct, for_workers, .. }) in orders {
            self.counters.submitted();
            while state.waiting() >= self.options.waiting {
                self.begin(state, std::mem::take(&mut calls));
                state = self.state();
                if state.waiting() >= self.options.waiting {
                    state.blocked += 1;
                    state = self.space.wait(state).unwrap_or_else(PoisonError::into_inner);
                    state.blocked -= 1;
                }
            }
            if direct.is_none() && for_workers.is_none() {
                nothing_to_do.push(Ended::at_once(&order));
            }
            calls += usize::from(for_workers.is_some() || state.no_ring);
            let waiting = |reads| Waiting { order: Arc::clone(&order), reads };
            if let Some(reads) = direct {
                state.direct.push(order.priority, waiting(reads));
            }
            if let Some(reads) = for_workers {
                state.for_workers.push(order.priority, waiting(reads));
            }
        }
        self.begin(state, calls);
        if !nothing_to_do.is_empty() {
            self.conclude(nothing_to_do);
        }
    }

    /// Wakes who does what has been put into the queues.
    fn begin<'s>(self: &'s Arc<Self>, mut state: MutexGuard<'s, State>, calls: usize) {
        let wake = match state.ring {
            Ring::Awake => false,
            Ring::Busy => state.direct.first(Priority::Realtime).is_some(),
            Ring::Idle => !state.direct.is_empty(),
        };
        if wake {
            state.ring = Ring::Awake;
        }
        let most = state.workers_max();
        for _ in 0..calls.min(most) {
            self.call_worker(state, most);
            state = self.state();
        }
        drop(state);
        if wake {
            self.wake.wake();
        }
    }

    /// Wakes a worker, or has one more if there are not as many as `most`.
    fn call_worker(self: &Arc<Self>, mut state: MutexGuard<'_, State>, most: usize) {
        if state.idle > 0 {
            drop(state);
            return self.work.notify_one();
        }
        if state.workers >= most || state.closing {
            return;
        }
        state.workers += 1;
        drop(state);
        // Where no more threads can be started, those that there are do the work.
        if !self.start("bufmap-worker", self.worker) {
            self.state().workers -= 1;
        }
    }

    /// Starts a thread of the loader's.
    pub(super) fn start(self: &Arc<Self>, name: &str, work: fn(&Arc<Self>)) -> bool {
        let shared = Arc::clone(self);
        self.threads.start(name, move |_| work(&shared)).is_ok()
    }

    /// Starts a thread that has a device copy what arrives for it. Returns its number.
    ///
    /// # Errors
    /// [`TransferError::Engine`] if no thread can be started.
    pub(super) fn start_copier(
        self: &Arc<Self>,
        name: &str,
        work: impl FnOnce(&Arc<Self>, usize) + Send + 'static,
    ) -> Result<usize, TransferError> {
        let shared = Arc::clone(self);
        let step = "starting a thread of the loader";
        let failed = |source| TransferError::Engine { step, source, valid: Valid::default() };
        let started = self.copiers.start(name, move |number| work(&shared, number));
        let number = started.map_err(failed)?;
        self.state().arrived.resize_with(number + 1, VecDeque::new);
        Ok(number)
    }

    /// Leaves something to a copier, if copiers take more.
    pub(super) fn arrive(&self, copier: usize, arrived: Arrived) -> Result<(), Arrived> {
        let mut state = self.state();
        let ends = state.bringing == 0;
        match state.arrived.get_mut(copier).filter(|_| !ends) {
            Some(waiting) => waiting.push_back(arrived),
            None => return Err(arrived),
        }
        drop(state);
        self.arrived.notify_all();
        Ok(())
    }

    /// What has arrived for a copier, which waits for something if it has nothing else to do. Nothing, if nothing will
    /// come any more.
    pub(super) fn take_arrived(&self, copier: usize, wait: bool) -> Option<Vec<Arrived>> {
        let mut state = self.state();
        loop {
            let arrived = state.arrived.get_mut(copier).map(std::mem::take).unwrap_or_default();
            if !arrived.is_empty() || !wait {
                return Some(arrived.into());
            }
            if state.bringing == 0 {
                return None;
            }
            state = self.arrived.wait(state).unwrap_or_else(PoisonError::into_inner);
        }
    }

    /// Starts the worker that a loader has at least.
    pub(super) fn start_worker(self: &Arc<Self>) -> bool {
        self.state().workers += 1;
        self.start("bufmap-worker", self.worker)
    }

    /// Takes reads past the page cache for a ring that has `in_flight` of them, after `done` bytes of each priority have
    /// come back.
    pub(super) fn take_direct(
        &self,
        in_flight: usize,
        done: &mut [u64; 4],
        taken: &mut VecDeque<Taken>,
    ) -> Found {
        let mut state = self.state();
        if state.no_ring {
            return Found::Lost;
        }
        for (in_flight, done) in state.in_flight.iter_mut().zip(done) {
            *in_flight = in_flight.saturating_sub(std::mem::take(done));
        }
        let depth = self.options.depth as usize;
        let ready = state.ready.len().min(depth.saturating_sub(in_flight));
        taken.extend(state.ready.drain(..ready));
        let preparing = state.lacking_pages.len() + state.preparing + state.ready.len();
        while in_flight + preparing + taken.len() < depth
            && let Some(next) = state.take_direct(&self.options)
        {
            taken.push_back(next);
        }
        state.ring = match taken.is_empty() {
            false => Ring::Awake,
            true if in_flight > depth / 2 => Ring::Busy,
            true => Ring::Idle,
        };
        let space = state.blocked > 0 && state.waiting() < self.options.waiting;
        let coming = state.preparing > 0 || !state.lacking_pages.is_empty();
        let closed = state.closing && taken.is_empty() && !coming;
        drop(state);
        if space {
            self.space.notify_all();
        }
        if closed { Found::Closed } else { Found::Open }
    }

    /// The ring's thread does something else, and looks into the queues before it waits. Returns how many requests wait for it.
    pub(super) fn leave_ring(&self) -> usize {
        let mut state = self.state();
        state.ring = Ring::Awake;
        state.direct.len()
    }

    /// Waits for something to do. Nothing, when the loader closes.
    pub(super) fn take_task(self: &Arc<Self>) -> Option<Task> {
        let mut state = self.state();
        loop {
            if let Some(check) = state.checks.pop_front() {
                return Some(Task::Check(check));
            }
            if let Some(lacking) = state.lacking_pages.pop_front() {
                state.preparing += 1;
                return Some(Task::Prepare(lacking));
            }
            let mut read = take(&mut state.for_workers, |_, _| true);
            if read.is_none() && state.no_ring {
                let ready = state.ready.pop_front();
                read = ready.or_else(|| take(&mut state.direct, |_, _| true));
            }
            if let Some(read) = read {
                let space = state.blocked > 0 && state.waiting() < self.options.waiting;
                let most = match read.job.path {
                    DataPath::Peer => READERS_MAX,
                    _ => state.workers_max(),
                };
                if !state.for_workers.is_empty() || (state.no_ring && !state.direct.is_empty()) {
                    self.call_worker(state, most);
                } else {
                    drop(state);
                }
                if space {
                    self.space.notify_all();
                }
                return Some(Task::Read(read));
            }
            if state.closing {
                return None;
            }
            state.idle += 1;
            state = self.work.wait(state).unwrap_or_else(PoisonError::into_inner);
            state.idle -= 1;
        }
    }

    /// Leaves the fingerprints of a read to a worker, if there are not too many already and workers do not end.
    pub(super) fn check(self: &Arc<Self>, read: Taken) -> Result<(), Taken> {
        let mut state = self.state();
        if state.checks.len() >= CHECKS_MAX || state.closing {
            return Err(read);
        }
        state.checks.push_back(read);
        let most = state.workers_max();
        self.call_worker(state, most);
        Ok(())
    }

    /// Has a worker make ready the pages of a read, if workers do not end.
    pub(super) fn prepare(self: &Arc<Self>, read: Taken) -> Result<(), Taken> {
        let mut state = self.state();
        if state.closing {
            return Err(read);
        }
        state.lacking_pages.push_back(read);
        let most = state.workers_max();
        self.call_worker(state, most);
        Ok(())
    }

    /// The pages of a read are ready, or cannot be made so: it goes back to the ring.
    pub(super) fn prepared(self: &Arc<Self>, read: Taken) {
        let mut state = self.state();
        state.preparing -= 1;
        state.ready.push_back(read);
        let wake = std::mem::take(&mut state.ring) != Ring::Awake;
        if state.no_ring {
            return self.call_worker(state, READERS_MAX);
        }
        drop(state);
        if wake {
            self.wake.wake();
        }
    }

    /// There is no ring, or no more: workers read.
    pub(super) fn lose_ring(self: &Arc<Self>) {
        let mut state = self.state();
        state.no_ring = true;
        state.in_flight = [0; 4];
        for _ in 0..(state.direct.len() + state.ready.len()).min(READERS_MAX) {
            self.call_worker(state, READERS_MAX);
            state = self.state();
        }
    }

    /// Whether the loader closes: its workers end.
    pub(super) fn is_closing(&self) -> bool {
        self.state().closing
    }

    /// Ends an order, unless it is done.
    pub(super) fn cancel(&self, order: &Arc<Order>) {
        if let Some(ended) = order.cancel() {
            self.forget_ended();
            self.conclude_elsewhere([ended]);
        }
    }

    /// Ends the orders with a tag that wait, or of which something does. How many.
    pub(super) fn cancel_tag(&self, tag: u64) -> usize {
        let mut orders = Vec::new();
        let mut state = self.state();
        let State { direct, for_workers, .. } = &mut *state;
        for queues in [direct, for_workers] {
            queues.retain(|waiting| {
                let goes = waiting.order.tag == tag;
                if goes {
                    orders.push(Arc::clone(&waiting.order));
                }
                !goes
            });
        }
        drop(state);
        self.end_all(orders)
    }

    /// Ends the loader: nothing more is begun, and what waits is answered.
    pub(super) fn close(&self) {
        let mut orders = Vec::new();
        let mut state = self.state();
        state.closing = true;
        let State { direct, for_workers, .. } = &mut *state;
        for queues in [direct, for_workers] {
            for priority in Priority::ALL {
                while let Some(waiting) = queues.pop(priority) {
                    orders.push(waiting.order);
                }
            }
        }
        drop(state);
        self.end_all(orders);
        self.wake.wake();
        self.work.notify_all();
        self.threads.join();
        self.brings_no_more();
    }

    /// The loader with its threads, or its driver, brings nothing more for the copiers. The last waits until they have ended.
    pub(super) fn brings_no_more(&self) {
        let mut state = self.state();
        state.bringing -= 1;
        let is_last = state.bringing == 0;
        drop(state);
        if is_last {
            self.arrived.notify_all();
            self.copiers.join();
        }
    }

    fn end_all(&self, orders: Vec<Arc<Order>>) -> usize {
        let mut count = 0;
        let mut ended = Vec::new();
        for order in orders.into_iter().filter(|order| !order.has_ended()) {
            count += 1;
            ended.extend(order.cancel());
        }
        self.space.notify_all();
        self.conclude_elsewhere(ended);
        count
    }

    /// Takes what has ended out of the queues.
    fn forget_ended(&self) {
        let mut state = self.state();
        let stays = |waiting: &Waiting| !waiting.order.has_ended();
        state.direct.retain(stays);
        state.for_workers.retain(stays);
        let space = state.blocked > 0;
        drop(state);
        if space {
            self.space.notify_all();
        }
    }

    /// Concludes orders on a thread that does not drive the ring: the one that does may wait for their outcome.
    pub(super) fn conclude_elsewhere(&self, ended: impl IntoIterator<Item = Ended>) {
        self.conclude(ended);
        self.wake_driver();
    }

    fn wake_driver(&self) {
        if self.is_driven {
            self.wake.wake();
        }
    }

    /// Concludes orders of which nothing is left to be done: answers them, those that a device copies for when its thread has
    /// ended the copies.
    pub(super) fn conclude(&self, ended: impl IntoIterator<Item = Ended>) {
        let to_answer = ended.into_iter().filter_map(|ended| match ended.copier() {
            Some(copier) => match self.arrive(copier, Arrived::Ended(ended)) {
                Err(Arrived::Ended(ended)) => Some(ended),
                _ => None,
            },
            None => Some(ended),
        });
        order::conclude(to_answer, &self.counters);
    }

    /// Answers orders whose copies a copier has ended.
    pub(super) fn answer_copied(&self, ended: impl IntoIterator<Item = Ended>) {
        order::conclude(ended, &self.counters);
        self.wake_driver();
    }
}
