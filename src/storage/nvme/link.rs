//! The controller's life: started, stopped, shut down, and watched meanwhile.
//!
//! NVM Express Base Specification 2.0c, sections 3.5 (initialisation), 3.6 (shutdown) and 3.7 (reset).
//! Every wait has a bound. Once the controller is stopped, on purpose or because it failed, it makes
//! no transfer any more, and every use of it ends with the reason.

use std::os::fd::OwnedFd;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use exporters::vfio::{Device, Interrupt, Region};

use super::PAGE;
use super::error::NvmeError;
use super::patience::{ControllerOptions, End, Wait};
use super::registers::{Capabilities, Configuration, ControllerStatus, Fault, Registers, Version};

/// How long an orderly shutdown may take where the controller does not say, and the most that is
/// believed of one that says (RTD3E, over an hour): as in the kernel's driver.
const SHUTDOWN: Duration = Duration::from_secs(5);
const LONGEST_SHUTDOWN: Duration = Duration::from_secs(60);

/// A device and its registers.
#[derive(Debug)]
pub(super) struct Link {
    device: Device,
    region: Arc<Region>,
    /// Counts the kernel's requests to let go of the device.
    recall: Vec<OwnedFd>,
    pub capabilities: Capabilities,
    pub version: Version,
    options: ControllerOptions,
    /// How long it may take to get ready or to stop.
    patience: Duration,
    shutdown: Duration,
    /// Set once the controller is stopped, after its last transfer.
    down: AtomicBool,
    /// Why it was stopped. Held while it is being stopped.
    why: Mutex<Option<String>>,
}

impl Link {
    /// Takes hold of a controller, which is stopped if it was running.
    pub fn open(device: Device, options: ControllerOptions) -> Result<Self, NvmeError> {
        let region = Arc::new(device.map_region(0)?);
        let failed = |fault| error_of(&device, fault);
        let registers = Registers::new(region.map());
        let capabilities = registers.capabilities().map_err(failed)?;
        let version = registers.version().map_err(failed)?;
        let mut patience = capabilities.timeout();
        if capabilities.has_ready_timeouts() {
            patience = patience.max(registers.ready_timeout().map_err(failed)?);
        }
        // Not every kernel has this interrupt; without it the device is let go of when it is closed.
        let recall = device.listen(Interrupt::Release, 1).unwrap_or_default();
        let link = Self {
            recall,
            capabilities,
            version,
            patience: patience.min(options.patience),
            shutdown: SHUTDOWN.min(options.patience),
            options,
            down: AtomicBool::new(false),
            why: Mutex::default(),
            region,
            device,
        };
        link.check_supported()?;
        // What does not stop now would not stop when it is closed either.
        link.disable().inspect_err(|_| link.cut_off("it did not stop when it was opened"))?;
        Ok(link)
    }

    fn check_supported(&self) -> Result<(), NvmeError> {
        let capabilities = self.capabilities;
        let refused = |what, why| Err(self.unsupported(what, why));
        if !capabilities.has_nvm_commands() && !capabilities.has_command_sets() {
            return refused("reading blocks", "it has administrative commands only".into());
        }
        if capabilities.queue_entries() < 2 {
            let why = "it says so (CAP.MQES), and two are the least; update its firmware".into();
            return refused("a queue of two entries", why);
        }
        if capabilities.min_page() > PAGE {
            let least = capabilities.min_page();
            return refused(
                "a page of 4096 bytes",
                format!("its least is {least}; leave it to the kernel's driver"),
            );
        }
        Ok(())
    }

    /// The PCI address.
    pub fn device(&self) -> &Device {
        &self.device
    }

    pub fn region(&self) -> &Arc<Region> {
        &self.region
    }

    /// Takes over what the controller says about its shutdown.
    pub fn set_shutdown(&mut self, limit: Option<Duration>) {
        let limit = limit.unwrap_or(SHUTDOWN).clamp(SHUTDOWN, LONGEST_SHUTDOWN);
        self.shutdown = limit.min(self.options.patience);
    }

    /// Starts the controller with these admin queues: address and number of entries.
    pub fn start(&self, submission: (u64, u16), completion: (u64, u16)) -> Result<(), NvmeError> {
        self.device.set_bus_master(true)?;
        let registers = self.registers();
        let configuration = Configuration::enabled(PAGE, self.capabilities);
        registers
            .set_admin_queues(submission, completion)
            .and_then(|()| registers.set_configuration(configuration))
            .map_err(|fault| self.error(fault))?;
        let settled = ControllerStatus::READY | ControllerStatus::FATAL;
        let ready = self.wait("get ready", self.patience, |status| status.intersects(settled));
        ready.inspect_err(|_| self.stop("it did not get ready"))?;
        self.check()
    }

    /// Whether the controller is at work, or else why not. It costs a read of a register, which
    /// takes about a microsecond.
    pub fn check(&self) -> Result<(), NvmeError> {
        self.check_up()?;
        if self.is_recalled() {
            self.stop("the kernel asked for the device back");
            return Err(NvmeError::Recalled { device: self.name() });
        }
        match self.registers().status() {
            Ok(status) if status.contains(ControllerStatus::FATAL) => {
                self.stop("it reported a fatal error (CSTS.CFS)");
                Err(NvmeError::Fatal { device: self.name() })
            }
            Ok(status) if !status.contains(ControllerStatus::READY) => {
                self.stop("it was reset, unplugged, or lost its power");
                Err(NvmeError::Reset { device: self.name() })
            }
            Ok(_) => Ok(()),
            Err(fault) => {
                self.stop("it no longer answered");
                Err(self.error(fault))
            }
        }
    }

