//! An I/O queue: reads put in, and taken out as they end.
//!
//! # How a read ends
//!
//! Every read that was put in comes out once, with its result. It ends by its completion; or, if that
//! does not come in time, by an abort (NVM Express Base Specification 2.0c, section 5.1), which the
//! controller answers when it can; or, if it does not answer that either, by stopping the controller,
//! after which no transfer is made any more. Only then is the memory let go of that it was to fill.
//!
//! The time of a read begins when its queue is first waited for without anything coming out, so that
//! the clock need not be read for those that end at once.

use std::collections::VecDeque;
use std::ops::Range;
use std::sync::Arc;
use std::time::{Duration, Instant};

use exporters::Intent;
use exporters::vfio::{Container, DmaMapping};
use iomap::{DmaAddr, Memory, PageSize};
use rustix::event::{PollFd, PollFlags, Timespec};

use super::PAGE;
use super::admin;
use super::command::{DataPointer, Operation};
use super::controller::{Controller, Namespace};
use super::data::{Describer, ListError, Lists};
use super::error::NvmeError;
use super::link::Link;
use super::list::ListMemory;
use super::pair::{Ended, Pair, Trouble};
use super::prp;
use super::sgl::Data;
use super::target::Target;
use crate::dma::Mapped;

/// How a queue is waited for.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Wake {
    /// The processor looks until something is there. It costs a core and the least time.
    #[default]
    Polled,
    /// The process sleeps until the drive interrupts it (MSI-X, by an eventfd).
    Interrupt,
}

/// What a queue is to be like.
#[derive(Clone, Copy, Debug)]
pub struct QueueOptions {
    /// How many entries its rings have: one more than reads can be in flight. It is cut to what the
    /// controller has ([`Capabilities::queue_entries`](super::Capabilities::queue_entries)).
    pub entries: u32,
    /// The longest read in bytes, for which memory for lists is set aside. It is cut to what the
    /// controller takes.
    pub max_read: u64,
    /// How it is waited for.
    pub wake: Wake,
    /// How memory is described to the drive.
    pub lists: Lists,
    /// How long a read may take before it is aborted.
    pub limit: Duration,
}

/// 256 entries, reads of up to 1 MiB, polled, the lists that fit, and 30 seconds as in the kernel.
impl Default for QueueOptions {
    fn default() -> Self {
        Self {
            entries: 256,
            max_read: 1 << 20,
            wake: Wake::Polled,
            lists: Lists::Fitting,
            limit: Duration::from_secs(30),
        }
    }
}

/// How long an aborted read may take to end before the controller is stopped.
const GRACE: Duration = Duration::from_secs(2);

/// How many times the ring is looked at before anything else is.
const SPINS: u32 = 1000;

/// How often a queue that sleeps looks after the controller.
const NAP: Duration = Duration::from_millis(20);

/// How often a queue that is polled looks after the controller.
const LOOK: Duration = Duration::from_millis(5);

/// A read that ended.
#[derive(Debug)]
pub struct Finished {
    /// The number that the caller gave it.
    pub id: u64,
    /// Whether its bytes have arrived, all of them; or else what happened. After an error none of
    /// them may be relied on.
    pub result: Result<(), NvmeError>,
    /// Where they went.
    pub target: Arc<Target>,
}

/// A read in flight.
#[derive(Debug)]
struct InFlight {
    id: u64,
    operation: Operation,
    /// What it fills. It is neither unmapped nor unpinned before this is dropped.
    target: Arc<Target>,
    since: Since,
}

/// What a read is waiting for.
#[derive(Clone, Copy, Debug)]
enum Since {
    /// Its completion; nobody has waited for it yet.
    Fresh,
    /// Its completion, since then.
    Begun(Instant),
    /// Its end after an abort, since then.
    Aborted(Instant),
}

