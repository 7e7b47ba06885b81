//! The call: what is to be saved, where to, and how.

use std::io;
use std::path::Path;
use std::sync::atomic::{AtomicBool, Ordering};

use exporters::{Destination, Intent};

use super::accounts::{Accounts, End};
use super::engine::{Engine, Means};
use super::prints::Prints;
use super::read_back::{Unproved, read_back};
use crate::check::{self, map_of};
use crate::engine::clock::Clock;
use crate::nofault;
use crate::plan::Place;
use crate::plan::asked::Buffer;
use crate::plan::out::{Decided, Kind, Outward, Stretches, Taken};
use crate::plan::peer::Pairs;
use crate::storage::file::own_path::own_path;
use crate::storage::file::{NewFile, SinkFile, SourceFile};
use crate::storage::work::Failure;
use crate::traced::Traced;
use crate::transfer::{
    Check, CheckShare, Checked, DataPath, Left, Options, Progress, Receipt, Request, SaveError,
    TransferError, Verify,
};

/// A save to be run.
#[derive(Clone, Debug)]
pub struct Save<'a> {
    /// The buffer, which nothing else uses meanwhile. It has the facets of one that is filled; here they say how bytes get
    /// out of it.
    pub source: &'a dyn Destination,
    /// Where to.
    pub to: To<'a>,
    /// What to save: so many bytes of the buffer, to there in the file, which is number 0. A checksum that comes with
    /// one is what the buffer's bytes must have. A new file is as long as the last of them reaches, with zeros where none
    /// does.
    pub requests: &'a [Request],
    /// How. `limit` means nothing here.
    pub options: Options,
    /// Set to true by anyone, at any time, it ends the save early with [`SaveError::Stopped`], as soon as the writes that
    /// are under way are answered.
    pub stop: &'a AtomicBool,
}

