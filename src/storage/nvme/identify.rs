//! What a controller and its namespaces say of themselves.
//!
//! NVM Express Base Specification 2.0c, section 5.17.2.1 (Identify Controller), and NVM Command Set
//! Specification 1.0c, section 4.1.5.1 (Identify Namespace). The 4096 bytes come from a device and
//! may be anything: every value is checked before it is used to count or to shift.

use std::time::Duration;

use super::sgl::SglSupport;

/// The length of every answer to Identify, in bytes.
pub const IDENTIFY_LEN: usize = 4096;

/// Why an answer to Identify cannot be used.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum IdentifyError {
    /// The controller does not serve blocks.
    #[error(
        "it is a discovery or administrative controller (CNTRLTYPE {kind}), which has no blocks; choose an I/O controller"
    )]
    ControllerType {
        /// CNTRLTYPE.
        kind: u8,
    },
    /// Queue entries of 64 and 16 bytes, which every NVM controller takes, are not taken.
    #[error(
        "queue entries of 2^{submission:?} and 2^{completion:?} bytes are taken, and 2^6 and 2^4 are the NVM command set's; update the drive's firmware"
    )]
    EntrySizes {
        /// The least and the largest submission entry, as powers of two.
        submission: (u8, u8),
        /// The least and the largest completion entry, as powers of two.
        completion: (u8, u8),
    },
    /// The namespace is not active: it holds nothing.
    #[error("the namespace is not active; attach it with nvme attach-ns, or choose another")]
    Inactive,
    /// The format in use is none of those listed.
    #[error("the namespace says it is in format {format} of {count}; update the drive's firmware")]
    Format {
        /// The format's index (FLBAS).
        format: u8,
        /// How many there are (NLBAF).
        count: u16,
    },
    /// Blocks of a size that the specification does not allow.
    #[error(
        "the namespace's blocks are of 2^{exponent} bytes, and 2^9 to 2^31 can be read; format it anew"
    )]
    BlockSize {
        /// LBADS.
        exponent: u8,
    },
    /// A list of namespaces whose numbers do not ascend, or are none that the drive can have.
    #[error(
        "it lists namespace {number} behind {after}, and numbers ascend and end at {most} (NN); update the drive's firmware"
    )]
    List {
        /// The number.
        number: u32,
        /// The one before it.
        after: u32,
        /// The highest that there can be.
        most: u32,
    },
    /// A list of namespaces that goes on and on.
    #[error("it lists more than {most} namespaces, which no drive has; update its firmware")]
    Namespaces {
        /// How many there may be.
        most: usize,
    },
    /// More bytes than can be counted.
    #[error(
        "the namespace says it has {blocks} blocks of {block_size} bytes, which is more than 2^64 bytes; update the drive's firmware"
    )]
    Capacity {
        /// NSZE.
        blocks: u64,
        /// In bytes.
        block_size: u32,
    },
}

/// A controller.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct IdentifyController {
    /// The PCI vendor (VID).
    pub vendor: u16,
    /// The serial number (SN).
    pub serial: String,
    /// The model (MN).
    pub model: String,
    /// The firmware's revision (FR).
    pub firmware: String,
    /// The largest transfer of one command, in pages of the least size as a power of two (MDTS), or
    /// `None` if there is no limit.
    pub max_transfer_exponent: Option<u8>,
    /// How many aborts it takes at a time (ACL), 1 at least.
    pub aborts: u16,
    /// How many namespaces there can be: numbers run from 1 to this (NN).
    pub namespaces: u32,
    /// Which scatter-gather lists it takes for data, if any (SGLS).
    pub sgl: Option<SglSupport>,
    /// What else it can do (ONCS).
    pub optional: OptionalCommands,
    /// Whether it has a cache that a power cut empties (VWC).
    pub volatile_write_cache: bool,
    /// How long an orderly shutdown may take (RTD3E), if it says.
    pub shutdown: Option<Duration>,
    /// How many commands may be in one queue at a time, where it wants fewer than the queue has room
    /// for (MAXCMD).
    pub max_commands: Option<u16>,
}

bitflags::bitflags! {
    /// Optional commands of the NVM command set (ONCS), as far as they concern a reader.
    #[derive(Clone, Copy, Debug, PartialEq, Eq)]
    pub struct OptionalCommands: u16 {
        /// Compare.
        const COMPARE = 1 << 0;
        /// Dataset Management (deallocation).
        const DATASET_MANAGEMENT = 1 << 2;
        /// Write Zeroes.
        const WRITE_ZEROES = 1 << 3;
        /// Verify.
        const VERIFY = 1 << 7;
    }
}