/// An I/O queue of a [`Controller`], for one thread at a time.
///
/// ```no_run
/// use std::sync::Arc;
/// use bufmap::storage::nvme::{Controller, QueueOptions, Target};
/// use exporters::Intent;
/// use exporters::vfio::Container;
/// use iomap::{Memory, PageSize};
///
/// let container = Arc::new(Container::new()?);
/// let drive = Controller::open(container.open("0000:02:00.0")?, 1)?;
/// let namespace = drive.namespaces()?.remove(0);
/// let mut queue = drive.queue(QueueOptions::default())?;
///
/// let memory = Memory::anonymous(64 << 10, PageSize::Base)?;
/// let mapping = Arc::new(container.map_dma(memory, Intent::Write)?);
/// let mut target = Target::default();
/// target.push(&mapping, 0..64 << 10)?;
/// let target = Arc::new(target);
///
/// // Bytes 1 MiB to 1 MiB + 64 KiB of the namespace.
/// queue.read(7, &namespace, 1 << 20, &target, 0..64 << 10)?;
/// while let Some(finished) = queue.wait() {
///     finished.result?;
///     assert_eq!(finished.id, 7);
/// }
/// println!("{}", mapping.map().read::<u64>(0)?);
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
///
/// When it is dropped it waits for what is in flight, for as long as a read may take at most.
#[derive(Debug)]
pub struct Queue {
    pair: Pair<InFlight>,
    number: u16,
    lists: DmaMapping<Memory>,
    list_len: usize,
    describer: Describer,
    /// The describer's page for waste.
    _waste: DmaMapping<Memory>,
    options: QueueOptions,
    /// Reads that have ended and not come out: without a completion, or while another was waited for.
    failed: VecDeque<Finished>,
    /// How often the ring was looked at since it was asked whether it is time to look further.
    spins: u32,
    /// When the controller was looked after.
    looked: Instant,
    controller: Arc<Controller>,
}

impl Controller {
    /// Creates an I/O queue.
    ///
    /// # Errors
    /// [`NvmeError::Unsupported`] if all queues are in use, if it has no interrupt for another, or if
    /// it takes no such lists; or the controller refuses.
    pub fn queue(self: &Arc<Self>, options: QueueOptions) -> Result<Queue, NvmeError> {
        let number = self.take_number().ok_or_else(|| {
            let why = format!("all {} are in use; open it with more", self.queues());
            self.link().unsupported("another queue", why)
        })?;
        let made = Queue::create(self, number, options);
        if made.is_err() {
            self.give_number(number);
        }
        made
    }
}

impl Queue {
    fn create(
        controller: &Arc<Controller>,
        number: u16,
        mut options: QueueOptions,
    ) -> Result<Self, NvmeError> {
        let link = controller.link();
        let most = controller.capabilities().queue_entries();
        options.entries = options.entries.min(most).max(2);
        let limit = controller.identity().max_transfer(controller.capabilities().min_page());
        options.max_read = options.max_read.clamp(PAGE, limit.max(PAGE));
        if options.lists == Lists::Sgl && controller.identity().sgl.is_none() {
            let why = "it says so (SGLS); use PRP lists".into();
            return Err(link.unsupported("a scatter-gather list", why));
        }
        if options.wake == Wake::Interrupt && controller.interrupt(number).is_none() {
            let why = format!("it has none for queue {number}; poll this one");
            return Err(link.unsupported("another interrupt", why));
        }
        let container = link.device().container();
        let list_len = prp::list_len(options.max_read, PAGE) as usize;
        let lists = list_len.saturating_mul(options.entries as usize);
        let lists = Memory::anonymous(lists, PageSize::Base)?;
        let waste = container.map_dma(Memory::anonymous(1, PageSize::Base)?, Intent::Write)?;
        let describer = Describer::new(options.lists, controller.identity().sgl, waste.iova());
        let queue = Self {
            pair: Pair::new(link, number, options.entries)?,
            number,
            lists: container.map_dma(lists, Intent::ReadWrite)?,
            list_len,
            describer,
            _waste: waste,
            options,
            failed: VecDeque::new(),
            spins: 0,
            looked: Instant::now(),
            controller: Arc::clone(controller),
        };
        queue.register()?;
        Ok(queue)
    }

    /// Makes the rings known to the controller: completions first, which the commands refer to.
    fn register(&self) -> Result<(), NvmeError> {
        let link = self.link();
        let mut admin = self.controller.admin();
        let (submissions, completions) = self.pair.addresses();
        let (queue, entries) = (self.number, self.pair.entries());
        let vector = (self.options.wake == Wake::Interrupt).then_some(queue);
        let create = Operation::CreateCompletionQueue { queue, entries, vector };
        admin.change_queue(link, create, Some(completions))?;
        let create = Operation::CreateSubmissionQueue { queue, entries };
        let made = admin.change_queue(link, create, Some(submissions));
        if made.is_err() {
            let delete = Operation::DeleteCompletionQueue { queue };
            let _ = admin.change_queue(link, delete, None);
        }
        made
    }

    /// How it is waited for.
    pub fn wake(&self) -> Wake {
        self.options.wake
    }

    /// How many reads can be in flight.
    pub fn depth(&self) -> usize {
        self.pair.entries() as usize - 1
    }

