//! Which path each byte takes by the driver in user space, of files on a drive that the kernel does not have.

use super::asked::Asked;
use super::cut::Batch;
use super::decided::{Decided, Split, stepped_down};
use super::fit::{Peer, batch, by_file, misfit, roomy};
use super::place::Place;
use super::requested::Requested;
use super::run::Run;
use crate::transfer::{DataPath, Source, TransferError};

/// What the driver does not do: there is no memory that a drive could be given.
pub(crate) fn out_of_reach<S: Source>(files: &[S]) -> TransferError {
    let path = files.first().map(|file| file.path().to_owned()).unwrap_or_default();
    let why = "the buffer is in a GPU's own memory; give the drive back to the kernel (bufmap unbind) and \
               load from there";
    TransferError::DataPath { path, data_path: DataPath::Staged, why: why.into() }
}

/// Decides for every request of a transfer. `may_write` says whether the reads of a file may go from the drive
/// into the buffer of a peer, or why not.
pub(crate) fn decide<S: Source>(
    asked: &Asked<'_, S>,
    requested: &Requested<'_>,
    mut may_write: impl FnMut(&S, &Batch) -> Result<(), String>,
) -> Result<Decided, TransferError> {
    let mut decided = Decided::default();
    for (index, runs) in by_file(asked) {
        asked.go_on()?;
        let file = &asked.files[index];
        for split in splits(asked, file, runs, &mut |reads| may_write(file, reads))? {
            decided.take(split, requested);
        }
    }
    Ok(decided)
}

/// The paths of one file.
fn splits<S: Source>(
    asked: &Asked<'_, S>,
    file: &S,
    runs: Vec<Run>,
    may_write: &mut dyn FnMut(&Batch) -> Result<(), String>,
) -> Result<Vec<Split>, TransferError> {
    let refused =
        |data_path, why| TransferError::DataPath { path: file.path().into(), data_path, why };
    let plain = |path, runs| {
        let runs = roomy(asked, file, path, runs);
        vec![Split::from(batch(asked, file, path, &runs))]
    };
    let required = asked.options.require;
    if let Some(path) = required {
        misfit(path, &asked.buffer).map_err(|why| refused(path, why))?;
        if path.cpu_copies() {
            return Err(refused(path, "the kernel does not have the drive".into()));
        }
    }
    match (asked.buffer.place, required) {
        (Place::System | Place::Gpu, _) => Ok(plain(DataPath::Direct, runs)),
        (_, Some(DataPath::Bounce)) => Ok(plain(DataPath::Bounce, runs)),
        (Place::Cpu, _) => {
            let why = asked.buffer.no_pages.as_deref().unwrap_or_default();
            Ok(stepped_down(plain(DataPath::Bounce, runs), DataPath::Direct, why))
        }
        (Place::Peer | Place::Bar, required) => {
            let peer = Peer::of(asked, file, &runs);
            match (peer.ask(required.is_some(), may_write), required) {
                (Ok(()), _) => Ok(peer.splits()),
                (Err(why), Some(path)) => Err(refused(path, why)),
                (Err(why), None) => {
                    Ok(stepped_down(plain(DataPath::Bounce, runs), DataPath::Peer, &why))
                }
            }
        }
    }
}