impl IdentifyController {
    /// Reads the answer to Identify with CNS 01h.
    ///
    /// # Errors
    /// [`IdentifyError::ControllerType`], [`IdentifyError::EntrySizes`].
    pub fn parse(bytes: &[u8; IDENTIFY_LEN]) -> Result<Self, IdentifyError> {
        // CNTRLTYPE, which older controllers leave at zero.
        let kind = bytes[111];
        if kind > 1 {
            return Err(IdentifyError::ControllerType { kind });
        }
        let submission = nibbles(bytes[512]);
        let completion = nibbles(bytes[513]);
        let takes = |(least, most): (u8, u8), size| least <= size && size <= most;
        if !takes(submission, 6) || !takes(completion, 4) {
            return Err(IdentifyError::EntrySizes { submission, completion });
        }
        Ok(Self {
            vendor: half(bytes, 0),
            serial: text(&bytes[4..24]),
            model: text(&bytes[24..64]),
            firmware: text(&bytes[64..72]),
            max_transfer_exponent: Some(bytes[77]).filter(|&exponent| exponent != 0),
            aborts: u16::from(bytes[258]) + 1,
            namespaces: word(bytes, 516),
            sgl: SglSupport::from_field(word(bytes, 536)),
            optional: OptionalCommands::from_bits_truncate(half(bytes, 520)),
            volatile_write_cache: bytes[525] & 1 != 0,
            shutdown: Some(word(bytes, 88))
                .filter(|&microseconds| microseconds != 0)
                .map(|microseconds| Duration::from_micros(microseconds.into())),
            max_commands: Some(half(bytes, 514)).filter(|&commands| commands != 0),
        })
    }

    /// The largest transfer of one command in bytes, for a controller whose least page has
    /// `min_page` bytes; `u64::MAX` if there is no limit.
    pub fn max_transfer(&self, min_page: u64) -> u64 {
        match self.max_transfer_exponent {
            None => u64::MAX,
            Some(exponent) => 1u64
                .checked_shl(exponent.into())
                .and_then(|pages| pages.checked_mul(min_page))
                .unwrap_or(u64::MAX),
        }
    }
}

/// A namespace.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct IdentifyNamespace {
    /// How many logical blocks it has (NSZE).
    pub blocks: u64,
    /// The size of a block in bytes, a power of two and 512 at least (LBADS of the format in use).
    pub block_size: u32,
    /// Bytes of metadata that belong to each block (MS).
    pub metadata: u16,
    /// Whether those follow each block's data instead of lying in a buffer of their own (FLBAS bit 4).
    pub extended: bool,
    /// Which protection information blocks carry, 0 for none (DPS).
    pub protection: u8,
    /// Reads that do not cross a multiple of so many blocks are fastest (NOIOB), if it says.
    pub boundary: Option<u16>,
    /// How many bytes it has.
    pub len: u64,
}

impl IdentifyNamespace {
    /// Reads the answer to Identify with CNS 00h.
    ///
    /// # Errors
    /// Every [`IdentifyError`] but those about controllers.
    pub fn parse(bytes: &[u8; IDENTIFY_LEN]) -> Result<Self, IdentifyError> {
        let blocks = u64::from_le_bytes(at(bytes, 0));
        if blocks == 0 {
            return Err(IdentifyError::Inactive);
        }
        let count = u16::from(bytes[25] & 0x3f) + 1;
        let format = format_in_use(bytes[26], count);
        if u16::from(format) >= count {
            return Err(IdentifyError::Format { format, count });
        }
        let descriptor = word(bytes, 128 + 4 * usize::from(format));
        let exponent = (descriptor >> 16) as u8;
        if !(9..=31).contains(&exponent) {
            return Err(IdentifyError::BlockSize { exponent });
        }
        let block_size = 1 << exponent;
        let len = blocks
            .checked_mul(block_size.into())
            .ok_or(IdentifyError::Capacity { blocks, block_size })?;
        Ok(Self {
            blocks,
            block_size,
            metadata: descriptor as u16,
            extended: bytes[26] >> 4 & 1 != 0,
            protection: bytes[29] & 0b111,
            boundary: Some(half(bytes, 46)).filter(|&blocks| blocks != 0),
            len,
        })
    }
}

/// FLBAS: the lower four bits, and two more where there are more than sixteen formats.
fn format_in_use(flbas: u8, count: u16) -> u8 {
    let low = flbas & 0xf;
    if count > 16 { (flbas >> 5 & 0b11) << 4 | low } else { low }
}

