//! Which requests fill a part of the buffer.

use std::borrow::Cow;
use std::ops::Range;

use super::cut::Batch;
use crate::transfer::Request;

/// Requests by their place in the buffer, where no two overlap.
#[derive(Debug)]
pub(crate) struct Requested<'r> {
    requests: &'r [Request],
    by_buffer: Cow<'r, [usize]>,
}

impl<'r> Requested<'r> {
    /// For requests whose places in the buffer do not overlap.
    pub(crate) fn new(requests: &'r [Request]) -> Self {
        Self { requests, by_buffer: Self::by_buffer(requests).into() }
    }

    /// The same, of what [`by_buffer`](Self::by_buffer) found.
    pub(crate) const fn again(requests: &'r [Request], by_buffer: &'r [usize]) -> Self {
        Self { requests, by_buffer: Cow::Borrowed(by_buffer) }
    }

    /// The indices of requests, by their place in the buffer.
    pub(crate) fn by_buffer(requests: &[Request]) -> Vec<usize> {
        let mut by_buffer: Vec<_> = (0..requests.len()).filter(|&i| requests[i].len > 0).collect();
        by_buffer.sort_unstable_by_key(|&i| requests[i].buffer_offset);
        by_buffer
    }

    /// The requests, in the order in which they were given.
    pub(crate) const fn all(&self) -> &'r [Request] {
        self.requests
    }

    /// The requests that fill some of `landed`, each with the part of the buffer it fills.
    pub(crate) fn filled(&self, landed: Range<u64>) -> impl Iterator<Item = (usize, Range<u64>)> {
        let first =
            self.by_buffer.partition_point(|&i| self.requests[i].buffer().end <= landed.start);
        self.by_buffer[first..]
            .iter()
            .map(|&i| (i, self.requests[i].buffer()))
            .take_while({
                let end = landed.end;
                move |(_, place)| place.start < end
            })
            .map(move |(i, place)| (i, place.start.max(landed.start)..place.end.min(landed.end)))
    }

    /// How many bytes of a part of the buffer were asked for.
    pub(crate) fn bytes_of(&self, landed: Range<u64>) -> u64 {
        self.filled(landed).map(|(_, place)| place.end - place.start).sum()
    }

    /// How many of the bytes that a batch lands were asked for.
    pub(crate) fn bytes_of_batch(&self, batch: &Batch) -> u64 {
        batch.landed().map(|landed| self.bytes_of(landed)).sum()
    }
}
