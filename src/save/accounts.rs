//! The accounts of a save: what is written, and what went wrong first.

use std::io;
use std::sync::mpsc::{Receiver, RecvTimeoutError, TryRecvError};
use std::time::Duration;

use super::prints::Prints;
use super::queue::Queue;
use super::writes::Event;
use crate::storage::work::Failure;
use crate::transfer::{Progress, TransferError, Valid};

/// What ended a save early.
#[derive(Debug)]
pub(super) enum End {
    Failed { offset: u64, source: io::Error },
    Lost,
    Buffer(TransferError),
    Engine(io::Error),
}

/// The accounts of a save, kept on its caller's thread.
pub(super) struct Accounts {
    /// What of the file is written.
    pub written: Valid,
    pub end: Option<End>,
    /// How long the file is in the end: what is written beyond is no part of it.
    len: u64,
}

impl Accounts {
    pub(super) fn new(wanted: u64, len: u64) -> Self {
        Self { written: Valid::none_of(wanted), end: None, len }
    }

    /// Nothing is taken for written any more.
    pub(super) fn begin_anew(&mut self) {
        self.written = Valid::none_of(self.written.wanted());
        self.end = None;
    }

    pub(super) fn progress(&self, queue: Option<&Queue<'_>>) -> Progress {
        let (done, total) = (self.written.bytes(), self.written.wanted());
        Progress { done, total, pending: queue.and_then(Queue::oldest) }
    }

    /// Takes events until every engine is done, and fingerprints meanwhile.
    pub(super) fn listen(
        &mut self,
        events: &Receiver<Event>,
        queue: &Queue<'_>,
        prints: &mut Prints<'_>,
        progress: &mut dyn FnMut(Progress),
    ) {
        const LOOK_UP: Duration = Duration::from_millis(50);
        let mut busy = true;
        loop {
            let next = match busy {
                true => events.try_recv().map_err(|error| match error {
                    TryRecvError::Empty => RecvTimeoutError::Timeout,
                    TryRecvError::Disconnected => RecvTimeoutError::Disconnected,
                }),
                false => events.recv_timeout(LOOK_UP),
            };
            match next {
                Ok(event) => self.take(event, queue),
                Err(RecvTimeoutError::Disconnected) => return,
                Err(RecvTimeoutError::Timeout) if busy && !queue.is_ended() => {
                    busy = prints.step().unwrap_or_else(|error| {
                        queue.end();
                        self.ended(End::Buffer(error));
                        false
                    });
                }
                Err(RecvTimeoutError::Timeout) => busy = false,
            }
            progress(self.progress(Some(queue)));
        }
    }

    fn take(&mut self, event: Event, queue: &Queue<'_>) {
        match event {
            Event::Written(range) => {
                self.written.insert(range.start..range.end.min(self.len).max(range.start));
            }
            Event::Failed(Failure::Io { offset, source }) => {
                self.ended(End::Failed { offset, source });
            }
            Event::Failed(Failure::Ended { at }) => {
                self.ended(End::Failed { offset: at, source: io::ErrorKind::WriteZero.into() });
            }
            Event::Lost => self.end = Some(End::Lost),
            Event::Gpu(error) => self.ended(End::Buffer(error.into())),
            Event::Engine(error) => {
                queue.end();
                self.ended(End::Engine(error));
            }
        }
    }

    /// What came first counts, and of several writes that failed the first place.
    fn ended(&mut self, end: End) {
        let earlier = match (&self.end, &end) {
            (None, _) => true,
            (Some(End::Failed { offset: known, .. }), End::Failed { offset, .. }) => offset < known,
            _ => false,
        };
        if earlier {
            self.end = Some(end);
        }
    }
}
