//! The kernel that a guest runs.
//!
//! A bzImage unpacks itself when it starts, which takes a second of every boot under software
//! emulation. So it is unpacked once, and QEMU starts what was inside, by its PVH entry point
//! (`CONFIG_PVH`, which Debian sets).

use std::fs::{self, File};
use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use crate::child::{self, Error};
use crate::files;

/// A kernel and its modules.
pub struct Kernel {
    pub version: String,
    /// What QEMU starts.
    pub image: PathBuf,
    /// The directory of this version's modules.
    pub modules: PathBuf,
}

/// How kernels are packed: the first bytes, what unpacks them, and whether the length comes after them
/// (`Documentation/arch/x86/boot.rst`, `payload_offset`).
const PACKED: [(&[u8], &str, bool); 4] = [
    (b"\x28\xb5\x2f\xfd", "zstd", true),
    (b"\xfd7zXZ", "xz", true),
    (b"\x02\x21\x4c\x18", "lz4", true),
    (b"\x1f\x8b", "gzip", false),
];

impl Kernel {
    /// The newest kernel in a root's `/boot`.
    pub fn of(root: &Path) -> Result<Self, Error> {
        let boot = root.join("boot");
        let files = fs::read_dir(&boot).map_err(files::file_error("read", &boot))?.flatten();
        let names = files.filter_map(|file| file.file_name().into_string().ok());
        let version =
            names.filter_map(|name| Some(name.strip_prefix("vmlinuz-")?.to_owned())).max();
        let version = version.ok_or_else(|| Error::Missing {
            what: format!("there is no kernel in {}", boot.display()),
            remedy: "install one there, or name one with --kernel".to_owned(),
        })?;
        let image = boot.join(format!("vmlinuz-{version}"));
        Ok(Self { modules: root.join("usr/lib/modules").join(&version), version, image })
    }

    /// A kernel's image that the user names, with its modules in `modules` or in the root.
    pub fn given(image: &Path, modules: Option<&Path>, root: &Path) -> Result<Self, Error> {
        let bytes = fs::read(image).map_err(files::file_error("read", image))?;
        let version = version(&bytes).ok_or_else(|| Error::Missing {
            what: format!("{} is no image of an x86 kernel", image.display()),
            remedy: "name a bzImage, such as /boot/vmlinuz-*".to_owned(),
        })?;
        let modules = match modules {
            Some(directory) => directory.to_owned(),
            None => root.join("usr/lib/modules").join(&version),
        };
        Ok(Self { version, image: image.to_owned(), modules })
    }

    /// Unpacks the kernel into a file. One that is packed in a way not known here stays as it is, and
    /// starts more slowly: then there is no such file.
    pub fn unpack(&self, into: &Path) -> Result<(), Error> {
        let image = fs::read(&self.image).map_err(files::file_error("read", &self.image))?;
        let _ = fs::remove_file(into);
        let Some((program, payload)) = payload(&image) else { return Ok(()) };
        let out = File::create(into).map_err(files::file_error("create", into))?;
        let mut unpack = Command::new(program);
        unpack.arg("-dc").stdin(Stdio::piped()).stdout(out);
        let mut running = unpack.spawn().map_err(|source| Error::Start {
            command: program.to_owned(),
            source,
            remedy: format!("install it: apt-get install {program}"),
        })?;
        let written = running.stdin.take().map_or(Ok(()), |mut pipe| pipe.write_all(payload));
        child::check(&unpack, running.wait(), "the kernel's image may be damaged")?;
        written.map_err(files::file_error("write", into))
    }

    /// The same, started by what was unpacked, if it is there.
    pub fn unpacked(self, image: PathBuf) -> Self {
        match image.is_file() {
            true => Self { image, ..self },
            false => self,
        }
    }
}

/// The version that a bzImage names (`Documentation/arch/x86/boot.rst`, `kernel_version`).
fn version(image: &[u8]) -> Option<String> {
    if image.get(0x202..0x206)? != b"HdrS" {
        return None;
    }
    let at = 0x200 + usize::from(u16::from_le_bytes(image.get(0x20e..0x210)?.try_into().ok()?));
    let text = image.get(at..)?.split(|byte| matches!(byte, 0 | b' ')).next()?;
    Some(std::str::from_utf8(text).ok()?.to_owned())
}

/// What is packed in a bzImage, and the program that unpacks it.
fn payload(image: &[u8]) -> Option<(&'static str, &[u8])> {
    let word = |at: usize| {
        let bytes = image.get(at..at + 4)?.try_into().ok()?;
        usize::try_from(u32::from_le_bytes(bytes)).ok()
    };
    // The code that runs in protected mode lies behind the sectors of the setup (`setup_sects`).
    let setup = (usize::from(*image.get(0x1f1)?).max(1) + 1) * 512;
    let start = setup.checked_add(word(0x248)?)?;
    let payload = image.get(start..start.checked_add(word(0x24c)?)?)?;
    let (_, program, with_length) =
        PACKED.into_iter().find(|(magic, ..)| payload.starts_with(magic))?;
    let end = payload.len().checked_sub(if with_length { 4 } else { 0 })?;
    Some((program, &payload[..end]))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_kernel_tells_its_version() {
        let mut image = vec![0; 0x400];
        assert_eq!(version(&image), None);
        image[0x202..0x206].copy_from_slice(b"HdrS");
        image[0x20e..0x210].copy_from_slice(&0x180u16.to_le_bytes());
        image[0x380..0x38c].copy_from_slice(b"7.2.12-a (b)");
        assert_eq!(version(&image).as_deref(), Some("7.2.12-a"));
        image[0x20e..0x210].copy_from_slice(&u16::MAX.to_le_bytes());
        assert_eq!(version(&image), None);
        assert_eq!(version(&image[..0x204]), None);
    }

    #[test]
    fn what_is_packed_is_found() {
        let mut image = vec![0; 0x800];
        image[0x1f1] = 1;
        image[0x248..0x24c].copy_from_slice(&0x10u32.to_le_bytes());
        image[0x24c..0x250].copy_from_slice(&0x20u32.to_le_bytes());
        assert_eq!(payload(&image), None);
        image[0x410..0x414].copy_from_slice(b"\x28\xb5\x2f\xfd");
        assert_eq!(payload(&image), Some(("zstd", &image[0x410..0x42c])));
        image[0x410..0x412].copy_from_slice(b"\x1f\x8b");
        assert_eq!(payload(&image), Some(("gzip", &image[0x410..0x430])));
        image[0x24c..0x250].copy_from_slice(&u32::MAX.to_le_bytes());
        assert_eq!(payload(&image), None);
        assert_eq!(payload(&image[..0x100]), None);
    }
}
