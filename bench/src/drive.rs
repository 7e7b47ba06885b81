//! The drives of a machine, by the serial numbers that the bench gives them.

use std::fs;
use std::path::{Path, PathBuf};
use std::time::Duration;

use bufmap::pci::{Address, Class, Function, Tree, driver};
use libtest_mimic::Failed;

use crate::{check, comes_true};

/// An NVMe drive.
#[derive(Debug)]
pub struct Drive {
    /// The block device of its first namespace.
    pub block: PathBuf,
    /// Its PCI function's directory in sysfs.
    pub function: PathBuf,
}

impl Drive {
    /// The drive with this serial number.
    ///
    /// # Errors
    /// Fails the test if there is none.
    pub fn with_serial(serial: &str) -> Result<Self, Failed> {
        for entry in fs::read_dir("/sys/class/nvme")? {
            let controller = entry?;
            let found = fs::read_to_string(controller.path().join("serial"))?;
            if found.trim() == serial {
                let name = controller.file_name().to_string_lossy().into_owned();
                return Ok(Self {
                    block: Path::new("/dev").join(format!("{name}n1")),
                    function: controller.path().join("device").canonicalize()?,
                });
            }
        }
        Err(format!("there is no drive with the serial number {serial}").into())
    }

    /// The same, once every drive is back in the kernel's hands: a program before this one may have
    /// had it.
    ///
    /// # Errors
    /// Fails the test if it has not come back in twenty seconds.
    pub fn returned(serial: &str) -> Result<Self, Failed> {
        let tree = Tree::read()?;
        let ours = |f: &&Function| f.class == Class::NVME && f.driver.as_deref() != Some("nvme");
        for function in tree.functions().filter(ours) {
            driver::release(function.address)?;
        }
        Self::appearing(serial)
    }

    /// The same, once the kernel shows it and its namespace.
    ///
    /// # Errors
    /// Fails the test if that takes longer than twenty seconds.
    pub fn appearing(serial: &str) -> Result<Self, Failed> {
        let there = || Self::with_serial(serial).is_ok_and(|drive| drive.block.exists());
        comes_true(Duration::from_secs(20), || Ok(there()))?;
        let drive = Self::with_serial(serial)?;
        check(drive.block.exists(), "no namespace")?;
        Ok(drive)
    }

    /// Its address on the PCI bus.
    ///
    /// # Errors
    /// Fails the test if its directory is none of a function's.
    pub fn address(&self) -> Result<Address, Failed> {
        let name = self.function.file_name().ok_or("a function without a name")?;
        Ok(name.to_string_lossy().parse()?)
    }

    /// Where its BARs begin and end on the memory bus, by number.
    ///
    /// # Errors
    /// Fails the test if sysfs does not tell.
    pub fn bars(&self) -> Result<Vec<(u64, u64)>, Failed> {
        let text = fs::read_to_string(self.function.join("resource"))?;
        let hexadecimal = |word: &str| u64::from_str_radix(word.trim_start_matches("0x"), 16);
        text.lines()
            .map(|line| {
                let mut words = line.split_whitespace();
                let mut next = || words.next().ok_or("a short line of resources");
                Ok((hexadecimal(next()?)?, hexadecimal(next()?)?))
            })
            .collect()
    }
}

/// The bytes that the bench writes on a topology's drives: each 8-byte word tells its own place.
pub fn pattern(len: usize) -> Vec<u8> {
    let mut bytes = vec![0; len];
    for (word, i) in bytes.chunks_exact_mut(8).zip(0u64..) {
        word.copy_from_slice(&(i ^ 0x5A5A_0000_0000_0000).to_le_bytes());
    }
    bytes
}
