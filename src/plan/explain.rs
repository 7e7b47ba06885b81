//! Which path a load would take, and why not a better one, before it is run.

use std::iter;
use std::sync::atomic::AtomicBool;

use rustix::fs::{Access, access};
use serde::Serialize;

use exporters::PeerAccess;
use iomap::is_available;

use super::asked::{Asked, Buffer};
use super::decided::Decided;
use super::peer::Pairs;
use super::place::Place;
use super::requested::Requested;
use super::{by_driver, by_kernel};
use crate::format::{ExtentMap, ExtentMapError};
use crate::pci::{Address, Function};
use crate::storage::file::SourceFile;
use crate::transfer::{Around, Options, Proof, Request, Share, Source, StepDown, TransferError};

/// What a transfer needs beside the buffer and the slots, in bytes: stacks, rings, lists, what is compared.
pub(crate) const OWN: usize = 4 << 20;

/// A question about a load that nobody runs.
///
/// The answer is the planner's own: it looks at the files, the page cache and the devices as a load
/// does, and decides as it does. But nothing is put into a buffer, so a pair of drive and peer that no
/// load has proved yet is a forecast, and a load may find out that its bytes do not arrive.
///
/// ```no_run
/// use bufmap::plan::{Explain, Place};
/// use bufmap::transfer::{Around, Options, Request};
/// use bufmap::storage::file::SourceFile;
///
/// let files = [SourceFile::open("model.bin")?];
/// let explanation = Explain {
///     files: &files,
///     requests: &[Request::new(0, 0, files[0].len(), 0)],
///     around: Around::Untouched,
///     place: Place::System,
///     provider: None,
///     buffer_len: files[0].len(),
///     options: &Options::default(),
/// }
/// .answer()?;
/// println!("{:?}, because {:?}", explanation.paths, explanation.step_downs);
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
#[derive(Clone, Copy, Debug)]
pub struct Explain<'a> {
    /// The files, named by their index in the requests.
    pub files: &'a [SourceFile],
    /// What would be loaded.
    pub requests: &'a [Request],
    /// What might become of the buffer's other bytes.
    pub around: Around,
    /// Where the buffer would lie.
    pub place: Place,
    /// Whose memory it would be, for [`Place::Peer`] and [`Place::Bar`].
    pub provider: Option<Address>,
    /// How long it would be, in bytes.
    pub buffer_len: u64,
    /// How it would be loaded.
    pub options: &'a Options,
}

/// What a load would do.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[non_exhaustive]
pub struct Explanation {
    /// How many bytes would take which path, best first.
    pub paths: Vec<Share>,
    /// Why not a better path.
    pub step_downs: Vec<StepDown>,
    /// What loads before have found out about the pairs of drive and memory.
    pub proofs: Vec<Proof>,
    /// What keeps this process from any of it, each with the remedy.
    pub needs: Vec<String>,
}

impl Explain<'_> {
    /// Decides as a load would.
    ///
    /// # Errors
    /// [`TransferError::DataPath`] if a path is required that cannot be had, and what a load would find wrong
    /// with the requests.
    pub fn answer(&self) -> Result<Explanation, TransferError> {
        let Self { files, requests, around, place, buffer_len, options, .. } = *self;
        let stop = &AtomicBool::new(false);
        let buffer = Buffer::planned(place, buffer_len);
        let asked = Asked { files, requests, around, options, buffer, stop };
        asked.validate()?;
        let pairs = forecast(place, self.provider);
        let decided = by_kernel::decide(&asked, &Requested::new(requests), pairs)?;
        let needs = short_of(&asked, &decided).into_iter().collect();
        let (paths, step_downs, proofs) = (decided.shares, decided.step_downs, decided.proofs);
        Ok(Explanation { paths, step_downs, proofs, needs })
    }
}

impl ExtentMap {
    /// Decides as a load of the items called `names`, or of all, would by the driver in user space, into a
    /// buffer in `place` (of `provider`, for [`Place::Peer`] and [`Place::Bar`]). Nothing is opened: a
    /// drive's blocks are taken for 512 bytes, and that it is the right drive only a load finds out.
    /// `taken` are the functions that have to be this process's beside the drive.
    ///
    /// # Errors
    /// [`ExtentMapError`]: an item that the map does not hold, a buffer that this driver cannot fill, or an
    /// address of the drive that is none.
    pub fn explain(
        &self,
        names: &[String],
        (place, provider): (Place, Option<Address>),
        taken: &[Address],
    ) -> Result<Explanation, ExtentMapError> {
        let manifest = self.outline(names)?;
        let (files, requests) = (manifest.files(), manifest.requests());
        if place == Place::Gpu {
            return Err(by_driver::out_of_reach(files).into());
        }
        let drive: Address = self.drive.address.parse().map_err(ExtentMapError::from)?;
        let (options, buffer_len) = (&Options::default(), manifest.buffer_len());
        let (around, stop) = (Around::Scratch, &AtomicBool::new(false));
        let buffer = Buffer::planned(place, buffer_len);
        let asked = Asked { files, requests, around, options, buffer, stop };
        asked.validate()?;
        let mut pairs = forecast(place, provider);
        let decided = by_driver::decide(&asked, &Requested::new(requests), |_, _| {
            let Some(pairs) = &mut pairs else { return Ok(()) };
            pairs.may_be_written_by(drive, |_| Err("nothing is moved for a question".into()))
        })?;
        let needs = iter::once(&drive).chain(taken).filter_map(|function| missing(*function));
        let needs = needs.chain(short_of(&asked, &decided));
        Ok(Explanation {
            paths: decided.shares,
            step_downs: decided.step_downs,
            proofs: pairs.map(|pairs| pairs.proofs).unwrap_or_default(),
            needs: needs.collect(),
        })
    }
}

