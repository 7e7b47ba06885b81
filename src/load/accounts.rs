//! The accounts of a load: what landed, its fingerprints, and what went wrong first.

use std::io;
use std::sync::atomic::Ordering;
use std::sync::mpsc::{Receiver, RecvTimeoutError};
use std::time::Duration;

use exporters::vulkan;
use iomap::{BufMap, Location};

use super::run::{Event, Landed};
use crate::check::{self, Filled, Fingerprints, Parts};
use crate::engine::flight::Flight;
use crate::nofault::Fault;
use crate::plan::job::Job;
use crate::plan::run::Landing;
use crate::storage::work::Failure;
use crate::transfer::{DataPath, Options, Progress, Source, TransferError, Valid, Verify};

/// What ended a load early.
enum End<'a> {
    Failed(&'a Job, Failure),
    Gpu(vulkan::VulkanError),
    Engine(io::Error),
    Lost,
}

/// The buffer is not there any more.
struct Lost;

impl End<'_> {
    fn lies_behind(&self, job: &Job) -> bool {
        matches!(self, Self::Failed(failed, _)
            if (failed.piece.file, failed.piece.offset) > (job.piece.file, job.piece.offset))
    }
}

/// Where bytes were when the CPU took fingerprints of them.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Fingerprinted {
    pub in_buffer: u64,
    pub in_slots: u64,
    /// Those in the buffer that were read out of a device's memory for it.
    pub read_back: u64,
}

/// What landed of a load that came to its end.
pub(super) struct Whole {
    pub parts: Parts,
    pub valid: Valid,
    pub fingerprinted: Fingerprinted,
}

/// The accounts of a load, kept on its own thread.
pub(super) struct Accounts<'a, S> {
    filled: Filled<'a, S>,
    verify: Verify,
    fingerprints: &'a Fingerprints<'a>,
    parts: Parts,
    valid: Valid,
    fingerprinted: Fingerprinted,
    /// Something landed after the load was stopped, and was not fingerprinted any more.
    unprinted: bool,
    end: Option<TransferError>,
}

impl<'a, S: Source> Accounts<'a, S> {
    pub(super) fn new(
        filled: Filled<'a, S>,
        options: &Options,
        fingerprints: &'a Fingerprints<'a>,
    ) -> Self {
        let wanted = filled.requests.iter().map(|request| request.len).sum();
        let valid = Valid::none_of(wanted);
        Self {
            filled,
            verify: options.verify,
            fingerprints,
            parts: Parts::default(),
            valid,
            fingerprinted: Fingerprinted::default(),
            unprinted: false,
            end: None,
        }
    }

    pub(super) fn wanted_fingerprints(&self) -> Option<&'a Fingerprints<'a>> {
        (self.verify != Verify::None).then_some(self.fingerprints)
    }

    /// Takes events until every engine is done, and says meanwhile what is waited for. `buffer` is what
    /// to fingerprint what landed unfingerprinted by.
    pub(super) fn listen(
        &mut self,
        events: &Receiver<Event<'_>>,
        buffer: Option<BufMap<'_>>,
        flight: &Flight<'_>,
        progress: &mut dyn FnMut(Progress),
    ) {
        const LOOK_UP: Duration = Duration::from_millis(50);
        let mut end: Option<End<'_>> = None;
        loop {
            match events.recv_timeout(LOOK_UP) {
                Ok(Event::Landed(landed)) => {
                    match landed.into_iter().try_for_each(|landed| self.landed(landed, buffer)) {
                        Ok(()) => progress(self.progress(flight)),
                        Err(Lost) => {
                            flight.end();
                            end = Some(End::Lost);
                        }
                    }
                }
                Ok(Event::Lost) => end = Some(End::Lost),
                Ok(Event::Failed(job, failure)) => {
                    // Several reads may fail before the rest is stopped: the first place counts.
                    if !matches!(&end, Some(end) if !end.lies_behind(job)) {
                        end = Some(End::Failed(job, failure));
                    }
                }
                Ok(Event::Gpu(error)) => {
                    end.get_or_insert(End::Gpu(error));
                }
                Ok(Event::Engine(error)) => {
                    flight.end();
                    end.get_or_insert(End::Engine(error));
                }
                Err(RecvTimeoutError::Timeout) => progress(self.progress(flight)),
                Err(RecvTimeoutError::Disconnected) => break,
            }
        }
        self.end = end.map(|end| self.explain(end));
    }

