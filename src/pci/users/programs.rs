//! Which programs have files open.

use std::collections::HashMap;
use std::ffi::{OsStr, OsString};
use std::fs;
use std::os::fd::{AsRawFd, OwnedFd};
use std::path::{Path, PathBuf};

use super::findings::{Findings, Roots, unread};
use super::process::{Process, all, has_ended};
use super::user::User;
use crate::pci::PciError;

/// Names the programs that have one of the files open, but for this process's `own`.
///
/// Only names are compared: to ask for more could wait for whatever file system the file is on.
pub(super) fn who_has_open(
    roots: &Roots<'_>,
    nodes: &[PathBuf],
    own: &[(PathBuf, OwnedFd)],
    findings: &mut Findings,
) {
    if nodes.is_empty() {
        return;
    }
    let mut by_name: HashMap<&OsStr, Vec<&PathBuf>> = HashMap::new();
    for node in nodes {
        by_name.entry(node.file_name().unwrap_or_default()).or_default().push(node);
    }
    let find = |target: &Path| -> Option<&PathBuf> {
        let candidates = by_name.get(target.file_name()?)?;
        // Another mount namespace's /dev is not called so here.
        let ends = |node: &Path| node.strip_prefix(roots.dev).is_ok_and(|n| target.ends_with(n));
        candidates.iter().find(|node| ends(node)).copied()
    };
    let own: Vec<OsString> =
        own.iter().map(|(_, file)| file.as_raw_fd().to_string().into()).collect();
    for pid in findings.read(all(roots.proc)) {
        let directory = roots.proc.join(pid.to_string()).join("fd");
        let mut look = || -> Result<(), PciError> {
            for entry in fs::read_dir(&directory).map_err(PciError::read(&directory))? {
                let entry = entry.map_err(PciError::read(&directory))?;
                if pid == std::process::id() && own.contains(&entry.file_name()) {
                    continue;
                }
                let target = match fs::read_link(entry.path()) {
                    Err(error) if has_ended(&error) => continue,
                    target => target.map_err(PciError::read(entry.path()))?,
                };
                if let Some(node) = find(&target) {
                    let program = Process::read(roots.proc, pid);
                    findings.users.push(User::Program { program, node: node.clone() });
                    break;
                }
            }
            Ok(())
        };
        match look() {
            Err(PciError::Read { source, .. }) if has_ended(&source) => {}
            Err(error) => {
                // One is enough to tell why.
                findings.unknown.push(unread(&error));
                return;
            }
            Ok(()) => {}
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::machine::Machine;

    #[test]
    fn programs_are_named() {
        let machine = Machine::new();
        let card = [("dev", "226:0"), ("uevent", "MAJOR=226\nDEVNAME=dri/card0\n")];
        machine.device("drm/card0", "drm", &card);
        for (pid, target) in [(40, "/dev/dri/card1"), (41, "/dev/card0"), (42, "socket:[7]")] {
            machine.link(&format!("proc/{pid}/fd/3"), target);
        }
        drop(machine.hold().expect("nobody has it open"));
        machine.put("proc/77/comm", "Xorg\n");
        machine.link("proc/77/fd/11", machine.0.path().join("dev/dri/card0"));
        let node = machine.0.path().join("dev/dri/card0");
        let expected = format!("process 77 (Xorg) has {} open; end it", node.display());
        assert_eq!(machine.users(), [expected]);
        machine.put("proc/78/fd", "no directory");
        machine.remove("proc/77");
        assert!(machine.unknown().contains("proc/78/fd cannot be read"));
    }
}
