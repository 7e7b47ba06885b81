//! A request that a loader has taken on: what landed of it, and who waits for its outcome.
//!
//! Its reads lie in queues and with the drive; each that begins holds its [`Payload`], the file and the buffer. When the
//! last is done and nothing is left to begin, or something has ended it early, it is concluded: checked, and
//! answered. By then nobody of the loader's holds the buffer any more.

use std::error::Error;
use std::io;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::Waker;
use std::time::Instant;

use exporters::SyncFile;
use exporters::upload::UploadError;
use smallvec::SmallVec;

use super::buffer::Buffer;
use super::completions::{Completed, Inbox};
use super::counters::Counters;
use super::file::{File, Remembered};
use super::outcome::{Fence, Landed, Outcome};
use super::planned::Planned;
use super::request::Request;
use super::slots::Staging;
use crate::check::{self, Fingerprints, Part, Parts};
use crate::plan::job::Job;
use crate::plan::requested::Requested;
use crate::traced::Traced;
use crate::transfer::{self, Priority, Readable, StepDown, TransferError, Valid};

/// What a request moves: kept by each of its reads, and given back by the last.
#[derive(Debug)]
pub(super) struct Payload {
    pub(super) file: File,
    pub(super) buffer: Buffer,
    ranges: SmallVec<[transfer::Request; 1]>,
    /// The ranges by their place in the buffer, if there are several.
    by_buffer: Vec<usize>,
    fingerprints: bool,
    /// The outcome need not wait for a device's copies.
    pub(super) fenced: bool,
    /// The slots that its reads land in, if a device's queue copies them into the buffer.
    pub(super) staging: Option<Arc<Staging>>,
    /// The path is the program's choice, and no other stands in for it.
    pub(super) required: bool,
}

/// A request that a loader has taken on.
#[derive(Debug)]
pub(super) struct Order {
    pub(super) priority: Priority,
    pub(super) tag: u64,
    /// The number of the thread that has a device copy what is read of it, if one does.
    copier: Option<usize>,
    to: Option<Arc<Inbox>>,
    submitted: Instant,
    traced: Traced,
    /// Something has ended it: nothing more of it is begun.
    ended: AtomicBool,
    state: Mutex<State>,
}

#[derive(Debug)]
struct State {
    payload: Option<Arc<Payload>>,
    /// The queues in which it has reads that are not begun.
    queued: u32,
    /// The reads that are begun and not done.
    begun: u32,
    landed: Landed,
    /// Where the bytes are that have landed, unless it is all of them: then nobody asks.
    valid: Valid,
    parts: Parts,
    end: Option<TransferError>,
    outcome: Option<Outcome>,
    /// The outcome is known, or was.
    answered: bool,
    waker: Option<Waker>,
}

/// An order of which nothing is left to be done but to conclude it.
#[derive(Debug)]
#[must_use]
pub(super) struct Ended(Arc<Order>);

