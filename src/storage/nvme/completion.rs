//! What a controller says of a command that ended: an entry of a completion queue, and its status.
//!
//! NVM Express Base Specification 2.0c, sections 3.3.3.2 (the entry) and 3.3.3.2.1 (the status);
//! NVM Command Set Specification 1.0c, section 3.1.2.1.

use std::fmt;

use bytemuck::{Pod, Zeroable};

/// An entry of a completion queue, its words as the device wrote them.
#[derive(Clone, Copy, Debug, Pod, Zeroable)]
#[repr(C)]
pub(super) struct Entry {
    result: u32,
    reserved: u32,
    head: u16,
    queue: u16,
    command: u16,
    phase_and_status: u16,
}

const _: () = assert!(size_of::<Entry>() == Entry::LEN);

impl Entry {
    /// Its length in bytes (CC.IOCQES is set to it).
    pub const LEN: usize = 16;

    /// Where in it the half word is that holds the phase.
    pub const PHASE_AT: usize = std::mem::offset_of!(Entry, phase_and_status);

    /// The phase that its last half word tells.
    pub fn phase(phase_and_status: u16) -> bool {
        u16::from_le(phase_and_status) & 1 != 0
    }

    /// DW0, whose meaning is the command's.
    pub fn result(&self) -> u32 {
        u32::from_le(self.result)
    }

    /// The command's identifier.
    pub fn command(&self) -> u16 {
        u16::from_le(self.command)
    }

    /// The submission queue that the command came from (SQID).
    pub fn queue(&self) -> u16 {
        u16::from_le(self.queue)
    }

    pub fn status(&self) -> Status {
        Status(u16::from_le(self.phase_and_status) >> 1)
    }

    /// An entry as a controller writes it.
    #[cfg(test)]
    pub fn written(command: u16, head: u16, phase: bool, status: Status, result: u32) -> Self {
        Self {
            result: result.to_le(),
            reserved: 0,
            head: head.to_le(),
            queue: 0,
            command: command.to_le(),
            phase_and_status: (status.0 << 1 | u16::from(phase)).to_le(),
        }
    }
}

/// How a command ended.
///
/// It is shown in the specification's words, with its numbers where a person would look them up.
///
/// ```
/// use bufmap::storage::nvme::Status;
///
/// let status = Status::new(0x0, 0x80);
/// assert_eq!(status.to_string(), "LBA Out of Range (status 0h/80h)");
/// ```
#[derive(Clone, Copy, PartialEq, Eq)]
pub struct Status(u16);

impl Status {
    /// The command did what it was to do.
    pub const SUCCESS: Self = Self::new(0, 0);

    /// The status of this type (SCT, 0 to 7) and code (SC).
    pub const fn new(kind: u8, code: u8) -> Self {
        Self((kind as u16 & 7) << 8 | code as u16)
    }

    /// The type (SCT): 0 generic, 1 the command's own, 2 media and data integrity, 3 path, 7 the
    /// vendor's.
    pub const fn kind(self) -> u8 {
        (self.0 >> 8 & 7) as u8
    }

    /// The code within its type (SC).
    pub const fn code(self) -> u8 {
        self.0 as u8
    }

    /// Whether the command did what it was to do.
    pub const fn is_success(self) -> bool {
        self.kind() == 0 && self.code() == 0
    }

    /// Whether the same command would fail again (DNR).
    pub const fn is_final(self) -> bool {
        self.0 >> 14 & 1 != 0
    }

    /// Whether it ended because somebody asked for that: by an abort, or by deleting its queue.
    pub const fn is_aborted(self) -> bool {
        self.kind() == 0 && matches!(self.code(), 0x07 | 0x08)
    }

