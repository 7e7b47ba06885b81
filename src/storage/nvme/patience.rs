//! How long a controller is waited for: as long as it says that it takes, within limits, and hardly
//! any longer once somebody wants to stop.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use exporters::vfio::Device;

/// How a controller is opened.
///
/// ```no_run
/// use std::sync::Arc;
/// use std::sync::atomic::AtomicBool;
/// use bufmap::storage::nvme::{Controller, ControllerOptions};
/// use exporters::vfio::Container;
///
/// // A handler of Ctrl-C sets it, from another thread.
/// let stop = Arc::new(AtomicBool::new(false));
/// let options = ControllerOptions { stop: Arc::clone(&stop), ..ControllerOptions::default() };
/// let container = Arc::new(Container::new()?);
/// let drive = Controller::open_with(container.open("0000:02:00.0")?, options)?;
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
#[derive(Clone, Debug)]
pub struct ControllerOptions {
    /// How many I/O queues are prepared for, 1 at least; there may be fewer
    /// ([`Controller::queues`](super::Controller::queues)).
    pub queues: u16,
    /// The most that the controller is given to get ready, to stop or to shut down, though it say
    /// itself that it takes longer.
    pub patience: Duration,
    /// How long an administrative command may take.
    pub limit: Duration,
    /// Ends the waits for the controller soon after somebody sets it, those of closing it too. A
    /// controller that does not stop by then is cut off from the bus.
    pub stop: Arc<AtomicBool>,
}

/// One queue; the limits of the kernel's driver for commands, and for all else 128 seconds: up to
/// version 2.0 of the specification no controller could ask for more (CAP.TO, 255 half seconds). One
/// can since then (CRTO, up to nine hours); it takes a caller who knows that the drive is not broken.
impl Default for ControllerOptions {
    fn default() -> Self {
        Self {
            queues: 1,
            patience: Duration::from_secs(128),
            limit: Duration::from_secs(30),
            stop: Arc::default(),
        }
    }
}

/// How long a wait goes on once somebody wants to stop: a controller in good health is ready, stopped
/// or shut down in milliseconds, and so ends in order.
const GRACE: Duration = Duration::from_secs(1);

/// Why a wait ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum End {
    /// It took too long.
    Late,
    /// Somebody wants to stop.
    Stopped,
}

/// A wait.
#[derive(Debug)]
pub(super) struct Wait<'a> {
    start: Instant,
    limit: Duration,
    stop: &'a AtomicBool,
    stopping: Option<Instant>,
    nap: Duration,
}

impl<'a> Wait<'a> {
    pub fn begin(limit: Duration, stop: &'a AtomicBool) -> Self {
        let nap = Duration::from_micros(20);
        Self { start: Instant::now(), limit, stop, stopping: None, nap }
    }

    /// Whether it is time to give up. Ask before looking a last time: a process that was kept from
    /// running must look once more.
    pub fn end(&mut self) -> Option<End> {
        let now = Instant::now();
        if self.stop.load(Ordering::Relaxed) {
            let since = *self.stopping.get_or_insert(now);
            if now - since >= GRACE.min(self.limit) {
                return Some(End::Stopped);
            }
        }
        (now - self.start > self.limit).then_some(End::Late)
    }

    /// Lets the device work for a while, which is longer each time.
    pub fn rest(&mut self, device: &Device) {
        device.rest(self.nap);
        self.nap = (2 * self.nap).min(Duration::from_millis(5));
    }
}
