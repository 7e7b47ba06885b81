//! What a controller is asked for: an entry of a submission queue.
//!
//! NVM Express Base Specification 2.0c, section 3.3.3.1 (the entry) and chapter 5 (admin commands);
//! NVM Command Set Specification 1.0c, section 3.2.4 (Read). An [`Operation`] is the question, a
//! small value that errors carry too; [`encode`] makes the entry of it. There is none that writes.

use std::fmt;

/// A command's entry: sixteen words in the device's byte order.
pub(super) type Entry = [u32; 16];

/// Its length in bytes (CC.IOSQES is set to it).
pub(super) const ENTRY_LEN: usize = size_of::<Entry>();

/// What a command is to do.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Operation {
    /// Identify: the controller (CNS 01h).
    IdentifyController,
    /// Identify: a namespace (CNS 00h).
    IdentifyNamespace {
        /// Which.
        namespace: u32,
    },
    /// Identify: the active namespaces behind one (CNS 02h).
    ListNamespaces {
        /// The list begins with the next one.
        after: u32,
    },
    /// Set Features: how many I/O queues of each kind there shall be (feature 07h).
    AskForQueues {
        /// How many.
        count: u16,
    },
    /// Create I/O Completion Queue.
    CreateCompletionQueue {
        /// Its number, from 1.
        queue: u16,
        /// How many entries it has, 2 at least.
        entries: u32,
        /// The interrupt that announces completions, if any does.
        vector: Option<u16>,
    },
    /// Create I/O Submission Queue, whose completions go to the queue of the same number.
    CreateSubmissionQueue {
        /// Its number, from 1.
        queue: u16,
        /// How many entries it has, 2 at least.
        entries: u32,
    },
    /// Delete I/O Submission Queue.
    DeleteSubmissionQueue {
        /// Its number.
        queue: u16,
    },
    /// Delete I/O Completion Queue.
    DeleteCompletionQueue {
        /// Its number.
        queue: u16,
    },
    /// Abort.
    Abort {
        /// The submission queue it went to.
        queue: u16,
        /// Its identifier.
        command: u16,
    },
    /// Read.
    Read {
        /// From which namespace.
        namespace: u32,
        /// The first logical block.
        lba: u64,
        /// How many, 1 to 65,536.
        blocks: u32,
    },
}

impl fmt::Display for Operation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::IdentifyController => write!(f, "Identify (controller)"),
            Self::IdentifyNamespace { namespace } => write!(f, "Identify (namespace {namespace})"),
            Self::ListNamespaces { after } => write!(f, "Identify (namespaces after {after})"),
            Self::AskForQueues { count } => write!(f, "Set Features ({count} I/O queues)"),
            Self::CreateCompletionQueue { queue, entries, .. } => {
                write!(f, "Create I/O Completion Queue {queue} ({entries} entries)")
            }
            Self::CreateSubmissionQueue { queue, entries } => {
                write!(f, "Create I/O Submission Queue {queue} ({entries} entries)")
            }
            Self::DeleteSubmissionQueue { queue } => {
                write!(f, "Delete I/O Submission Queue {queue}")
            }
            Self::DeleteCompletionQueue { queue } => {
                write!(f, "Delete I/O Completion Queue {queue}")
            }
            Self::Abort { queue, command } => {
                write!(f, "Abort (command {command} of queue {queue})")
            }
            Self::Read { namespace, lba, blocks } => {
                write!(f, "Read ({blocks} blocks from LBA {lba} of namespace {namespace})")
            }
        }
    }
}

/// Where a command's data goes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum DataPointer {
    /// The command has none.
    None,
    /// PRP entry 1 and PRP entry 2. For a queue's memory, entry 1 alone.
    Prp(u64, u64),
    /// SGL entry 1, in two halves.
    Sgl(u64, u64),
}

/// The entry that asks for `operation`, to be known as `command`.
#[inline]
pub(super) fn encode(operation: Operation, command: u16, data: DataPointer) -> Entry {
    let mut entry = [0; 16];
    let (opcode, namespace) = opcode_and_namespace(operation);
    // PSDT: PRPs, or SGLs with the metadata pointer an address.
    let (selector, first, second) = match data {
        DataPointer::None => (0, 0, 0),
        DataPointer::Prp(first, second) => (0, first, second),
        DataPointer::Sgl(first, second) => (0b01 << 14, first, second),
    };
    entry[0] = u32::from(command) << 16 | selector | opcode;
    entry[1] = namespace;
    (entry[6], entry[7]) = (first as u32, (first >> 32) as u32);
    (entry[8], entry[9]) = (second as u32, (second >> 32) as u32);
    fill_operands(operation, &mut entry);
    entry.map(u32::to_le)
}

const fn opcode_and_namespace(operation: Operation) -> (u32, u32) {
    match operation {
        Operation::DeleteSubmissionQueue { .. } => (0x00, 0),
        Operation::CreateSubmissionQueue { .. } => (0x01, 0),
        Operation::DeleteCompletionQueue { .. } => (0x04, 0),
        Operation::CreateCompletionQueue { .. } => (0x05, 0),
        Operation::IdentifyController => (0x06, 0),
        Operation::IdentifyNamespace { namespace } => (0x06, namespace),
        Operation::ListNamespaces { after } => (0x06, after),
        Operation::Abort { .. } => (0x08, 0),
        Operation::AskForQueues { .. } => (0x09, 0),
        Operation::Read { namespace, .. } => (0x02, namespace),
    }
}