/// Reads the answer to Identify with CNS 02h: numbers of active namespaces behind `after`, in ascending
/// order up to `most`, and then zeros. A full list of 1,024 may go on after its last.
///
/// # Errors
/// [`IdentifyError::List`].
pub fn parse_namespaces(
    bytes: &[u8; IDENTIFY_LEN],
    after: u32,
    most: u32,
) -> Result<Vec<u32>, IdentifyError> {
    let mut namespaces = Vec::new();
    let mut last = after;
    for number in bytes.chunks_exact(4).map(|b| u32::from_le_bytes([b[0], b[1], b[2], b[3]])) {
        if number == 0 {
            break;
        }
        if number <= last || number > most {
            return Err(IdentifyError::List { number, after: last, most });
        }
        namespaces.push(number);
        last = number;
    }
    Ok(namespaces)
}

/// Text is ASCII, padded with spaces; some controllers pad with zeros.
fn text(bytes: &[u8]) -> String {
    let printable = |&byte: &u8| match byte {
        0 => ' ',
        b' '..=b'~' => char::from(byte),
        _ => '?',
    };
    bytes.iter().map(printable).collect::<String>().trim().to_owned()
}

/// The lower and the upper four bits.
fn nibbles(byte: u8) -> (u8, u8) {
    (byte & 0xf, byte >> 4)
}

/// `N` bytes at a constant place inside the answer.
fn at<const N: usize>(bytes: &[u8; IDENTIFY_LEN], offset: usize) -> [u8; N] {
    std::array::from_fn(|i| bytes[offset + i])
}

fn half(bytes: &[u8; IDENTIFY_LEN], offset: usize) -> u16 {
    u16::from_le_bytes(at(bytes, offset))
}