/// What a buffer is saved into.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum To<'a> {
    /// A new file, which takes the place of what is at this path when it is whole and in the drive.
    NewFile(&'a Path),
    /// The file or block device at this path itself, which holds some old and some new bytes if the save fails. It gets
    /// no longer and no shorter.
    InPlace(&'a Path),
}

/// The file, opened.
enum File {
    New(NewFile),
    InPlace(SinkFile),
}

impl File {
    fn open(to: To<'_>) -> Result<Self, SaveError> {
        match to {
            To::NewFile(path) => NewFile::beside(path)
                .map(Self::New)
                .map_err(|source| SaveError::Create { path: path.to_owned(), source }),
            To::InPlace(path) => SinkFile::in_place(path)
                .map(Self::InPlace)
                .map_err(|source| SaveError::Open { path: path.to_owned(), source }),
        }
    }

    const fn sink(&self) -> &SinkFile {
        match self {
            Self::New(new) => new.sink(),
            Self::InPlace(sink) => sink,
        }
    }

    fn kind(&self) -> Result<Kind, SaveError> {
        match self {
            Self::New(_) => Ok(Kind::New),
            Self::InPlace(sink) => match sink.current_len() {
                Ok(len) => Ok(Kind::InPlace { len }),
                Err(source) => Err(SaveError::Open { path: sink.path().to_owned(), source }),
            },
        }
    }

    /// What is left of it when the save ends now.
    fn left(&self, accounts: Option<&Accounts>) -> Left {
        match (self, accounts) {
            (Self::InPlace(_), Some(accounts)) => Left::Partly(accounts.written.clone()),
            _ => Left::AsItWas,
        }
    }
}

impl Save<'_> {
    /// Runs the save to its end. `progress` is called on this thread as pieces are written, and twenty times a second at
    /// least while none is.
    ///
    /// # Errors
    /// [`SaveError`]; nothing is in flight when it is returned.
    pub fn run(&self, progress: &mut dyn FnMut(Progress)) -> Result<Receipt, SaveError> {
        Traced::save(self.requests.len()).over(|| self.carry_out(progress))
    }

    fn carry_out(&self, progress: &mut dyn FnMut(Progress)) -> Result<Receipt, SaveError> {
        let clock = Clock::start();
        let buffer = Buffer::of_bytes(self.source)?;
        let place = buffer.place;
        let file = File::open(self.to)?;
        let outward = Outward {
            sink: file.sink(),
            kind: file.kind()?,
            requests: self.requests,
            options: &self.options,
            buffer,
        };
        outward.validate()?;
        self.go_on(&file, None)?;
        self.allocate(&file, outward.written_len())?;
        let access = self.source.access(Intent::Read).map_err(TransferError::from)?;
        let mut decided = self.decide(&outward, place).map_err(|error| self.lost_or(error))?;
        self.go_on(&file, None)?;

        let wanted = self.requests.iter().map(|request| request.len).sum();
        let mut accounts = Accounts::new(wanted, decided.len);
        let checks = self.options.verify != Verify::None;
        let mut prints = Prints::new(self.source, self.requests, checks)?;
        let mut engine = Engine::default();
        self.write(&file, &mut decided, &mut engine, &mut accounts, &mut prints, progress)?;
        self.set_len(&file, decided.len, &accounts)?;
        let sink = file.sink();
        sink.sync().map_err(|source| SaveError::Sync {
            path: sink.path().to_owned(),
            source,
            left: file.left(Some(&accounts)),
        })?;
        let (elapsed, cpu) = clock.elapsed();
        let checked = self.check(&file, place, prints, &accounts, progress)?;
        access.map_or(Ok(()), |access| access.finish()).map_err(TransferError::from)?;
        self.go_on(&file, Some(&accounts))?;
        if let File::New(new) = file {
            let path = new.sink().path().to_owned();
            new.commit().map_err(|source| SaveError::Commit { path, source })?;
        }
        let (cpu_copied, gpu_copied) = copied(&decided, place);
        Ok(Receipt {
            bytes: wanted,
            left_out: Vec::new(),
            paths: decided.shares,
            step_downs: decided.step_downs,
            engine: engine.words.join("; "),
            reads: engine.writes,
            cpu_copied,
            gpu_copied,
            slots: engine.slots,
            elapsed,
            cpu,
            proofs: decided.proofs,
            checked,
        })
    }

    /// Whether it is still wanted.
    fn go_on(&self, file: &File, accounts: Option<&Accounts>) -> Result<(), SaveError> {
        match self.stop.load(Ordering::Relaxed) {
            true => Err(SaveError::Stopped { left: file.left(accounts) }),
            false => Ok(()),
        }
    }

    /// That the buffer has gone away, if it has, and else the error that was met.
    fn lost_or(&self, error: SaveError) -> SaveError {
        match self.source.is_present() {
            true => error,
            false => self.lost(Left::AsItWas),
        }
    }

    fn lost(&self, left: Left) -> SaveError {
        SaveError::SourceLost { device: self.source.holder(), left }
    }

    fn allocate(&self, file: &File, len: u64) -> Result<(), SaveError> {
        let File::New(new) = file else { return Ok(()) };
        new.allocate(len).map_err(|source| SaveError::Space {
            path: new.sink().path().to_owned(),
            len,
            source,
            left: Left::AsItWas,
        })
    }

    /// Cuts a new file to its length, whose last block was written whole.
    fn set_len(&self, file: &File, len: u64, accounts: &Accounts) -> Result<(), SaveError> {
        let File::New(new) = file else { return Ok(()) };
        new.set_len(len).map_err(|source| SaveError::Write {
            path: new.sink().path().to_owned(),
            offset: len,
            source,
            left: file.left(Some(accounts)),
        })
    }

    fn decide(&self, outward: &Outward<'_>, place: Place) -> Result<Decided, SaveError> {
        let pairs = match place {
            Place::Peer => Pairs::of(self.source),
            _ => None,
        };
        // A file without a name has this one.
        let open = || SourceFile::open(own_path(outward.sink)).ok();
        let source = pairs.is_some().then(open).flatten();
        outward.decide(source.as_ref(), pairs)
    }

    /// Writes past the page cache, then through it, so that no block is written both ways at a time.
    fn write(
        &self,
        file: &File,
        decided: &mut Decided,
        engine: &mut Engine,
        accounts: &mut Accounts,
        prints: &mut Prints<'_>,
        progress: &mut dyn FnMut(Progress),
    ) -> Result<(), SaveError> {
        let Self { source, ref options, stop, .. } = *self;
        let means = Means { source, sink: file.sink(), options, stop };
        self.settle_posted();
        engine.run(&means, &decided.whole, accounts, (prints, progress))?;
        if let Some(why) = self.forgiven(decided, accounts) {
            decided.fall_back(why);
            accounts.begin_anew();
            engine.run(&means, &decided.whole, accounts, (prints, progress))?;
        }
        if accounts.end.is_none() {
            engine.run(&means, &decided.copied, accounts, (prints, progress))?;
        }
        while accounts.end.is_none() && !stop.load(Ordering::Relaxed) {
            match prints.step() {
                Ok(true) => progress(accounts.progress(None)),
                Ok(false) => break,
                Err(error) => accounts.end = Some(End::Buffer(error)),
            }
        }
        self.ended(file, accounts)
    }

    /// What the CPU wrote into a device's memory may be on its way still: a read from there returns after it.
    fn settle_posted(&self) {
        let map = map_of(self.source);
        if self.source.peer().is_some() && !map.is_empty() {
            let _ = nofault::copy_to_slice(&map, map.len() - 1, &mut [0]);
        }
    }

    /// Why a peer path failed after which another may be tried.
    fn forgiven(&self, decided: &Decided, accounts: &mut Accounts) -> Option<String> {
        let [path, _] = decided.whole.paths();
        let may = path == DataPath::Peer
            && self.options.require.is_none()
            && self.source.is_present()
            && !self.stop.load(Ordering::Relaxed);
        match &accounts.end {
            Some(End::Failed { offset, source }) if may => {
                Some(format!("writing at offset {offset} failed in flight ({source})"))
            }
            _ => None,
        }
    }

    /// The error of a save that did not come to its end.
    fn ended(&self, file: &File, accounts: &mut Accounts) -> Result<(), SaveError> {
        let left = file.left(Some(accounts));
        let Some(end) = accounts.end.take() else {
            self.go_on(file, Some(accounts))?;
            return match accounts.written.bytes() == accounts.written.wanted() {
                true => Ok(()),
                false => Err(SaveError::Engine {
                    step: "a thread of the save",
                    source: io::Error::other("it ended before its work was done"),
                    left,
                }),
            };
        };
        Err(match end {
            End::Lost | End::Buffer(TransferError::BufferLost { .. }) => self.lost(left),
            _ if !self.source.is_present() => self.lost(left),
            End::Failed { offset, source } => {
                SaveError::Write { path: file.sink().path().to_owned(), offset, source, left }
            }
            End::Buffer(error) => error.into(),
            End::Engine(source) => SaveError::Engine { step: "the io_uring", source, left },
        })
    }

    /// Proves what the options ask for.
    fn check(
        &self,
        file: &File,
        place: Place,
        prints: Prints<'_>,
        accounts: &Accounts,
        progress: &mut dyn FnMut(Progress),
    ) -> Result<Checked, SaveError> {
        let verify = self.options.verify;
        let mut checked = Checked { verify, ..Checked::default() };
        if matches!(place, Place::Peer | Place::Bar) {
            checked.read_back = prints.read;
        }
        let prints = prints.whole();
        checked.fingerprints = prints.iter().copied().map(Some).collect();
        if verify == Verify::None {
            return Ok(checked);
        }
        check::present(self.source).map_err(|_| self.lost(file.left(Some(accounts))))?;
        let bytes = self.requests.iter().map(|request| request.len).sum();
        checked.checks = vec![CheckShare { check: Check::FingerprintInBuffer, bytes }];
        for (index, (request, &found)) in self.requests.iter().zip(&prints).enumerate() {
            let Some(expected) = request.crc32 else { continue };
            if expected != found {
                let what = format!(
                    "in the buffer their CRC-32 is {found:08x}, and {expected:08x} was asked for"
                );
                return Err(self.mismatch(file, accounts, index, what));
            }
            checked.format_checksums += 1;
        }
        if verify == Verify::Full {
            checked.compared = self.read_back(file, &prints, accounts, progress)?;
        }
        Ok(checked)
    }

    fn read_back(
        &self,
        file: &File,
        prints: &[u32],
        accounts: &Accounts,
        progress: &mut dyn FnMut(Progress),
    ) -> Result<u64, SaveError> {
        let sink = file.sink();
        let left = || file.left(Some(accounts));
        let path = || sink.path().to_owned();
        let mut told = |pending| {
            progress(Progress { pending: Some(pending), ..accounts.progress(None) });
        };
        read_back(sink, self.requests, prints, self.stop, &mut told).map_err(|why| match why {
            Unproved::Stopped => SaveError::Stopped { left: left() },
            Unproved::Failed(_) if self.stop.load(Ordering::Relaxed) => {
                SaveError::Stopped { left: left() }
            }
            Unproved::Failed(Failure::Io { offset, source }) => {
                SaveError::ReadBack { path: path(), offset, source, left: left() }
            }
            Unproved::Failed(Failure::Ended { at }) => SaveError::ReadBack {
                path: path(),
                offset: at,
                source: io::ErrorKind::UnexpectedEof.into(),
                left: left(),
            },
            Unproved::Memory(error) => TransferError::from(error).into(),
            Unproved::Differs { request, found } => {
                let own = prints.get(request).copied().unwrap_or_default();
                let what =
                    format!("read back, their CRC-32 is {found:08x}, in the buffer {own:08x}");
                self.mismatch(file, accounts, request, what)
            }
        })
    }

    fn mismatch(&self, file: &File, accounts: &Accounts, index: usize, what: String) -> SaveError {
        let Request { offset, len, .. } = self.requests[index];
        let path = file.sink().path().to_owned();
        SaveError::Mismatch { path, offset, len, what, left: file.left(Some(accounts)) }
    }
}

/// How many bytes the CPU moved, and the GPU.
fn copied(decided: &Decided, place: Place) -> (u64, u64) {
    let of = |stretches: &Stretches, slots: bool| -> u64 {
        stretches
            .pieces()
            .filter(|piece| !slots || matches!(piece.from, Taken::Slot(_)))
            .map(|piece| decided.asked_of(&piece))
            .sum()
    };
    let (gathered, cached) = (of(&decided.whole, true), of(&decided.copied, false));
    match place {
        Place::Gpu => (cached, gathered + cached),
        _ => (gathered + cached + of(&decided.copied, true), 0),
    }
}
