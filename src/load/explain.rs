//! Which road a load would take, and why not a better one, before it is run.

use serde::Serialize;

use super::asked::Asked;
use super::check::Fingerprints;
use super::peer::{Pairs, Proof};
use super::receipt::{Share, StepDown};
use super::{Around, LoadError, Options, Place, Request, roads};
use crate::pci::Address;
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
}

impl Explain<'_> {
    /// Decides as a load would.
    ///
    /// # Errors
    /// [`LoadError::Road`] if a road is required that cannot be had, and what a load would find wrong
    /// with the requests.
    pub fn answer(&self) -> Result<Explanation, LoadError> {
        let Self { files, requests, around, place, buffer_len, options, .. } = *self;
        let asked = Asked { files, requests, around, options, place, buffer_len };
        asked.validate()?;
        let pairs = match place {
            Place::Bar => self.provider.map(Pairs::forecast_bar),
            _ => self.provider.map(Pairs::forecast_published),
        };
        let decided = roads::decide(&asked, &Fingerprints::new(requests), pairs)?;
        let (roads, step_downs, proofs) = (decided.shares, decided.step_downs, decided.proofs);
        Ok(Explanation { roads, step_downs, proofs })
    }
}
