//! A drive and the card, both this process's.

use std::sync::Arc;

use bufmap::exporters::vfio::{Container, Device};
use bufmap::pci::{Address, driver};
use bufmap::storage::nvme::{Controller, Namespace};
use libtest_mimic::Failed;

use crate::card::card;
use crate::drive::Drive;

/// A drive with its first namespace, and the card, in one container.
pub struct Ours {
    /// The container.
    pub container: Arc<Container>,
    /// The drive's address.
    pub drive: Address,
    /// The card.
    pub card: Device,
    /// The drive.
    pub controller: Arc<Controller>,
    /// Its first namespace.
    pub namespace: Namespace,
}

impl Ours {
    /// Takes the drive with a serial number and the card from the kernel.
    ///
    /// # Errors
    /// Fails the test if one of them cannot be had.
    pub fn open(container: Container, serial: &str) -> Result<Self, Failed> {
        Self::open_at(container, Drive::returned(serial)?.address()?)
    }

    /// The same of a drive whose address is known.
    ///
    /// # Errors
    /// Fails the test if one of them cannot be had.
    pub fn open_at(container: Container, drive: Address) -> Result<Self, Failed> {
        let container = Arc::new(container);
        let open = |address: Address| -> Result<Device, Failed> {
            driver::bind(address, "vfio-pci")?;
            Ok(container.open(&address.to_string())?)
        };
        let card = open(card()?)?;
        let controller = Controller::open(open(drive)?, 1)?;
        let namespace = controller.namespaces()?.remove(0);
        Ok(Self { container, drive, card, controller, namespace })
    }
}