impl Order {
    pub(super) fn new(
        request: Request,
        planned: &mut Planned,
        to: Option<Arc<Inbox>>,
    ) -> Arc<Self> {
        let (step_downs, queued) = (std::mem::take(&mut planned.step_downs), planned.queues());
        let valid = Valid::none_of(request.bytes());
        let (priority, tag) = (request.priority, request.tag);
        let traced = Traced::request(priority, tag, request.bytes());
        traced.stepped_down(&step_downs);
        let mut payload = Payload::of(request);
        payload.staging = planned.staging.take();
        let copier = payload.staging.as_ref().map(|staging| staging.copier);
        let payload = Some(Arc::new(payload));
        let landed = Landed { step_downs, ..Landed::default() };
        Arc::new(Self {
            priority,
            tag,
            copier,
            to,
            submitted: Instant::now(),
            traced,
            ended: AtomicBool::new(false),
            state: Mutex::new(State {
                payload,
                queued,
                begun: 0,
                landed,
                valid,
                parts: Parts::default(),
                end: None,
                outcome: None,
                answered: false,
                waker: None,
            }),
        })
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Whether something has ended it early.
    pub(super) fn has_ended(&self) -> bool {
        self.ended.load(Ordering::Relaxed)
    }

    /// A read of it begins, the `last` of its queue or not. Nothing, if it has ended.
    pub(super) fn begin(&self, last: bool) -> Option<Arc<Payload>> {
        let mut state = self.state();
        if state.end.is_some() {
            return None;
        }
        let payload = state.payload.clone()?;
        state.begun += 1;
        state.queued -= u32::from(last);
        Some(payload)
    }

    /// A read of it has put its bytes into the buffer, and has given its payload back.
    pub(super) fn landed(
        self: &Arc<Self>,
        job: &Job,
        payload: Arc<Payload>,
        parts: Vec<Part>,
    ) -> Option<Ended> {
        let mut state = self.state();
        let requested = payload.requested();
        let is_last = state.begun == 1 && state.queued == 0 && state.end.is_none();
        for (_, place) in job.landed().flat_map(|landed| requested.filled(landed)) {
            state.landed.paths.add(job.path, place.end - place.start);
            if !is_last {
                state.valid.insert(place);
            }
        }
        state.parts.extend(parts);
        drop(payload);
        self.done(state)
    }

    /// A read of it takes another path than planned.
    pub(super) fn step_down(&self, step: StepDown) {
        self.traced.stepped_down(std::slice::from_ref(&step));
        self.state().landed.step_downs.push(step);
    }

    /// A read of it has failed, and has given its payload back. The first failure is the one that is told.
    pub(super) fn failed(
        self: &Arc<Self>,
        payload: Arc<Payload>,
        error: impl FnOnce(&Payload, Valid) -> TransferError,
    ) -> Option<Ended> {
        let mut state = self.state();
        self.ended.store(true, Ordering::Relaxed);
        if state.end.is_none() {
            state.end = Some(error(&payload, state.valid.clone()));
        }
        state.queued = 0;
        drop(payload);
        self.done(state)
    }

    fn done(self: &Arc<Self>, mut state: MutexGuard<'_, State>) -> Option<Ended> {
        state.begun -= 1;
        (state.begun == 0 && state.queued == 0).then(|| Ended(Arc::clone(self)))
    }

    /// Ends it, unless it is done already: what is with the drive is waited for, the rest forgotten. It is the
    /// caller's to conclude if nothing of it is with the drive.
    pub(super) fn cancel(self: &Arc<Self>) -> Option<Ended> {
        let mut state = self.state();
        if state.end.is_some() || (state.begun == 0 && state.queued == 0) {
            return None;
        }
        self.ended.store(true, Ordering::Relaxed);
        state.end = Some(TransferError::Stopped { valid: Valid::none_of(0) });
        state.queued = 0;
        (state.begun == 0).then(|| Ended(Arc::clone(self)))
    }

    /// The outcome, if it is known, once; or has `waker` woken when it is.
    pub(super) fn outcome(&self, waker: Option<&Waker>) -> Option<Outcome> {
        let mut state = self.state();
        let outcome = state.outcome.take();
        if outcome.is_none() {
            state.waker = waker.cloned();
        }
        outcome
    }

    /// Whether its outcome is known.
    pub(super) fn is_answered(&self) -> bool {
        self.state().answered
    }
}

impl Ended {
    /// An order that has nothing to do.
    pub(super) fn at_once(order: &Arc<Order>) -> Self {
        Self(Arc::clone(order))
    }

    /// The thread that ends it, if a device copies.
    pub(super) fn copier(&self) -> Option<usize> {
        self.0.copier
    }

    /// What it moves.
    pub(super) fn payload(&self) -> Option<Arc<Payload>> {
        self.0.state().payload.clone()
    }

    /// Whether something has ended it early.
    pub(super) fn is_early(&self) -> bool {
        self.0.has_ended()
    }

    /// The bytes are in the buffer when this is signalled.
    pub(super) fn after(self, fence: Option<SyncFile>) -> Self {
        self.0.state().landed.fence = fence.map(Fence::of);
        self
    }

    /// The device has not ended the copies. The first failure is the one that is told.
    pub(super) fn failed(self, error: UploadError) -> Self {
        self.0.state().end.get_or_insert_with(|| Arc::new(error).into());
        self
    }