    /// What the specification calls it, for the statuses that a reader of drives may meet.
    const fn words(self) -> Option<&'static str> {
        Some(match (self.kind(), self.code()) {
            (0, 0x00) => "Successful Completion",
            (0, 0x01) => "Invalid Command Opcode",
            (0, 0x02) => "Invalid Field in Command",
            (0, 0x03) => "Command ID Conflict",
            (0, 0x04) => "Data Transfer Error",
            (0, 0x05) => "Commands Aborted due to Power Loss Notification",
            (0, 0x06) => "Internal Error",
            (0, 0x07) => "Command Abort Requested",
            (0, 0x08) => "Command Aborted due to SQ Deletion",
            (0, 0x0b) => "Invalid Namespace or Format",
            (0, 0x0c) => "Command Sequence Error",
            (0, 0x0d) => "Invalid SGL Segment Descriptor",
            (0, 0x0e) => "Invalid Number of SGL Descriptors",
            (0, 0x0f) => "Data SGL Length Invalid",
            (0, 0x10) => "Metadata SGL Length Invalid",
            (0, 0x11) => "SGL Descriptor Type Invalid",
            (0, 0x13) => "PRP Offset Invalid",
            (0, 0x15) => "Operation Denied",
            (0, 0x16) => "SGL Offset Invalid",
            (0, 0x1c) => "Sanitize Failed",
            (0, 0x1d) => "Sanitize In Progress",
            (0, 0x1e) => "SGL Data Block Granularity Invalid",
            (0, 0x20) => "Namespace is Write Protected",
            (0, 0x21) => "Command Interrupted",
            (0, 0x22) => "Transient Transport Error",
            (0, 0x23) => "Command Prohibited by Command and Feature Lockdown",
            (0, 0x24) => "Admin Command Media Not Ready",
            (0, 0x80) => "LBA Out of Range",
            (0, 0x81) => "Capacity Exceeded",
            (0, 0x82) => "Namespace Not Ready",
            (0, 0x83) => "Reservation Conflict",
            (0, 0x84) => "Format In Progress",
            (1, 0x00) => "Completion Queue Invalid",
            (1, 0x01) => "Invalid Queue Identifier",
            (1, 0x02) => "Invalid Queue Size",
            (1, 0x03) => "Abort Command Limit Exceeded",
            (1, 0x08) => "Invalid Interrupt Vector",
            (1, 0x0c) => "Invalid Queue Deletion",
            (1, 0x80) => "Conflicting Attributes",
            (1, 0x81) => "Invalid Protection Information",
            (1, 0x83) => "Command Size Limit Exceeded",
            (2, 0x80) => "Write Fault",
            (2, 0x81) => "Unrecovered Read Error",
            (2, 0x82) => "End-to-end Guard Check Error",
            (2, 0x83) => "End-to-end Application Tag Check Error",
            (2, 0x84) => "End-to-end Reference Tag Check Error",
            (2, 0x86) => "Access Denied",
            (2, 0x87) => "Deallocated or Unwritten Logical Block",
            (3, 0x00) => "Internal Path Error",
            (3, 0x01) => "Asymmetric Access Persistent Loss",
            (3, 0x02) => "Asymmetric Access Inaccessible",
            (3, 0x03) => "Asymmetric Access Transition",
            (3, 0x60) => "Controller Pathing Error",
            (3, 0x70) => "Host Pathing Error",
            (3, 0x71) => "Command Aborted By Host",
            _ => return None,
        })
    }

    /// What a person can do about it.
    pub(super) const fn remedy(self) -> &'static str {
        match (self.kind(), self.code()) {
            (0, 0x04) => "the drive did not reach the memory: check the IOMMU's faults in dmesg",
            (0, 0x0d..=0x16 | 0x1e) => {
                "the drive does not take this list of memory: report it, and read by PRP lists"
            }
            (0, 0x1d | 0x21 | 0x22 | 0x24 | 0x82 | 0x84) => "it will pass: try again later",
            (0, 0x80) => "read inside the namespace",
            (2, 0x81..=0x84) => {
                "the drive has lost these blocks: check its health with nvme smart-log, and restore them from a copy"
            }
            (3, _) => "check the path to the drive",
            _ => "look the status up in the drive's documentation",
        }
    }
}

impl fmt::Display for Status {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let words = match (self.words(), self.kind()) {
            (Some(words), _) => words,
            (None, 7) => "a status of the vendor's own",
            (None, _) => "a status without a name here",
        };
        write!(f, "{words} (status {:x}h/{:02x}h)", self.kind(), self.code())
    }
}

impl fmt::Debug for Status {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Status({self})")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_entry_is_read_as_it_lies_in_memory() {
        // DW0 to DW3: the result; reserved; queue 2, head 5; DNR, type 2, code 81h, phase 1, command 9.
        let words = [0xabcd_ef01u32, 0, 0x0002_0005, 0x8503_0009];
        let bytes: Vec<u8> = words.iter().flat_map(|word| word.to_le_bytes()).collect();
        let entry: Entry = bytemuck::pod_read_unaligned(&bytes);
        assert_eq!((entry.result(), entry.head, entry.command()), (0xabcd_ef01, u16::to_le(5), 9));
        assert!(Entry::phase(entry.phase_and_status));
        assert_eq!(Entry::PHASE_AT, 14);
        let status = entry.status();
        assert_eq!((status.kind(), status.code(), status.is_final()), (2, 0x81, true));
        assert!(!status.is_success() && !status.is_aborted());
        assert_eq!(status.to_string(), "Unrecovered Read Error (status 2h/81h)");
    }

    #[test]
    fn a_status_has_words_even_without_a_name() {
        assert_eq!(
            Status::new(7, 0x12).to_string(),
            "a status of the vendor's own (status 7h/12h)"
        );
        assert_eq!(
            Status::new(1, 0xee).to_string(),
            "a status without a name here (status 1h/eeh)"
        );
        assert!(Status::new(0, 7).is_aborted() && Status::new(0, 8).is_aborted());
        assert!(!Status::new(1, 8).is_aborted());
    }
}