/// What is known of the pairs of a device's memory and drives.
fn forecast<'a>(place: Place, provider: Option<Address>) -> Option<Pairs<'a>> {
    let access = match place {
        Place::System | Place::Gpu | Place::Cpu => return None,
        Place::Peer => PeerAccess::Kernel,
        Place::Bar => PeerAccess::Vfio,
    };
    Some(Pairs::forecast(provider?, access))
}

/// What the memory for a load lacks now, if it does. A load asks the same before it begins.
fn short_of<S: Source>(asked: &Asked<'_, S>, decided: &Decided) -> Option<String> {
    let buffer = match asked.buffer.place {
        Place::System | Place::Cpu => asked.buffer.len,
        Place::Gpu | Place::Peer | Place::Bar => 0,
    };
    let len = buffer.saturating_add(decided.slots(asked.options.depth));
    let len = usize::try_from(len).unwrap_or(usize::MAX).saturating_add(OWN);
    let shortage = is_available(len).err()?;
    Some(TransferError::Memory(shortage.into()).to_string())
}

/// What keeps this process from driving a function itself, as far as can be seen, and the remedy.
fn missing(address: Address) -> Option<String> {
    let function = match Function::read(address) {
        Ok(function) => function,
        Err(error) => return Some(error.to_string()),
    };
    let Some(group) = function.iommu_group else {
        return Some(format!(
            "no IOMMU stands before {address}, without which VFIO gives it to nobody: switch it on in the \
             firmware's settings and on the kernel's command line (intel_iommu=on)"
        ));
    };
    if function.driver.as_deref() != Some("vfio-pci") {
        let who =
            function.driver.map_or("no driver".into(), |driver| format!("the driver {driver}"));
        let fix = format!("unmount what lies on it, and bufmap bind {address}");
        return Some(format!("{who} has {address}, and not vfio-pci: {fix}"));
    }
    let path = format!("/dev/vfio/{}", group.number);
    let error = access(&path, Access::READ_OK | Access::WRITE_OK).err()?;
    Some(format!(
        "this user may not open {path}, by which {address} is had ({error}): load as root, or have root give \
         you the file"
    ))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::format::{Drive, Format, MappedFile, MappedItem};
    use crate::storage::file::LONGEST_FILE;
    use crate::storage::nvme::Extent;

    /// A map of one file of so many bytes in one extent, all of them one item.
    fn of_len(len: u64) -> String {
        let (extent, item) =
            ("{\"file_offset\": 0, \"offset\": 0, ", "{\"name\": \"x\", \"offset\": 0, ");
        format!(
            r#"{{"drive": {{"address": "0000:02:00.0", "serial": "x", "namespace": 1}}, "files": [{{"path": "a",
                "format": "raw", "extents": [{extent}"len": {len}}}], "items": [{item}"len": {len}}}]}}]}}"#
        )
    }

    #[test]
    fn a_file_of_any_length_is_explained_or_refused_in_no_time() {
        for len in [1, 1 << 40, 1 << 50, LONGEST_FILE - 4096] {
            let map = ExtentMap::parse("map".as_ref(), of_len(len).as_bytes()).expect("a map");
            for place in [Place::System, Place::Bar] {
                let explanation = map.explain(&[], (place, None), &[]).expect("an answer");
                let bytes: u64 = explanation.paths.iter().map(|share| share.bytes).sum();
                assert_eq!(bytes, len, "{place:?}");
                let little = explanation.needs.iter().any(|need| need.contains("bytes are needed"));
                assert_eq!(little, place == Place::System && len > 1, "{:?}", explanation.needs);
            }
        }
        for len in [LONGEST_FILE + 1, u64::MAX] {
            let words =
                ExtentMap::parse("map".as_ref(), of_len(len).as_bytes()).expect_err("too long");
            assert!(words.to_string().contains("more than any file can have"), "{words}");
        }
        // Whole blocks of a file just as long reach past what any buffer can hold.
        let map = ExtentMap::parse("map".as_ref(), of_len(LONGEST_FILE).as_bytes()).expect("a map");
        let words = map.explain(&[], (Place::System, None), &[]).expect_err("too long").to_string();
        assert!(words.contains("cannot be mapped"), "{words}");
    }

    proptest! {
        #[test]
        fn lengths_of_any_size_are_an_answer_or_an_error(
            lens in prop::collection::vec(prop_oneof![0..9u64, any::<u64>(), LONGEST_FILE - 9..=LONGEST_FILE, 0..1u64 << 61], 1..4),
            from in any::<u64>(), len in any::<u64>(), place in prop_oneof![Just(Place::System), Just(Place::Bar)],
        ) {
            let files = lens.into_iter().map(|long| {
                let extent = Extent { file_offset: 0, offset: 0, len: long };
                let offset = from % long.max(1);
                let len = len % (long - offset).max(1);
                let item = MappedItem::new("x", offset, len);
                MappedFile { path: "a".into(), format: Format::Raw, note: None, extents: vec![extent], items: vec![item] }
            });
            let drive = Drive { address: "0000:02:00.0".into(), serial: String::new(), namespace: 1 };
            let map = ExtentMap { drive, files: files.collect(), left_out: Vec::new() };
            let wanted = map.files.iter().fold(0u64, |sum, file| sum.saturating_add(file.items[0].len));
            if let Ok(explanation) = map.explain(&[], (place, None), &[]) {
                prop_assert_eq!(explanation.paths.iter().map(|share| share.bytes).sum::<u64>(), wanted);
            }
        }
    }
}