    fn progress(&self, flight: &Flight<'_>) -> Progress {
        let (done, total) = (self.valid.bytes(), self.valid.wanted());
        Progress { done, total, pending: flight.oldest() }
    }

    fn landed(&mut self, landed: Landed<'_>, buffer: Option<BufMap<'_>>) -> Result<(), Lost> {
        let Landed { job, parts } = landed;
        let wanted = self.wanted_fingerprints().is_some();
        // A sample of what a drive wrote is looked at when all is there.
        let later = self.verify == Verify::Auto && job.path == DataPath::Peer;
        let stopped = self.filled.stop.load(Ordering::Relaxed);
        let fingerprint = wanted && parts.is_none() && !later && !stopped;
        self.unprinted |= wanted && parts.is_none() && !later && stopped;
        let printed = fingerprint || parts.is_some();
        self.parts.extend(parts.into_iter().flatten());
        for landed in job.landed() {
            for (_, place) in self.fingerprints.requested().filled(landed.clone()) {
                self.valid.insert(place);
            }
            let bytes = self.fingerprints.requested().bytes_of(landed.clone());
            match job.piece.landing {
                _ if !printed => {}
                Landing::Buffer(_) => self.fingerprinted.in_buffer += bytes,
                Landing::Slot(_) => self.fingerprinted.in_slots += bytes,
            }
            let (true, Some(buffer)) = (fingerprint, buffer) else { continue };
            if buffer.location() == Location::Io {
                self.fingerprinted.read_back += bytes;
            }
            let bytes = buffer.subrange(landed.start as usize..landed.end as usize);
            let parts = bytes.map_err(Fault::from);
            match parts.and_then(|bytes| self.fingerprints.of(landed, &bytes)) {
                Ok(parts) => self.parts.extend(parts),
                Err(Fault::Gone) => return Err(Lost),
                // A piece that landed lies inside the buffer.
                Err(Fault::Map(_)) => {}
            }
        }
        Ok(())
    }

    fn explain(&self, end: End<'_>) -> TransferError {
        let valid = self.valid.clone();
        match end {
            End::Failed(job, failure) => self.filled.files[job.piece.file].failed(failure, valid),
            End::Gpu(error) => TransferError::Vulkan(error),
            End::Engine(source) => TransferError::Engine { step: "the io_uring", source, valid },
            End::Lost => check::lost(self.filled.destination),
        }
    }

    pub(super) const fn fingerprints(&self) -> &'a Fingerprints<'a> {
        self.fingerprints
    }

    /// Whether something has ended the work before its end.
    pub(super) fn has_ended(&self) -> bool {
        self.end.is_some()
    }

    /// Whether all that was asked for of a job is in the buffer.
    pub(super) fn has(&self, job: &Job) -> bool {
        let mut wanted =
            job.landed().flat_map(|landed| self.fingerprints.requested().filled(landed));
        wanted.all(|(_, place)| self.valid.contains(&place))
    }

    /// The failed read that ended the work, after which another path may be tried. What else ends a
    /// load stays its end.
    pub(super) fn forgive_read(&mut self) -> Option<String> {
        match self.end.take() {
            Some(TransferError::Read { offset, source, .. }) => {
                Some(format!("reading at offset {offset} failed in flight ({source})"))
            }
            other => {
                self.end = other;
                None
            }
        }
    }

    pub(super) fn finish(self, stopped: bool) -> Result<Whole, TransferError> {
        let Self { parts, valid, fingerprinted, .. } = self;
        match self.end {
            Some(error) => Err(error),
            None if valid.bytes() == valid.wanted() && !self.unprinted => {
                Ok(Whole { parts, valid, fingerprinted })
            }
            None if stopped || self.unprinted => Err(TransferError::Stopped { valid }),
            None => Err(TransferError::Engine {
                step: "a thread of the load",
                source: io::Error::other("it ended before its work was done"),
                valid,
            }),
        }
    }
}