    /// How many reads were put in and have not come out.
    pub fn len(&self) -> usize {
        self.pair.slots.taken() + self.failed.len()
    }

    /// Whether all reads have come out.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Whether another read can be put in.
    pub fn has_room(&self) -> bool {
        self.pair.has_room()
    }

    /// The longest read in bytes.
    pub fn max_read(&self) -> u64 {
        self.options.max_read
    }

    /// Puts in a read of the bytes of `namespace` from `offset` on, as many as `part` of `target`
    /// has, which they fill. It comes out again with the number `id`, of which the caller makes what
    /// it likes. The drive learns of it when the queue is looked at or
    /// [told to go](Self::announce), so that many can be put in at the price of one.
    ///
    /// The offset and the end need be no multiples of the namespace's blocks if the drive takes SGLs:
    /// what comes before and after goes to waste.
    ///
    /// # Errors
    /// Nothing was put in: [`NvmeError::Full`], [`NvmeError::Outside`], [`NvmeError::TooLong`];
    /// [`NvmeError::List`] if the target cannot be described to the drive;
    /// [`NvmeError::Unsupported`] for blocks with metadata; [`NvmeError::Stopped`].
    pub fn read(
        &mut self,
        id: u64,
        namespace: &Namespace,
        offset: u64,
        target: &Arc<Target>,
        part: Range<u64>,
    ) -> Result<(), NvmeError> {
        self.link().check_up()?;
        let Some(command) = self.pair.slots.next() else {
            return Err(NvmeError::Full { device: self.link().name(), depth: self.depth() });
        };
        let blocks = self.blocks(namespace, offset, target, &part)?;
        let data = self
            .describe(command, &blocks, target, part)
            .map_err(|source| NvmeError::List { device: self.link().name(), source })?;
        let operation =
            Operation::Read { namespace: namespace.id(), lba: blocks.lba, blocks: blocks.count };
        let read = InFlight { id, operation, target: Arc::clone(target), since: Since::Fresh };
        let put = self.pair.submit(command, operation, data, read);
        put.map_err(|source| admin::at_fault(self.link(), source))
    }

    /// The longest part that one read takes wherever it begins in its block: whole pages if it can be,
    /// so that parts in a row begin with pages as the first one does.
    pub(super) fn longest_part(&self, namespace: &Namespace) -> u64 {
        let block = u64::from(namespace.identity().block_size);
        let rest = self.options.max_read.saturating_sub(block);
        if rest >= PAGE { rest / PAGE * PAGE } else { block }
    }

    /// The most bytes of one read that begins and ends with blocks: one block at least.
    ///
    /// # Errors
    /// [`NvmeError::Unsupported`] for blocks that are longer than a read.
    pub(crate) fn whole_blocks(&self, namespace: &Namespace) -> Result<u64, NvmeError> {
        let block = u64::from(namespace.identity().block_size);
        match self.options.max_read.min(MAX_BLOCKS * block) / block * block {
            0 => Err(self.long_blocks(block)),
            most => Ok(most),
        }
    }

    #[cold]
    fn long_blocks(&self, block: u64) -> NvmeError {
        let most = self.options.max_read;
        let why = format!(
            "a read of this queue has {most} bytes at most; allow longer ones, or format the namespace with smaller blocks"
        );
        self.link()
            .unsupported("a block longer than a read", format!("one has {block} bytes, and {why}"))
    }

    /// The container that its memory is mapped in.
    pub fn container(&self) -> Arc<Container> {
        Arc::clone(self.link().device().container())
    }

    /// Reads the namespace's bytes from `offset` on to where a mapping leads, all of it, and waits.
    /// Reads that were put in before end as ever, and come out later.
    ///
    /// The mapping must be in the drive's container: addresses of another reach nothing, and the
    /// IOMMU makes an error of it.
    ///
    /// # Errors
    /// Those of [`read`](Self::read), and of a read that failed.
    pub fn read_to(
        &mut self,
        namespace: &Namespace,
        offset: u64,
        mapped: &Mapped<'_>,
    ) -> Result<(), NvmeError> {
        let target = Arc::new(Target::lent(mapped.list(), &self.container()));
        let longest = self.longest_part(namespace);
        let total = mapped.list().total();
        let mut others = VecDeque::new();
        let mut result = Ok(());
        for at in (0..total).step_by(longest as usize) {
            let part = at..total.min(at + longest);
            result = self.read(0, namespace, offset + at, &target, part);
            // The mapping is lent until the read has ended, or the controller has been stopped.
            while result.is_ok() {
                match self.wait() {
                    Some(finished) if Arc::ptr_eq(&finished.target, &target) => {
                        result = finished.result;
                        break;
                    }
                    Some(other) => others.push_back(other),
                    None => break,
                }
            }
            if result.is_err() {
                break;
            }
        }
        self.failed.append(&mut others);
        result
    }

