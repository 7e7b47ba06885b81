//! What a program that has a subscriber of `tracing` is told, with the cargo feature of that name.
//!
//! A [`Traced`] is a span: of a request of a loader, from its submission to its answer, inside the span that submitted it;
//! of a load or a save, as long as it runs. Each step down from a better path is an event of it, and so is its end. Without the
//! feature it is nothing.

use std::error::Error;
use std::time::Duration;

use crate::transfer::{Priority, Receipt, StepDown};

/// A span.
#[derive(Debug)]
pub(crate) struct Traced {
    #[cfg(feature = "tracing")]
    span: tracing::Span,
}

#[cfg(feature = "tracing")]
impl Traced {
    /// A request of a loader.
    pub(crate) fn request(priority: Priority, tag: u64, bytes: u64) -> Self {
        let span = tracing::debug_span!(target: "bufmap", "request", ?priority, tag, bytes);
        Self { span }
    }

    /// A load of so many files.
    pub(crate) fn load(files: usize, requests: usize) -> Self {
        Self { span: tracing::info_span!(target: "bufmap", "load", files, requests) }
    }

    /// A save of so many parts of a buffer.
    pub(crate) fn save(requests: usize) -> Self {
        Self { span: tracing::info_span!(target: "bufmap", "save", requests) }
    }

    /// Some of it does not take a better path.
    pub(crate) fn stepped_down(&self, steps: &[StepDown]) {
        for StepDown { path, why, bytes } in steps {
            tracing::debug!(target: "bufmap", parent: &self.span, %path, bytes, "stepped down: {why}");
        }
    }

    /// It has ended, well or not: so many bytes are where they belong.
    pub(crate) fn ended(&self, ended: Result<u64, &dyn Error>, elapsed: Duration) {
        let us = u64::try_from(elapsed.as_micros()).unwrap_or(u64::MAX);
        match ended {
            Ok(bytes) => tracing::debug!(target: "bufmap", parent: &self.span, bytes, us, "done"),
            Err(error) => tracing::warn!(target: "bufmap", parent: &self.span, us, "{error}"),
        }
    }

    /// A load or a save, inside its span.
    pub(crate) fn over<E: Error>(
        &self,
        run: impl FnOnce() -> Result<Receipt, E>,
    ) -> Result<Receipt, E> {
        let started = std::time::Instant::now();
        let ended = self.span.in_scope(run);
        if let Ok(receipt) = &ended {
            self.stepped_down(&receipt.step_downs);
        }
        let bytes = ended.as_ref().map(|receipt| receipt.bytes);
        self.ended(bytes.map_err(|error| error as &dyn Error), started.elapsed());
        ended
    }
}

#[cfg(not(feature = "tracing"))]
impl Traced {
    pub(crate) const fn request(_: Priority, _: u64, _: u64) -> Self {
        Self {}
    }

    pub(crate) const fn load(_: usize, _: usize) -> Self {
        Self {}
    }

    pub(crate) const fn save(_: usize) -> Self {
        Self {}
    }

    pub(crate) const fn stepped_down(&self, _: &[StepDown]) {}

    pub(crate) const fn ended(&self, _: Result<u64, &dyn Error>, _: Duration) {}

    pub(crate) fn over<E: Error>(
        &self,
        run: impl FnOnce() -> Result<Receipt, E>,
    ) -> Result<Receipt, E> {
        run()
    }
}
