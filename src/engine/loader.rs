//! The loader: what a program makes once and asks as often as it likes.

use std::collections::HashMap;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Instant;

use exporters::upload::UploadTarget;
use rustix::fs::{Stat, fstat, stat};

use super::completions::Completions;
use super::copier::Gpu;
use super::counters::Counts;
use super::driver::Driver;
use super::file::{File, Remembered};
use super::options::LoaderOptions;
use super::order::{Order, bytes_of};
use super::outcome::Outcome;
use super::planned::{Planned, Reads};
use super::request::Request;
use super::shared::Shared;
use super::slots::Staging;
use super::ticket::Ticket;
use super::{reader, worker};
use crate::storage::file::SourceFile;
use crate::storage::file::wake::WakeFd;
use crate::traced::Traced;
use crate::transfer::{TransferError, Valid};

/// An engine that stays: it takes requests from any number of threads, and answers each once.
///
/// Clones are the same loader. When the last is dropped, what waits is answered with
/// [`TransferError::Stopped`], what is with the drive is waited for, and its threads end.
///
/// It keeps a handle on each device whose own memory it filled, Vulkan's or wgpu's, with a thread and one and a half times
/// [`depth`](LoaderOptions::depth) slots of a [`block`](LoaderOptions::block). A program drops its last clone before it
/// destroys such a device.
#[derive(Clone, Debug)]
pub struct Loader(Arc<Core>);

#[derive(Debug)]
struct Core {
    shared: Arc<Shared>,
    /// The files that were opened, by the path.
    files: Mutex<HashMap<PathBuf, Remembered>>,
    /// The devices into whose own memory was loaded.
    gpus: Mutex<Vec<Gpu>>,
}

impl Drop for Core {
    fn drop(&mut self) {
        let gpus = self.gpus.get_mut().unwrap_or_else(PoisonError::into_inner);
        gpus.iter().for_each(|gpu| gpu.staging.slots.close());
        self.shared.close();
    }
}

/// Why a request was not taken on.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Refused {
    /// As many requests wait as may: the request, to be submitted later.
    #[error("as many requests wait as the loader allows: submit it again when one has ended")]
    Full(Box<Request>),
    /// It cannot be done.
    #[error(transparent)]
    Invalid(#[from] TransferError),
}

impl Loader {
    /// A loader that works as most programs need it.
    ///
    /// # Errors
    /// As [`with`](Self::with).
    pub fn new() -> Result<Self, TransferError> {
        Self::with(LoaderOptions::default())
    }

    /// A loader that works as `options` say. It starts two threads; without io_uring, and for what the kernel copies, it
    /// starts more when there is work for them.
    ///
    /// # Errors
    /// [`TransferError::Options`]; [`TransferError::Engine`] if not even two threads can be started.
    pub fn with(options: LoaderOptions) -> Result<Self, TransferError> {
        let loader = Self::without_ring(options, false)?;
        match loader.0.shared.start("bufmap-ring", reader::run) {
            true => Ok(loader),
            false => Err(no_thread()),
        }
    }

    /// A loader whose ring is driven by this thread, inside the calls of the [`Driver`]. It costs less for each request, for a
    /// program with a thread that does little but to submit and to wait. The loader itself may be used by any thread.
    ///
    /// # Errors
    /// As [`with`](Self::with).
    pub fn driven(options: LoaderOptions) -> Result<(Self, Driver), TransferError> {
        let loader = Self::without_ring(options, true)?;
        let driver = Driver::of(&loader.0.shared);
        Ok((loader, driver))
    }

    fn without_ring(options: LoaderOptions, is_driven: bool) -> Result<Self, TransferError> {
        let failed =
            |source| TransferError::Engine { step: "an eventfd", source, valid: Valid::default() };
        let wake = WakeFd::new().map_err(failed)?;
        let shared = Arc::new(Shared::new(options.checked()?, wake, worker::run, is_driven));
        let core = Core { shared, files: Mutex::default(), gpus: Mutex::default() };
        match core.shared.start_worker() {
            true => Ok(Self(Arc::new(core))),
            false => Err(no_thread()),
        }
    }

    /// Opens a file, or gives the one that is open already if the path still names it and nothing has changed it. It takes two
    /// descriptors until its last [`File`] and its last request are gone, one where its file system has no reads past the page
    /// cache: for thousands of files at a time see [`raise_limit`](crate::storage::file::open_files::raise_limit).
    ///
    /// # Errors
    /// [`TransferError::Open`].
    pub fn open(&self, path: impl AsRef<Path>) -> Result<File, TransferError> {
        let path = path.as_ref();
        let mut files = self.0.files.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(file) = files.get(path).and_then(Remembered::get)
            && is_still(path, &file)
        {
            return Ok(file);
        }
        let file = SourceFile::open(path).and_then(File::of);
        let file = file.map_err(|source| TransferError::Open { path: path.into(), source })?;
        files.retain(|_, remembered| remembered.get().is_some());
        files.insert(path.into(), file.downgrade());
        Ok(file)
    }

