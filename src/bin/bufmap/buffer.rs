//! The buffer that a command line names.

use std::sync::Arc;

use bufmap::exporters::vfio::Container;
use bufmap::exporters::vulkan::{Device, VulkanError};
use bufmap::iomap::PageSize;
use bufmap::load::Target;
use bufmap::transfer::{DataPath, StepDown};

use crate::args::To;
use crate::exporter::exporter;
use crate::failure::Failure;

/// Which buffer, and of which device.
pub struct Wanted<'a> {
    pub to: &'a To,
    /// Which Vulkan device.
    pub device: Option<&'a str>,
    pub assume_vram_stays: bool,
    pub require: Option<DataPath>,
    /// How long it is at least, in bytes.
    pub len: u64,
}

impl Wanted<'_> {
    /// Makes it, in a drive's container if there is one.
    pub fn make(
        &self,
        container: Option<&Arc<Container>>,
    ) -> Result<(Target, Option<StepDown>), Failure> {
        let len = self.len;
        match self.to {
            To::Memory => Ok((Target::memory(len)?, None)),
            To::P2pmem(function) => Ok((Target::p2pmem(&function.to_string(), len)?, None)),
            To::Vfio(function, bar) => {
                let own = match container {
                    Some(container) => Arc::clone(container),
                    None => Arc::new(Container::new()?),
                };
                Ok((Target::vfio(&own, &function.to_string(), *bar, len)?, None))
            }
            To::Exported(source) => {
                Ok((Target::export(&*exporter(source, PageSize::Base)?, len)?, None))
            }
            To::Vram => Ok((self.vram()?, None)),
            To::Vulkan => {
                let device = Device::open(self.device)?;
                Ok(Target::vulkan(&device, len, self.require)?)
            }
        }
    }

    /// A buffer of a Vulkan device that the CPU sees and that stays where it is, as is known or promised.
    fn vram(&self) -> Result<Target, Failure> {
        let device = Device::open(self.device)?;
        let buffer = Arc::new(device.allocate_host_visible(usize::try_from(self.len.max(1))?)?);
        let steady = match buffer.steady() {
            Err(VulkanError::MayMove { device }) if !self.assume_vram_stays => {
                return Err(Failure::Error(format!(
                    "{device} may move a buffer in its own memory, and nobody would tell the drive that \
                     writes there; if you know that it does not, say --assume-vram-stays, or load --to \
                     vulkan"
                )));
            }
            #[allow(unsafe_code)]
            // SAFETY: who runs this promised it on the command line, under the option's name.
            Err(VulkanError::MayMove { .. }) => unsafe { buffer.assume_it_stays() }?,
            known => known?,
        };
        Ok(Target::Visible(steady))
    }
}
