//! The mounts of every mount namespace that can be seen.

use std::collections::HashSet;
use std::fs;
use std::path::{Path, PathBuf};

use super::findings::{Findings, unread};
use super::process::{self, Process, has_ended};
use crate::pci::PciError;
use iomap::mounts::{self, Mount};

/// A mount, and a process that sees it, or `None` if this one does.
#[derive(Debug)]
pub(super) struct Mounted {
    pub mount: Mount,
    pub by: Option<Process>,
}

/// All mounts that can be read, those of this process's namespace first.
pub(super) fn read(proc: &Path, findings: &mut Findings) -> Vec<Mounted> {
    let own = proc.join("self");
    let mut namespaces: HashSet<_> = findings.read(namespace(&own).map(Some)).into_iter().collect();
    let mounts = findings.read(of(&own)).into_iter();
    let mut mounted: Vec<_> = mounts.map(|mount| Mounted { mount, by: None }).collect();
    for pid in findings.read(process::all(proc)) {
        let directory = proc.join(pid.to_string());
        let read = namespace(&directory).and_then(|namespace| {
            let new = !namespaces.contains(&namespace);
            Ok((namespace, if new { of(&directory)? } else { Vec::new() }))
        });
        match read {
            Ok((namespace, mounts)) => {
                namespaces.insert(namespace);
                let by = Some(Process::read(proc, pid));
                mounted.extend(mounts.into_iter().map(|mount| Mounted { mount, by: by.clone() }));
            }
            // A process that ends has no mounts for a while (EINVAL), then is gone.
            Err(PciError::Read { source, .. })
                if has_ended(&source) || source.raw_os_error() == Some(libc::EINVAL) => {}
            // One is enough to tell why.
            Err(error) => {
                findings.unknown.push(unread(&error));
                break;
            }
        }
    }
    mounted
}

fn namespace(process: &Path) -> Result<PathBuf, PciError> {
    let link = process.join("ns/mnt");
    fs::read_link(&link).map_err(PciError::read(link))
}

fn of(process: &Path) -> Result<Vec<Mount>, PciError> {
    let path = process.join("mountinfo");
    let bytes = fs::read(&path).map_err(PciError::read(&path))?;
    let text = String::from_utf8_lossy(&bytes);
    let expected = "a mount in each line";
    mounts::parse(&text)
        .map(|mount| mount.map_err(|line| PciError::content(&path, expected, line.0)))
        .collect()
}