fn word(bytes: &[u8; IDENTIFY_LEN], offset: usize) -> u32 {
    u32::from_le_bytes(at(bytes, offset))
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn put(bytes: &mut [u8; IDENTIFY_LEN], offset: usize, value: &[u8]) {
        bytes[offset..offset + value.len()].copy_from_slice(value);
    }

    fn controller() -> Box<[u8; IDENTIFY_LEN]> {
        let mut bytes = Box::new([0; IDENTIFY_LEN]);
        put(&mut bytes, 0, &[0x36, 0x1b]);
        put(&mut bytes, 4, b"reader              ");
        put(&mut bytes, 24, b"QEMU NVMe Ctrl                          ");
        put(&mut bytes, 64, b"7.2.22\0\0");
        put(&mut bytes, 77, &[7]);
        put(&mut bytes, 88, &2_000_000u32.to_le_bytes());
        put(&mut bytes, 258, &[3]);
        put(&mut bytes, 512, &[0x66, 0x44]);
        put(&mut bytes, 516, &256u32.to_le_bytes());
        put(&mut bytes, 520, &[0b1000_0101, 0]);
        put(&mut bytes, 525, &[0x7]);
        put(&mut bytes, 536, &(1u32 | 1 << 16).to_le_bytes());
        bytes
    }

    #[test]
    fn a_controller_is_read_field_by_field() {
        let read = IdentifyController::parse(&controller()).expect("a controller");
        assert_eq!(
            read,
            IdentifyController {
                vendor: 0x1b36,
                serial: "reader".into(),
                model: "QEMU NVMe Ctrl".into(),
                firmware: "7.2.22".into(),
                max_transfer_exponent: Some(7),
                aborts: 4,
                namespaces: 256,
                sgl: Some(SglSupport { alignment: 1, bit_bucket: true }),
                optional: OptionalCommands::COMPARE
                    | OptionalCommands::DATASET_MANAGEMENT
                    | OptionalCommands::VERIFY,
                volatile_write_cache: true,
                shutdown: Some(Duration::from_secs(2)),
                max_commands: None,
            }
        );
        assert_eq!(read.max_transfer(4096), 512 << 10);
    }

    #[test]
    fn limits_that_overflow_are_no_limits() {
        for (mdts, expected) in [(0, u64::MAX), (51, 1 << 63), (52, u64::MAX), (255, u64::MAX)] {
            let mut bytes = controller();
            bytes[77] = mdts;
            let read = IdentifyController::parse(&bytes).expect("a controller");
            assert_eq!(read.max_transfer(4096), expected, "MDTS {mdts}");
        }
    }

    #[test]
    fn what_is_no_controller_for_blocks_is_refused() {
        let mut bytes = controller();
        bytes[111] = 2;
        let refused = IdentifyController::parse(&bytes);
        assert_eq!(refused, Err(IdentifyError::ControllerType { kind: 2 }));
        for (at, value) in [(512, 0x67), (512, 0x55), (513, 0x65), (513, 0x33)] {
            let mut bytes = controller();
            bytes[at] = value;
            let refused = IdentifyController::parse(&bytes);
            assert!(matches!(refused, Err(IdentifyError::EntrySizes { .. })), "{at}: {value:#x}");
        }
    }

    fn namespace() -> Box<[u8; IDENTIFY_LEN]> {
        let mut bytes = Box::new([0; IDENTIFY_LEN]);
        put(&mut bytes, 0, &131_072u64.to_le_bytes());
        put(&mut bytes, 25, &[7, 1]);
        put(&mut bytes, 128, &[0, 0, 12, 0, 0, 0, 9, 0]);
        bytes
    }

    #[test]
    fn a_namespace_is_read_in_the_format_it_is_in() {
        let mut bytes = namespace();
        let read = IdentifyNamespace::parse(&bytes).expect("a namespace");
        assert_eq!((read.blocks, read.block_size, read.len), (131_072, 512, 64 << 20));
        assert_eq!((read.metadata, read.extended, read.boundary), (0, false, None));
        // Format 0, with 8 bytes of metadata behind each block, protected, and a boundary.
        put(&mut bytes, 26, &[1 << 4]);
        put(&mut bytes, 29, &[2 | 1 << 3]);
        put(&mut bytes, 46, &[0, 1]);
        put(&mut bytes, 128, &[8, 0, 12, 0]);
        let read = IdentifyNamespace::parse(&bytes).expect("a namespace");
        assert_eq!((read.block_size, read.metadata, read.extended), (4096, 8, true));
        assert_eq!((read.protection, read.boundary), (2, Some(256)));
    }

    #[test]
    fn a_format_beyond_the_sixteenth_has_its_upper_bits_apart() {
        let mut bytes = namespace();
        put(&mut bytes, 25, &[20, 1 << 5 | 3]);
        put(&mut bytes, 128 + 4 * 19, &[0, 0, 13, 0]);
        assert_eq!(IdentifyNamespace::parse(&bytes).expect("a namespace").block_size, 8192);
        // With sixteen formats or fewer those bits mean nothing.
        put(&mut bytes, 25, &[15, 1 << 5 | 1]);
        assert_eq!(IdentifyNamespace::parse(&bytes).expect("a namespace").block_size, 512);
    }

    #[test]
    fn what_cannot_be_read_is_refused() {
        let broken = |offset, value: &[u8]| {
            let mut bytes = namespace();
            put(&mut bytes, offset, value);
            IdentifyNamespace::parse(&bytes)
        };
        assert_eq!(broken(0, &[0; 8]), Err(IdentifyError::Inactive));
        assert_eq!(broken(26, &[9]), Err(IdentifyError::Format { format: 9, count: 8 }));
        assert_eq!(broken(134, &[8]), Err(IdentifyError::BlockSize { exponent: 8 }));
        assert_eq!(broken(134, &[32]), Err(IdentifyError::BlockSize { exponent: 32 }));
        assert_eq!(
            broken(0, &[0xff; 8]),
            Err(IdentifyError::Capacity { blocks: u64::MAX, block_size: 512 })
        );
    }

    #[test]
    fn a_list_of_namespaces_ascends_and_ends() {
        let mut bytes = Box::new([0; IDENTIFY_LEN]);
        put(&mut bytes, 0, &[1, 0, 0, 0, 3, 0, 0, 0]);
        assert_eq!(parse_namespaces(&bytes, 0, 3), Ok(vec![1, 3]));
        let refused = |number, after, most| Err(IdentifyError::List { number, after, most });
        assert_eq!(parse_namespaces(&bytes, 1, 3), refused(1, 1, 3));
        assert_eq!(parse_namespaces(&bytes, 0, 2), refused(3, 1, 2));
        put(&mut bytes, 8, &[3, 0, 0, 0, 4]);
        assert_eq!(parse_namespaces(&bytes, 0, 256), refused(3, 3, 256));
    }

    proptest! {
        #[test]
        fn any_bytes_are_read_or_refused(noise in proptest::collection::vec(any::<u8>(), 600)) {
            let mut bytes = Box::new([0; IDENTIFY_LEN]);
            bytes[..600].copy_from_slice(&noise);
            if let Ok(read) = IdentifyController::parse(&bytes) {
                prop_assert!(read.max_transfer(1 << 27) >= 1 << 27);
                prop_assert!(read.serial.len() <= 20 && read.model.len() <= 40);
            }
            if let Ok(read) = IdentifyNamespace::parse(&bytes) {
                prop_assert!(read.block_size.is_power_of_two() && read.block_size >= 512);
                prop_assert_eq!(read.len / u64::from(read.block_size), read.blocks);
            }
            if let Ok(read) = parse_namespaces(&bytes, 0, 1 << 31) {
                prop_assert!(read.is_sorted_by(|a, b| a < b) && !read.contains(&0));
            }
        }
    }
}
