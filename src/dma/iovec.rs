//! A buffer as a list of pages, for interfaces that know no better.

use iomap::BufMap;

/// One entry for each page of a map, in the CPU's addresses: what `readv(2)` and its kin take. The
/// entries are good while the map is.
///
/// ```
/// let memory = iomap::Memory::anonymous(16 << 10, iomap::PageSize::Base)?;
/// let pages = bufmap::dma::iovecs(&memory.map());
/// assert_eq!(pages.len(), memory.len() / rustix::param::page_size());
/// # Ok::<(), iomap::MemoryError>(())
/// ```
pub fn iovecs(map: &BufMap<'_>) -> Vec<libc::iovec> {
    let page = rustix::param::page_size();
    let mut at = 0;
    std::iter::from_fn(|| {
        let here = map.as_ptr().wrapping_add(at);
        let len = (page - here as usize % page).min(map.len() - at);
        at += len;
        (len > 0).then_some(libc::iovec { iov_base: here.cast(), iov_len: len })
    })
    .collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn pages_are_the_map_in_order(start in 0usize..9000, len in 0usize..9000) {
            let page = rustix::param::page_size();
            let memory = iomap::Memory::anonymous(5 * page, iomap::PageSize::Base).expect("memory");
            let map = memory.map().subrange(start..start + len).expect("inside");
            let mut at = map.as_ptr() as usize;
            for entry in iovecs(&map) {
                prop_assert_eq!(entry.iov_base as usize, at);
                prop_assert!(entry.iov_len > 0);
                at += entry.iov_len;
                prop_assert_eq!((at - 1) / page, entry.iov_base as usize / page);
            }
            prop_assert_eq!(at, map.as_ptr() as usize + len);
        }
    }
}