    /// Whether the controller has not been stopped, which costs next to nothing.
    pub fn check_up(&self) -> Result<(), NvmeError> {
        if !self.down.load(Ordering::Acquire) {
            return Ok(());
        }
        Err(self.stopped())
    }

    /// What a use of the controller ends with once it is stopped.
    pub fn stopped(&self) -> NvmeError {
        let why = self.why.lock().unwrap_or_else(PoisonError::into_inner).clone();
        NvmeError::Stopped { device: self.name(), why: why.unwrap_or_default() }
    }

    /// Whether nobody wants to stop. Asked before each step that could be left out.
    pub fn check_wanted(&self) -> Result<(), NvmeError> {
        match self.is_unwanted() {
            true => Err(NvmeError::Interrupted { device: self.name() }),
            false => Ok(()),
        }
    }

    /// Whether somebody wants to stop.
    pub fn is_unwanted(&self) -> bool {
        self.options.stop.load(Ordering::Relaxed)
    }

    pub const fn options(&self) -> &ControllerOptions {
        &self.options
    }

    fn is_recalled(&self) -> bool {
        let mut count = [0; 8];
        self.recall.iter().any(|fd| rustix::io::read(fd, &mut count).is_ok())
    }

    /// Stops the controller for good. When this returns it makes no transfer any more: it has said
    /// so, or it has been cut off from the bus.
    pub fn stop(&self, why: &str) {
        self.end(why, || self.disable().is_ok());
    }

    /// The same for a controller that is known not to stop when it is told to.
    fn cut_off(&self, why: &str) {
        self.end(why, || false);
    }

    fn end(&self, why: &str, stops: impl FnOnce() -> bool) {
        let mut reason = self.why.lock().unwrap_or_else(PoisonError::into_inner);
        if reason.is_some() {
            return;
        }
        let stopped = stops();
        // If nothing of this succeeds, there is no device any more; and what is unmapped the IOMMU
        // keeps it from in any case.
        let _ = self.device.set_bus_master(false);
        if !stopped {
            let _ = self.device.reset();
        }
        *reason = Some(why.to_owned());
        self.down.store(true, Ordering::Release);
    }

    /// Clears CC.EN and waits until the controller says that it has stopped (section 3.7.2).
    fn disable(&self) -> Result<(), NvmeError> {
        let registers = self.registers();
        let configuration = registers.configuration().map_err(|fault| self.error(fault))?;
        let stopped = configuration.stopped();
        registers.set_configuration(stopped).map_err(|fault| self.error(fault))?;
        self.wait("stop", self.patience, |status| !status.contains(ControllerStatus::READY))
    }

    /// Tells the controller that it is about to lose its user, so that it writes back what it has
    /// cached, and stops it (section 3.6.1).
    fn shut_down(&self) -> Result<(), NvmeError> {
        let registers = self.registers();
        let configuration = registers.configuration().map_err(|fault| self.error(fault))?;
        if configuration.is_enabled() {
            let notified = configuration.shutting_down();
            registers.set_configuration(notified).map_err(|fault| self.error(fault))?;
            self.wait("shut down", self.shutdown, ControllerStatus::is_shut_down)?;
        }
        Ok(())
    }

    fn wait(
        &self,
        wanted: &'static str,
        limit: Duration,
        reached: impl Fn(ControllerStatus) -> bool,
    ) -> Result<(), NvmeError> {
        let mut wait = Wait::begin(limit, &self.options.stop);
        loop {
            let end = wait.end();
            let status = self.registers().status().map_err(|fault| self.error(fault))?;
            if reached(status) {
                return Ok(());
            }
            match end {
                Some(End::Late) => {
                    return Err(NvmeError::Stuck { device: self.name(), wanted, limit });
                }
                Some(End::Stopped) => {
                    return Err(NvmeError::Interrupted { device: self.name() });
                }
                None => wait.rest(&self.device),
            }
        }
    }

    fn registers(&self) -> Registers<'_> {
        Registers::new(self.region.map())
    }

    /// Its PCI address, for errors.
    pub fn name(&self) -> String {
        self.device.address().to_owned()
    }

    pub fn error(&self, fault: Fault) -> NvmeError {
        error_of(&self.device, fault)
    }

    pub fn unsupported(&self, what: &'static str, why: String) -> NvmeError {
        NvmeError::Unsupported { device: self.name(), what, why }
    }
}

fn error_of(device: &Device, fault: Fault) -> NvmeError {
    let device = device.address().to_owned();
    match fault {
        Fault::Gone => NvmeError::Gone { device },
        Fault::Map(source) => NvmeError::Registers { device, source },
    }
}

/// The controller is shut down in good order if it is at work, and stopped in any case.
impl Drop for Link {
    fn drop(&mut self) {
        if !self.down.load(Ordering::Acquire) {
            let _ = self.shut_down();
            self.stop("it was closed");
        }
        // Whoever keeps the device hears of its interrupts no more.
        let _ = self.device.listen(Interrupt::MsiX, 0);
        let _ = self.device.listen(Interrupt::Release, 0);
    }
}
