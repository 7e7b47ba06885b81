//! Which road a load would take, and why not a better one, before it is run.

use std::iter;
use std::sync::atomic::AtomicBool;

use rustix::fs::{Access, access};
use serde::Serialize;

use iomap::is_available;

use super::asked::Asked;
use super::check::Fingerprints;
use super::fill::OWN;
use super::peer::{Pairs, Proof};
use super::receipt::{Share, StepDown};
use super::roads::Decided;
use super::{
    Around, ExtentMap, ExtentMapError, LoadError, Options, Place, Request, Source, by_driver, roads,
};
use crate::pci::{Address, Function};
use crate::storage::file::SourceFile;

/// A question about a load that nobody runs.
///
/// The answer is the planner's own: it looks at the files, the page cache and the devices as a load
/// does, and decides as it does. But nothing is put into a buffer, so a pair of drive and peer that no
/// load has proved yet is a forecast, and a load may find out that its bytes do not arrive.
///
/// ```no_run
/// use bufmap::load::{Around, Explain, Options, Place, Request};
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
/// println!("{:?}, because {:?}", explanation.roads, explanation.step_downs);
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
pub struct Explanation {
    /// How many bytes would take which road, best first.
    pub roads: Vec<Share>,
    /// Why not a better road.
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
    /// [`LoadError::Road`] if a road is required that cannot be had, and what a load would find wrong
    /// with the requests.
    pub fn answer(&self) -> Result<Explanation, LoadError> {
        let Self { files, requests, around, place, buffer_len, options, .. } = *self;
        let stop = &AtomicBool::new(false);
        let asked = Asked { files, requests, around, options, place, buffer_len, stop };
        asked.validate()?;
        let pairs = match place {
            Place::Bar => self.provider.map(Pairs::forecast_bar),
            _ => self.provider.map(Pairs::forecast_published),
        };
        let decided = roads::decide(&asked, &Fingerprints::new(requests), pairs)?;
        let needs = short_of(&asked, &decided).into_iter().collect();
        let (roads, step_downs, proofs) = (decided.shares, decided.step_downs, decided.proofs);
        Ok(Explanation { roads, step_downs, proofs, needs })
    }
}

impl ExtentMap {
    /// Decides as a load of the items called `names`, or of all, would by the driver in user space, into a
    /// buffer in `place` (of `provider`, for [`Place::Peer`] and [`Place::Bar`]). Nothing is opened: a
    /// drive's blocks are taken for 512 bytes, and that it is the right drive only a load finds out.
    /// `taken` are the functions that have to be this process's beside the drive.
    ///
    /// # Errors
    /// [`LoadError`]: an item that the map does not hold, a buffer that this driver cannot fill, or an
    /// address of the drive that is none.
    pub fn explain(
        &self,
        names: &[String],
        (place, provider): (Place, Option<Address>),
        taken: &[Address],
    ) -> Result<Explanation, LoadError> {
        let manifest = self.outline(names)?;
        let (files, requests) = (manifest.files(), manifest.requests());
        if place == Place::Gpu {
            return Err(by_driver::out_of_reach(files));
        }
        let drive: Address = self.drive.address.parse().map_err(ExtentMapError::from)?;
        let (options, buffer_len) = (&Options::default(), manifest.buffer_len());
        let (around, stop) = (Around::Scratch, &AtomicBool::new(false));
        let asked = Asked { files, requests, around, options, place, buffer_len, stop };
        asked.validate()?;
        let mut pairs = match place {
            Place::System | Place::Gpu => None,
            Place::Peer => provider.map(Pairs::forecast_published),
            Place::Bar => provider.map(Pairs::forecast_bar),
        };
        let decided = by_driver::decide(&asked, &Fingerprints::new(requests), |_, _| {
            let Some(pairs) = &mut pairs else { return Ok(()) };
            pairs.may_be_written_by(drive, |_| Err("nothing is moved for a question".into()))
        })?;
        let needs = iter::once(&drive).chain(taken).filter_map(|function| missing(*function));
        let needs = needs.chain(short_of(&asked, &decided));
        Ok(Explanation {
            roads: decided.shares,
            step_downs: decided.step_downs,
            proofs: pairs.map(|pairs| pairs.proofs).unwrap_or_default(),
            needs: needs.collect(),
        })
    }
}

/// What the memory for a load lacks now, if it does. A load asks the same before it begins.
fn short_of<S: Source>(asked: &Asked<'_, S>, decided: &Decided) -> Option<String> {
    let buffer = match asked.place {
        Place::System => asked.buffer_len,
        Place::Gpu | Place::Peer | Place::Bar => 0,
    };
    let len = buffer.saturating_add(decided.slots(asked.options.depth));
    let len = usize::try_from(len).unwrap_or(usize::MAX).saturating_add(OWN);
    let shortage = is_available(len).err()?;
    Some(LoadError::Memory(shortage.into()).to_string())
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