    /// Submits a request. Waits while as many requests wait as may.
    ///
    /// # Errors
    /// [`TransferError`], where the request cannot be done: it reaches past the end of its file or its buffer, ranges of
    /// it overlap, or the path that it requires cannot be had.
    pub fn submit(&self, request: Request) -> Result<Ticket, TransferError> {
        let planned = self.plan(&request)?;
        Ok(self.ticket(request, planned))
    }

    /// Submits a request, unless as many wait as may.
    ///
    /// # Errors
    /// [`Refused::Full`] with the request; [`Refused::Invalid`] as [`submit`](Self::submit).
    pub fn try_submit(&self, request: Request) -> Result<Ticket, Refused> {
        if !self.0.shared.has_space() {
            return Err(Refused::Full(Box::new(request)));
        }
        let planned = self.plan(&request)?;
        Ok(self.ticket(request, planned))
    }

    /// Submits a request whose outcome goes to `completions`. Waits while as many requests wait as may.
    ///
    /// # Errors
    /// As [`submit`](Self::submit): nothing goes to `completions` then.
    pub fn submit_to(
        &self,
        request: Request,
        completions: &Completions,
    ) -> Result<(), TransferError> {
        let taken_on = self.take_on(request, completions)?;
        self.0.shared.push([taken_on]);
        Ok(())
    }

    /// Submits requests together, whose outcomes go to `completions`: it costs less than one by one. Waits while as many
    /// requests wait as may.
    ///
    /// # Errors
    /// As [`submit`](Self::submit), for the first that cannot be done: none is submitted then.
    pub fn submit_all(
        &self,
        requests: impl IntoIterator<Item = Request>,
        completions: &Completions,
    ) -> Result<(), TransferError> {
        let taken_on = requests.into_iter().map(|request| self.take_on(request, completions));
        let taken_on = taken_on.collect::<Result<Vec<_>, _>>()?;
        self.0.shared.push(taken_on);
        Ok(())
    }

    fn take_on(
        &self,
        request: Request,
        completions: &Completions,
    ) -> Result<(Arc<Order>, Planned), TransferError> {
        let mut planned = self.plan(&request)?;
        let inbox = Arc::clone(completions.inbox());
        Ok((Order::new(request, &mut planned, Some(inbox)), planned))
    }

    /// Does a request and waits for its outcome. One that is a single aligned read, which nothing waits before, is read
    /// on this thread: no other has to be woken for it.
    ///
    /// # Errors
    /// [`TransferError`].
    pub fn load(&self, request: Request) -> Outcome {
        let mut planned = self.plan(&request)?;
        let shared = &self.0.shared;
        let alone =
            planned.direct.as_mut().filter(|_| shared.is_idle()).and_then(Reads::take_alone);
        let Some(job) = alone else {
            return self.ticket(request, planned).wait();
        };
        let submitted = Instant::now();
        shared.counters.submitted();
        let traced = Traced::request(request.priority, request.tag, request.bytes());
        let outcome = worker::read_at_once(request, &job);
        let paths = outcome.as_ref().map(|landed| landed.paths).unwrap_or_default();
        let elapsed = submitted.elapsed();
        shared.counters.ended(&outcome, &paths, elapsed);
        traced.ended(bytes_of(&outcome), elapsed);
        outcome
    }

    /// Ends all requests with a [tag](Request::tag) of which something waits, as [`Ticket::cancel`] does. Returns how
    /// many.
    pub fn cancel(&self, tag: u64) -> usize {
        self.0.shared.cancel_tag(tag)
    }

    /// What it has done so far.
    pub fn counts(&self) -> Counts {
        self.0.shared.counters.counts()
    }

    fn plan(&self, request: &Request) -> Result<Planned, TransferError> {
        let LoaderOptions { depth, block, .. } = self.0.shared.options;
        let staging = request.buffer.upload().map(|target| self.staging(target)).transpose()?;
        Planned::of(request, staging, (depth, block))
    }

    /// The slots out of which a device's queue copies, made when they are first needed.
    fn staging(&self, target: &dyn UploadTarget) -> Result<Arc<Staging>, TransferError> {
        let mut gpus = self.0.gpus.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(gpu) = gpus.iter().find(|gpu| gpu.owns(target)) {
            return Ok(Arc::clone(&gpu.staging));
        }
        let gpu = Gpu::start(&self.0.shared, target.owner())?;
        let staging = Arc::clone(&gpu.staging);
        gpus.push(gpu);
        Ok(staging)
    }

    fn ticket(&self, request: Request, mut planned: Planned) -> Ticket {
        let order = Order::new(request, &mut planned, None);
        self.0.shared.push([(Arc::clone(&order), planned)]);
        Ticket::new(order, Arc::clone(&self.0.shared))
    }
}

fn no_thread() -> TransferError {
    TransferError::Engine {
        step: "starting a thread of the loader",
        source: io::ErrorKind::WouldBlock.into(),
        valid: Valid::default(),
    }
}

/// Whether a path still names a file that is open, and nothing has changed it.
fn is_still(path: &Path, file: &File) -> bool {
    let same = |a: Stat, b: Stat| (a.st_dev, a.st_ino) == (b.st_dev, b.st_ino);
    let named = stat(path).ok().zip(fstat(file.source()).ok());
    named.is_some_and(|(named, open)| same(named, open)) && file.source().check_unchanged().is_ok()
}
