//! Where items go in a buffer that the loader lays out itself.
//!
//! A drive reads whole blocks into aligned memory. If every item keeps its file offset modulo the
//! page, whole blocks go straight into the buffer and no byte is ever moved again: that is the one
//! idea here. Items that lie close together in a file stay together in the buffer, and the bytes
//! between them are the loader's to overwrite ([`Around::Scratch`](crate::transfer::Around::Scratch)).

use crate::transfer::Request;

/// The granule that offsets keep: a page, and at least a block of every drive in use.
const PAGE: u64 = 4096;

/// Items further apart than this in their file do not share a stretch of the buffer, in bytes.
const APART: u64 = 64 << 10;

/// Requests with their places, and the length of the buffer they need.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Layout {
    /// The requests, in the order in which they were given.
    pub requests: Vec<Request>,
    /// The bytes of buffer that they need, a multiple of 4096.
    pub len: u64,
}

/// Gives every request a place: its `buffer_offset` is set, whatever it was. `alignment` is the
/// largest that any of the files asks for, in bytes, a power of two.
///
/// ```
/// use bufmap::format::placement;
/// use bufmap::transfer::Request;
///
/// let items = vec![Request::new(0, 5000, 10, 0), Request::new(0, 9_000_000, 20, 0)];
/// let placed = placement::place(items, 512);
/// assert_eq!(placed.requests[0].buffer_offset, 5000 % 4096);
/// assert_eq!(placed.requests[1].buffer_offset, 4096 + 9_000_000 % 4096);
/// assert_eq!(placed.len, 8192);
/// ```
pub fn place(mut requests: Vec<Request>, alignment: u32) -> Layout {
    let page = PAGE.max(u64::from(alignment));
    let mut order: Vec<_> = (0..requests.len()).collect();
    order.sort_unstable_by_key(|&i| (requests[i].file, requests[i].offset));

    let mut len = 0;
    let mut stretch: Option<Stretch> = None;
    for i in order {
        let request = &mut requests[i];
        let reaches = stretch.as_ref().is_some_and(|s| {
            s.file == request.file && request.offset <= s.file_end.saturating_add(APART)
        });
        if !reaches {
            let start = request.offset / page * page;
            stretch = Some(Stretch { file: request.file, start, file_end: start, buffer: len });
        }
        if let Some(stretch) = &mut stretch {
            request.buffer_offset = stretch.buffer.saturating_add(request.offset - stretch.start);
            let end = request.offset.saturating_add(request.len);
            stretch.file_end = stretch.file_end.max(end);
            // No buffer is so long that this is cut: it is refused when somebody asks for it.
            let whole = (stretch.file_end - stretch.start).checked_next_multiple_of(page);
            len = stretch.buffer.saturating_add(whole.unwrap_or(u64::MAX));
        }
    }
    Layout { requests, len }
}

/// A part of a file that stays in one piece in the buffer.
struct Stretch {
    file: usize,
    start: u64,
    file_end: u64,
    buffer: u64,
}
