//! The drives of a machine, by the serial numbers that the bench gives them.

use std::fs;
use std::path::{Path, PathBuf};

use libtest_mimic::Failed;

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
    let words = (0..len as u64 / 8).map(|i| i ^ 0x5A5A_0000_0000_0000);
    words.flat_map(u64::to_le_bytes).collect()
}
