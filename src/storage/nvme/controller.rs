//! A drive that this process drives.

use std::collections::BTreeSet;
use std::os::fd::OwnedFd;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use exporters::vfio::{Device, Interrupt};

use super::admin::Admin;
use super::error::NvmeError;
use super::identify::{IdentifyController, IdentifyNamespace};
use super::link::Link;
use super::patience::ControllerOptions;
use super::registers::{Capabilities, Version};

/// A namespace: a disk on the drive.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Namespace {
    id: u32,
    identity: IdentifyNamespace,
}

impl Namespace {
    /// Its number, from 1.
    pub const fn id(&self) -> u32 {
        self.id
    }

    /// What it says of itself.
    pub const fn identity(&self) -> &IdentifyNamespace {
        &self.identity
    }

    /// How many bytes it has.
    pub const fn len(&self) -> u64 {
        self.identity.len
    }

    /// Always false: a namespace without blocks is not active.
    pub const fn is_empty(&self) -> bool {
        false
    }
}

/// An NVMe controller, started and identified.
///
/// When it is dropped, the controller is told to shut down and stopped, so that another driver can
/// take the drive.
#[derive(Debug)]
pub struct Controller {
    // The link goes first, and stops the controller before any memory is unmapped.
    link: Link,
    admin: Mutex<Admin>,
    identity: IdentifyController,
    /// The numbers of I/O queues that are not in use.
    numbers: Mutex<BTreeSet<u16>>,
    queues: u16,
    /// By vector; the first is the admin queue's, which is polled.
    interrupts: Vec<OwnedFd>,
}

impl Controller {
    /// Starts the controller of a device that is bound to vfio-pci, and prepares for `queues` I/O
    /// queues (1 at least), or as many as it has. It takes over the device's interrupts
    /// ([`Device::listen`]), those of the kernel's requests to let go of it included.
    ///
    /// # Errors
    /// [`NvmeError`]: the device is no NVMe controller, is gone, does not get ready in the time that
    /// it says itself it needs, or lacks what this driver needs.
    pub fn open(device: Device, queues: u16) -> Result<Arc<Self>, NvmeError> {
        Self::open_with(device, ControllerOptions { queues, ..ControllerOptions::default() })
    }

    /// The same with other limits, and a flag that ends it.
    ///
    /// # Errors
    /// Those of [`open`](Self::open), and [`NvmeError::Interrupted`]; the controller is stopped then.
    pub fn open_with(device: Device, options: ControllerOptions) -> Result<Arc<Self>, NvmeError> {
        let queues = options.queues.max(1);
        let mut link = Link::open(device, options)?;
        let mut admin = Admin::new(&link)?;
        let started = Self::prepare(&mut link, &mut admin, queues);
        let (identity, queues, interrupts) = match started {
            Ok(prepared) => prepared,
            Err(error) => {
                drop(link);
                return Err(error);
            }
        };
        let numbers = Mutex::new((1..=queues).collect());
        let admin = Mutex::new(admin);
        Ok(Arc::new(Self { link, admin, identity, numbers, queues, interrupts }))
    }

    fn prepare(
        link: &mut Link,
        admin: &mut Admin,
        queues: u16,
    ) -> Result<(IdentifyController, u16, Vec<OwnedFd>), NvmeError> {
        admin.start(link)?;
        let identity = admin.identify_controller(link)?;
        link.set_shutdown(identity.shutdown);
        let queues = admin.ask_for_queues(link, queues)?;
        let vectors = link.device().interrupts(Interrupt::MsiX)?.min(u32::from(queues) + 1);
        let interrupts = link.device().listen(Interrupt::MsiX, vectors)?;
        Ok((identity, queues, interrupts))
    }

    /// The drive's PCI address.
    pub fn address(&self) -> &str {
        self.link.device().address()
    }

    /// The device, whose container memory must be mapped in to be read into.
    pub fn device(&self) -> &Device {
        self.link.device()
    }

    /// What the controller said when it was asked.
    pub fn identity(&self) -> &IdentifyController {
        &self.identity
    }

    /// What it can do by its registers.
    pub fn capabilities(&self) -> Capabilities {
        self.link.capabilities
    }

    /// The version of the specification it follows.
    pub fn version(&self) -> Version {
        self.link.version
    }

    /// How many I/O queues there can be at a time.
    pub fn queues(&self) -> u16 {
        self.queues
    }

    /// The active namespaces.
    ///
    /// # Errors
    /// [`NvmeError`]: a command failed, or an answer makes no sense.
    pub fn namespaces(&self) -> Result<Vec<Namespace>, NvmeError> {
        let mut admin = self.admin();
        let mut all = Vec::new();
        for id in admin.list_namespaces(&self.link, self.identity.namespaces)? {
            let identity = admin.identify_namespace(&self.link, id)?;
            all.extend(identity.map(|identity| Namespace { id, identity }));
        }
        Ok(all)
    }

    /// Stops the controller at once, and with it all that is in flight in any queue, which ends with
    /// [`NvmeError::Stopped`]. To use the drive again, drop this and open it anew.
    pub fn stop(&self) {
        self.link.stop("it was told to");
    }

    pub(super) fn link(&self) -> &Link {
        &self.link
    }

    pub(super) fn admin(&self) -> MutexGuard<'_, Admin> {
        self.admin.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(super) fn take_number(&self) -> Option<u16> {
        self.numbers.lock().unwrap_or_else(PoisonError::into_inner).pop_first()
    }

    pub(super) fn give_number(&self, number: u16) {
        self.numbers.lock().unwrap_or_else(PoisonError::into_inner).insert(number);
    }

    pub(super) fn interrupt(&self, vector: u16) -> Option<&OwnedFd> {
        self.interrupts.get(usize::from(vector))
    }
}