    /// Checks what landed, with what is known of the file, and answers. Returns what is for an inbox.
    fn conclude(
        self,
        unchanged: &mut Unchanged,
        counters: &Counters,
    ) -> Option<(Arc<Inbox>, Completed)> {
        let Self(order) = self;
        let mut state = order.state();
        let payload = state.payload.take();
        let mut landed = std::mem::take(&mut state.landed);
        let valid = std::mem::take(&mut state.valid);
        let is_whole = landed.paths.bytes() == valid.wanted();
        let parts = std::mem::take(&mut state.parts);
        let end = state.end.take();
        drop(state);
        let checked = match (&end, payload) {
            (None, Some(payload)) => {
                unchanged.check(&payload.file).and_then(|()| payload.check(parts))
            }
            _ => Ok(Vec::new()),
        };
        landed.bytes = valid.wanted();
        let (paths, fence) = (landed.paths, landed.fence.clone());
        let outcome = match (end, checked) {
            (Some(TransferError::Stopped { .. }), _) => Err(TransferError::Stopped { valid }),
            (Some(error), _) | (None, Err(error)) => Err(error),
            (None, Ok(_)) if !is_whole => Err(TransferError::Engine {
                step: "a thread of the loader",
                source: io::Error::other("it ended before its work was done"),
                valid,
            }),
            (None, Ok(fingerprints)) => Ok(Landed { fingerprints, ..landed }),
        };
        if let (Err(_), Some(fence)) = (&outcome, fence) {
            // The error has no fence with it.
            fence.wait();
        }
        let elapsed = order.submitted.elapsed();
        counters.ended(&outcome, &paths, elapsed);
        order.traced.ended(bytes_of(&outcome), elapsed);
        if let Some(inbox) = &order.to {
            return Some((Arc::clone(inbox), Completed { tag: order.tag, outcome }));
        }
        let mut state = order.state();
        state.outcome = Some(outcome);
        state.answered = true;
        let waker = state.waker.take();
        drop(state);
        if let Some(waker) = waker {
            waker.wake();
        }
        None
    }
}

/// The bytes that have landed, or why they have not.
pub(super) fn bytes_of(outcome: &Outcome) -> Result<u64, &dyn Error> {
    outcome.as_ref().map(|landed| landed.bytes).map_err(|error| error as &dyn Error)
}

/// The file that was found unchanged last, of orders that are concluded together: it is asked for once.
#[derive(Default)]
struct Unchanged(Option<Remembered>);

impl Unchanged {
    fn check(&mut self, file: &File) -> Result<(), TransferError> {
        if self.0.as_ref().is_none_or(|known| !known.is(file)) {
            Readable::check_unchanged(file.source())?;
            self.0 = Some(file.downgrade());
        }
        Ok(())
    }
}

/// Concludes orders, and puts outcomes into their inboxes together.
pub(super) fn conclude(ended: impl IntoIterator<Item = Ended>, counters: &Counters) {
    let mut unchanged = Unchanged::default();
    let mut together: Option<(Arc<Inbox>, Vec<Completed>)> = None;
    for ended in ended {
        let Some((inbox, completed)) = ended.conclude(&mut unchanged, counters) else { continue };
        match &mut together {
            Some((last, all)) if Arc::ptr_eq(last, &inbox) => all.push(completed),
            _ => {
                if let Some((last, all)) = together.replace((inbox, vec![completed])) {
                    last.put(all);
                }
            }
        }
    }
    if let Some((last, all)) = together {
        last.put(all);
    }
}

impl Payload {
    pub(super) fn of(request: Request) -> Self {
        let Request { file, buffer, ranges, fingerprints, fenced, require, .. } = request;
        let by_buffer = match ranges.len() {
            1 => Vec::new(),
            _ => Requested::by_buffer(&ranges),
        };
        let required = require.is_some();
        Self { file, buffer, ranges, by_buffer, fingerprints, fenced, staging: None, required }
    }

    fn requested(&self) -> Requested<'_> {
        let by_buffer = match self.ranges.as_slice() {
            [one] if one.len > 0 => &[0],
            _ => self.by_buffer.as_slice(),
        };
        Requested::again(&self.ranges, by_buffer)
    }

    /// The fingerprints to be taken of what lands, if they were asked for.
    pub(super) fn wanted(&self) -> Option<Fingerprints<'_>> {
        self.fingerprints.then(|| Fingerprints::of_sorted(self.requested()))
    }

    /// The fingerprint of each range, if they were asked for and are what they must be, and the buffer is still present.
    pub(super) fn check(&self, parts: Parts) -> Result<Vec<u32>, TransferError> {
        check::present(&**self.buffer.destination())?;
        let Some(fingerprints) = self.wanted() else { return Ok(Vec::new()) };
        let found = fingerprints.whole(parts);
        for (range, &found) in self.ranges.iter().zip(&found) {
            check::meets(self.file.source(), range, found)?;
        }
        Ok(found)
    }
}