/// Words 10 to 12, whose meaning is each command's own.
fn fill_operands(operation: Operation, entry: &mut Entry) {
    /// Counts are given less one.
    const fn last(count: u32) -> u32 {
        count.saturating_sub(1) & 0xffff
    }
    /// The queue's memory is contiguous (PC).
    const CONTIGUOUS: u32 = 1;
    const INTERRUPTS: u32 = 1 << 1;
    match operation {
        Operation::IdentifyNamespace { .. } => entry[10] = 0x00,
        Operation::IdentifyController => entry[10] = 0x01,
        Operation::ListNamespaces { .. } => entry[10] = 0x02,
        Operation::AskForQueues { count } => {
            entry[10] = 0x07;
            entry[11] = last(count.into()) << 16 | last(count.into());
        }
        Operation::CreateCompletionQueue { queue, entries, vector } => {
            entry[10] = last(entries) << 16 | u32::from(queue);
            entry[11] = CONTIGUOUS;
            if let Some(vector) = vector {
                entry[11] |= u32::from(vector) << 16 | INTERRUPTS;
            }
        }
        Operation::CreateSubmissionQueue { queue, entries } => {
            entry[10] = last(entries) << 16 | u32::from(queue);
            entry[11] = u32::from(queue) << 16 | CONTIGUOUS;
        }
        Operation::DeleteSubmissionQueue { queue } | Operation::DeleteCompletionQueue { queue } => {
            entry[10] = queue.into();
        }
        Operation::Abort { queue, command } => {
            entry[10] = u32::from(command) << 16 | u32::from(queue);
        }
        Operation::Read { lba, blocks, .. } => {
            (entry[10], entry[11]) = (lba as u32, (lba >> 32) as u32);
            entry[12] = last(blocks);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The entry's words that are not zero, by number.
    fn words(operation: Operation, data: DataPointer) -> Vec<(usize, u32)> {
        let entry = encode(operation, 0x1234, data).map(u32::from_le);
        entry.into_iter().enumerate().filter(|&(_, word)| word != 0).collect()
    }

    #[test]
    fn admin_commands_are_laid_out_as_the_specification_says() {
        let page = DataPointer::Prp(0x2_0000_1000, 0);
        let at = |rest: &[(usize, u32)]| {
            let mut all = vec![(6, 0x1000), (7, 2)];
            all.extend_from_slice(rest);
            all.sort_unstable();
            all
        };
        for (operation, expected) in [
            (Operation::IdentifyController, at(&[(0, 0x1234_0006), (10, 1)])),
            (Operation::IdentifyNamespace { namespace: 7 }, at(&[(0, 0x1234_0006), (1, 7)])),
            (Operation::ListNamespaces { after: 3 }, at(&[(0, 0x1234_0006), (1, 3), (10, 2)])),
            (
                Operation::CreateCompletionQueue { queue: 2, entries: 65536, vector: Some(5) },
                at(&[(0, 0x1234_0005), (10, 0xffff_0002), (11, 0x0005_0003)]),
            ),
            (
                Operation::CreateCompletionQueue { queue: 1, entries: 2, vector: None },
                at(&[(0, 0x1234_0005), (10, 0x0001_0001), (11, 1)]),
            ),
            (
                Operation::CreateSubmissionQueue { queue: 2, entries: 1024 },
                at(&[(0, 0x1234_0001), (10, 0x03ff_0002), (11, 0x0002_0001)]),
            ),
        ] {
            assert_eq!(words(operation, page), expected, "{operation}");
        }
        for (operation, expected) in [
            (Operation::DeleteSubmissionQueue { queue: 4 }, vec![(0, 0x1234_0000), (10, 4)]),
            (Operation::DeleteCompletionQueue { queue: 4 }, vec![(0, 0x1234_0004), (10, 4)]),
            (Operation::Abort { queue: 4, command: 9 }, vec![(0, 0x1234_0008), (10, 0x0009_0004)]),
            (
                Operation::AskForQueues { count: 16 },
                vec![(0, 0x1234_0009), (10, 7), (11, 0x000f_000f)],
            ),
        ] {
            assert_eq!(words(operation, DataPointer::None), expected, "{operation}");
        }
    }

    #[test]
    fn a_read_names_its_blocks_and_its_memory() {
        let read = Operation::Read { namespace: 1, lba: 0xa_bbbb_cccc, blocks: 65536 };
        let operands = [(10, 0xbbbb_cccc), (11, 0xa), (12, 0xffff)];
        let prp = words(read, DataPointer::Prp(0x1_0000_0200, 0x3_0000_4000));
        assert_eq!(prp[..6], [(0, 0x1234_0002), (1, 1), (6, 0x200), (7, 1), (8, 0x4000), (9, 3)]);
        assert_eq!(prp[6..], operands);
        let sgl = words(read, DataPointer::Sgl(0x5000, 0x3000_0000_0000_2000));
        assert_eq!(
            sgl[..5],
            [(0, 0x1234_4002), (1, 1), (6, 0x5000), (8, 0x2000), (9, 0x3000_0000)]
        );
        assert_eq!(sgl[5..], operands);
        assert_eq!(read.to_string(), "Read (65536 blocks from LBA 46099320012 of namespace 1)");
    }
}