    /// Which blocks the bytes are in, if they may be read.
    #[inline]
    fn blocks(
        &self,
        namespace: &Namespace,
        offset: u64,
        target: &Target,
        part: &Range<u64>,
    ) -> Result<Blocks, NvmeError> {
        let link = self.link();
        let identity = namespace.identity();
        let len = part.end.saturating_sub(part.start);
        let end = offset.saturating_add(len);
        if len == 0 || part.end > target.len() || end > identity.len {
            let device = link.name();
            return Err(NvmeError::Outside { device, offset, len, namespace_len: identity.len });
        }
        if !target.is_in(link.device().container()) {
            return Err(NvmeError::Container { device: link.name() });
        }
        if identity.metadata != 0 {
            let why = "format the namespace without it, or read it through the kernel".into();
            return Err(link.unsupported("blocks with metadata", why));
        }
        let size = u64::from(identity.block_size);
        let (head, tail) = (offset & (size - 1), end.wrapping_neg() & (size - 1));
        let whole = head + len + tail;
        let count = whole >> size.trailing_zeros();
        if whole > self.options.max_read || count > MAX_BLOCKS {
            let most = self.options.max_read.min(MAX_BLOCKS * size);
            return Err(NvmeError::TooLong { device: link.name(), len: whole, most });
        }
        Ok(Blocks { lba: offset >> size.trailing_zeros(), count: count as u32, head, tail })
    }

    /// Describes where the bytes of a command go.
    #[inline]
    fn describe(
        &mut self,
        command: u16,
        blocks: &Blocks,
        target: &Target,
        part: Range<u64>,
    ) -> Result<DataPointer, ListError> {
        let at = self.pair.slots.place(command) * self.list_len;
        let map = self.lists.map().subrange(at..at + self.list_len)?;
        let list = ListMemory::new(map, DmaAddr::new(self.lists.iova().get() + at as u64));
        let memory = target.list().part(part)?;
        self.describer.describe(&Data { head: blocks.head, memory, tail: blocks.tail }, &list)
    }

    /// Tells the drive of the reads that were put in.
    ///
    /// # Errors
    /// [`NvmeError::Registers`], if the doorbells are not where they should be.
    pub fn announce(&mut self) -> Result<(), NvmeError> {
        let announced = self.pair.announce();
        announced.map_err(|source| admin::at_fault(self.link(), source))
    }

    /// Takes out a read that has ended, if there is one. It looks at the ring and nowhere else, so a
    /// drive that has gone silent is noticed by [`wait`](Self::wait) only.
    #[inline]
    pub fn poll(&mut self) -> Option<Finished> {
        if let Some(finished) = self.failed.pop_front() {
            return Some(finished);
        }
        let taken = self.pair.announce().map_err(Trouble::Map).and_then(|()| self.pair.take());
        match taken {
            Ok(ended) => ended.map(|ended| self.finish(ended)),
            Err(trouble) => {
                self.fail(trouble);
                self.failed.pop_front()
            }
        }
    }

    /// Takes out a read that has ended, and waits for one if need be; `None` if there is none to
    /// wait for. It ends in bounded time: the limit of the queue's options, two seconds for an
    /// abort, and what the controller takes to stop.
    pub fn wait(&mut self) -> Option<Finished> {
        loop {
            self.spins += 1;
            if self.spins >= SPINS {
                self.spins = 0;
                self.link().device().rest(Duration::ZERO);
                self.look_if_due();
            }
            if let Some(finished) = self.poll() {
                return Some(finished);
            }
            if self.is_empty() {
                return None;
            }
            match self.options.wake {
                Wake::Polled => std::hint::spin_loop(),
                Wake::Interrupt => self.sleep(),
            }
        }
    }

    /// Sleeps until the drive interrupts, or it is time to look after it.
    fn sleep(&mut self) {
        if let Some(eventfd) = self.controller.interrupt(self.number) {
            self.link().device().rest(Duration::ZERO);
            let mut fds = [PollFd::new(eventfd, PollFlags::IN)];
            let nap = NAP.min(self.options.limit);
            let _ = rustix::event::poll(&mut fds, Timespec::try_from(nap).ok().as_ref());
            // It counts on while nobody reads it; the ring says how many there are.
            let _ = rustix::io::read(eventfd, &mut [0; 8]);
        }
        self.spins = SPINS;
    }

    fn finish(&self, ended: Ended<InFlight>) -> Finished {
        let InFlight { id, operation, target, since } = ended.what;
        let status = ended.entry.status();
        let result = match since {
            _ if status.is_success() => Ok(()),
            Since::Aborted(_) if status.is_aborted() => Err(self.timed_out(operation, false)),
            _ => Err(NvmeError::Command { device: self.link().name(), operation, status }),
        };
        Finished { id, result, target }
    }

    fn look_if_due(&mut self) {
        if self.looked.elapsed() >= LOOK {
            self.look();
            self.looked = Instant::now();
        }
    }

    /// Looks after the controller, and after reads that take too long.
    fn look(&mut self) {
        if let Err(error) = self.link().check() {
            return self.give_up(None, error);
        }
        // Who wants to stop waits for no read that takes long already.
        let limit = match self.link().is_unwanted() {
            true => self.options.limit.min(GRACE),
            false => self.options.limit,
        };
        let (now, grace) = (Instant::now(), self.grace());
        let (mut late, mut hopeless) = (Vec::new(), None);
        for (command, read) in self.pair.slots.iter_mut() {
            match read.since {
                Since::Fresh => read.since = Since::Begun(now),
                Since::Begun(start) if now - start >= limit => {
                    read.since = Since::Aborted(now);
                    late.push(command);
                }
                Since::Aborted(start) if now - start >= grace => {
                    hopeless = Some((command, read.operation));
                }
                Since::Begun(_) | Since::Aborted(_) => {}
            }
        }
        for command in late {
            // If it cannot be aborted, it still has its time of grace, which all of them share.
            let left = grace.saturating_sub(now.elapsed());
            if left.is_zero() {
                break;
            }
            let _ = self.controller.admin().abort(self.link(), (self.number, command), left);
        }
        if let Some((command, operation)) = hopeless {
            let why = format!("a read did not end within {limit:?}, nor could it be aborted");
            self.link().stop(&why);
            self.give_up(Some(command), self.timed_out(operation, true));
        }
    }

    /// How long an aborted read has to end.
    fn grace(&self) -> Duration {
        GRACE.min(self.link().options().patience)
    }

    fn timed_out(&self, operation: Operation, stopped: bool) -> NvmeError {
        let (device, limit) = (self.link().name(), self.options.limit);
        NvmeError::TimedOut { device, operation, limit, stopped }
    }

    /// Ends all reads in flight, once the controller is stopped. `error` is that of `culprit`, or of
    /// any if there is none; the others end with the reason of the stop.
    fn give_up(&mut self, culprit: Option<u16>, error: NvmeError) {
        let mut error = Some(error);
        for (command, InFlight { id, target, .. }) in self.pair.slots.take_all() {
            let own = culprit.is_none_or(|culprit| culprit == command);
            let result = match error.take_if(|_| own) {
                Some(error) => Err(error),
                None => Err(self.link().stopped()),
            };
            self.failed.push_back(Finished { id, result, target });
        }
    }

    fn fail(&mut self, trouble: Trouble) {
        let error = match trouble {
            Trouble::Unasked(command) => admin::unasked(self.link(), self.number, command),
            Trouble::Map(source) => {
                self.link().stop("its registers are not where they should be");
                admin::at_fault(self.link(), source)
            }
        };
        self.give_up(None, error);
    }

    fn link(&self) -> &Link {
        self.controller.link()
    }

    /// Deletes the queue: commands first, which refer to completions.
    fn unregister(&self) -> Result<(), NvmeError> {
        let queue = self.number;
        let mut admin = self.controller.admin();
        admin.change_queue(self.link(), Operation::DeleteSubmissionQueue { queue }, None)?;
        admin.change_queue(self.link(), Operation::DeleteCompletionQueue { queue }, None)
    }
}

impl Drop for Queue {
    fn drop(&mut self) {
        while self.wait().is_some() {}
        if self.link().check_up().is_ok() && self.unregister().is_err() {
            self.link().stop("it did not let go of a queue");
        }
        self.controller.give_number(self.number);
    }
}

/// The blocks of a read.
struct Blocks {
    lba: u64,
    count: u32,
    /// Bytes of the first and of the last one that nobody wants.
    head: u64,
    tail: u64,
}

/// A command reads so many blocks at most.
const MAX_BLOCKS: u64 = 1 << 16;
