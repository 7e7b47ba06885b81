//! The controller's properties: registers at the start of BAR 0, and the doorbells behind them.
//!
//! NVM Express Base Specification 2.0c, section 3.1.3 (controller properties) and the PCIe Transport
//! Specification 1.0c, section 3.1.2 (doorbells). Those of 64 bits are read and written in halves,
//! the lower first, which every controller must bear and some alone bear.

use std::time::Duration;

use iomap::{BufMap, MapError};

/// Offsets in bytes.
mod offset {
    pub const CAPABILITIES: usize = 0x00;
    pub const VERSION: usize = 0x08;
    pub const CONFIGURATION: usize = 0x14;
    pub const STATUS: usize = 0x1c;
    pub const ADMIN_QUEUE_SIZES: usize = 0x24;
    pub const ADMIN_SUBMISSION: usize = 0x28;
    pub const ADMIN_COMPLETION: usize = 0x30;
    pub const READY_TIMEOUTS: usize = 0x68;
    pub const DOORBELLS: usize = 0x1000;
}

/// What a device that is no longer there answers to every read.
const GONE: u32 = u32::MAX;

/// Why a property could not be read or written.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Fault {
    /// Every bit of a register that always has a zero is set: nobody answers.
    Gone,
    /// The region ends before the register.
    Map(MapError),
}

impl From<MapError> for Fault {
    fn from(error: MapError) -> Self {
        Self::Map(error)
    }
}

/// The properties, through a map of the region they are in.
#[derive(Clone, Copy)]
pub(super) struct Registers<'a> {
    map: BufMap<'a>,
}

impl<'a> Registers<'a> {
    pub fn new(map: BufMap<'a>) -> Self {
        Self { map }
    }

    /// CAP.
    pub fn capabilities(&self) -> Result<Capabilities, Fault> {
        match self.read_halves(offset::CAPABILITIES)? {
            u64::MAX => Err(Fault::Gone),
            raw => Ok(Capabilities(raw)),
        }
    }

    /// VS.
    pub fn version(&self) -> Result<Version, Fault> {
        Ok(Version(self.read(offset::VERSION)?))
    }

    /// CC.
    pub fn configuration(&self) -> Result<Configuration, Fault> {
        Ok(Configuration(self.read(offset::CONFIGURATION)?))
    }

    /// CC.
    pub fn set_configuration(&self, configuration: Configuration) -> Result<(), Fault> {
        Ok(self.map.write(offset::CONFIGURATION, configuration.0.to_le())?)
    }

    /// CSTS.
    pub fn status(&self) -> Result<ControllerStatus, Fault> {
        Ok(ControllerStatus::from_bits_retain(self.read(offset::STATUS)?))
    }

    /// AQA, ASQ and ACQ: where the two admin queues lie, and how many entries each has.
    pub fn set_admin_queues(
        &self,
        submission: (u64, u16),
        completion: (u64, u16),
    ) -> Result<(), Fault> {
        // AQA: the sizes, less one, 12 bits each, those of completions in the upper half.
        let last = |entries: u16| u32::from(entries.saturating_sub(1) & 0xfff);
        let sizes = last(completion.1) << 16 | last(submission.1);
        self.map.write(offset::ADMIN_QUEUE_SIZES, sizes.to_le())?;
        self.write_halves(offset::ADMIN_SUBMISSION, submission.0)?;
        self.write_halves(offset::ADMIN_COMPLETION, completion.0)
    }

    /// CRTO.CRWMT: how long the controller may take to get ready, where it has that property.
    pub fn ready_timeout(&self) -> Result<Duration, Fault> {
        let units = self.read(offset::READY_TIMEOUTS)? & 0xffff;
        Ok(HALF_SECOND * units)
    }

    /// Where the doorbells of the queue pair `queue` are: of its submissions and of its completions.
    pub fn doorbells(
        &self,
        capabilities: Capabilities,
        queue: u16,
    ) -> Result<(usize, usize), Fault> {
        let stride = capabilities.doorbell_stride();
        let submission = offset::DOORBELLS + 2 * usize::from(queue) * stride;
        let completion = submission + stride;
        // Both are inside if the further one is.
        self.map.subrange(completion..completion + 4)?;
        Ok((submission, completion))
    }

    fn read(&self, at: usize) -> Result<u32, Fault> {
        match u32::from_le(self.map.read(at)?) {
            GONE => Err(Fault::Gone),
            value => Ok(value),
        }
    }

    fn read_halves(&self, at: usize) -> Result<u64, Fault> {
        let low = u32::from_le(self.map.read(at)?);
        let high = u32::from_le(self.map.read(at + 4)?);
        Ok(u64::from(high) << 32 | u64::from(low))
    }

    fn write_halves(&self, at: usize, value: u64) -> Result<(), Fault> {
        self.map.write(at, (value as u32).to_le())?;
        Ok(self.map.write(at + 4, ((value >> 32) as u32).to_le())?)
    }
}

const HALF_SECOND: Duration = Duration::from_millis(500);

/// What a controller can do, before anything is asked of it (CAP, section 3.1.3.1).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Capabilities(u64);

impl Capabilities {
    /// How many entries an I/O queue may have, 2 to 65,536 (MQES).
    pub const fn queue_entries(self) -> u32 {
        (self.0 & 0xffff) as u32 + 1
    }

    /// How long the controller may take to get ready, or to stop (TO). 500 ms at least, because
    /// some controllers say nothing.
    pub fn timeout(self) -> Duration {
        HALF_SECOND * ((self.0 >> 24 & 0xff) as u32).max(1)
    }

    /// The distance between doorbells in bytes (DSTRD).
    pub const fn doorbell_stride(self) -> usize {
        4 << (self.0 >> 32 & 0xf)
    }

    /// Whether it knows the NVM command set (CSS bit 0).
    pub const fn has_nvm_commands(self) -> bool {
        self.0 >> 37 & 1 != 0
    }

    /// Whether it has I/O command sets that are chosen for each namespace (CSS bit 6).
    pub const fn has_command_sets(self) -> bool {
        self.0 >> 43 & 1 != 0
    }

    /// The smallest page it can be given, in bytes (MPSMIN).
    pub const fn min_page(self) -> u64 {
        1 << (12 + (self.0 >> 48 & 0xf))
    }

    /// The largest page it can be given, in bytes (MPSMAX).
    pub const fn max_page(self) -> u64 {
        1 << (12 + (self.0 >> 52 & 0xf))
    }

    /// Whether it has the property CRTO (CRMS).
    pub(super) const fn has_ready_timeouts(self) -> bool {
        self.0 >> 59 & 0b11 != 0
    }
}

/// The version of the specification that a controller follows (VS, section 3.1.3.2).
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct Version(pub(super) u32);

impl std::fmt::Display for Version {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}.{}.{}", self.0 >> 16, self.0 >> 8 & 0xff, self.0 & 0xff)
    }
}

impl std::fmt::Debug for Version {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Version({self})")
    }
}

/// How a controller is to work (CC, section 3.1.3.5).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Configuration(u32);

impl Configuration {
    const ENABLE: u32 = 1;
    /// CC.SHN, and its value for a normal shutdown.
    const SHUTDOWN: u32 = 0b11 << 14;
    const NORMAL: u32 = 0b01 << 14;

    /// Enabled, with pages of `page` bytes (a power of two, 4096 at least), entries of 64 and 16
    /// bytes, round robin between queues, and the NVM command set.
    pub fn enabled(page: u64, capabilities: Capabilities) -> Self {
        let command_sets = match capabilities.has_nvm_commands() {
            true => 0b000,
            false => 0b110,
        };
        let shift = page.trailing_zeros().saturating_sub(12);
        // IOSQES and IOCQES: 2^6 and 2^4 bytes an entry.
        Self(4 << 20 | 6 << 16 | shift << 7 | command_sets << 4 | Self::ENABLE)
    }

    /// The same, but stopped at once: what is in flight is dropped.
    pub fn stopped(self) -> Self {
        Self(self.0 & !(Self::ENABLE | Self::SHUTDOWN))
    }

    /// The same, with a notification that the controller is about to lose its user.
    pub fn shutting_down(self) -> Self {
        Self(self.0 & !Self::SHUTDOWN | Self::NORMAL)
    }

    pub fn is_enabled(self) -> bool {
        self.0 & Self::ENABLE != 0
    }
}

bitflags::bitflags! {
    /// How a controller is (CSTS, section 3.1.3.6).
    #[derive(Clone, Copy, Debug, PartialEq, Eq)]
    pub(super) struct ControllerStatus: u32 {
        /// It takes commands.
        const READY = 1 << 0;
        /// It has failed for good, until it is reset.
        const FATAL = 1 << 1;
        /// Both bits of the field SHST.
        const SHUTDOWN = 0b11 << 2;
        /// SHST when a shutdown is complete.
        const SHUTDOWN_COMPLETE = 0b10 << 2;
        const _ = !0;
    }
}

impl ControllerStatus {
    pub fn is_shut_down(self) -> bool {
        self & Self::SHUTDOWN == Self::SHUTDOWN_COMPLETE
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use iomap::{Memory, PageSize};

    fn region() -> Memory {
        Memory::anonymous(0x4000, PageSize::Base).expect("memory")
    }

    /// What QEMU's drive says: MQES 2047, CQR, TO 15, CSS NVM | command sets | admin only, MPSMAX 4.
    const QEMU: u64 = 0x7ff | 1 << 16 | 0xf << 24 | 0xc1 << 37 | 4 << 52;

    #[test]
    fn capabilities_are_read_bit_by_bit() {
        let capabilities = Capabilities(QEMU);
        assert_eq!(capabilities.queue_entries(), 2048);
        assert_eq!(capabilities.timeout(), Duration::from_millis(7500));
        assert_eq!(capabilities.doorbell_stride(), 4);
        assert!(capabilities.has_nvm_commands() && capabilities.has_command_sets());
        assert_eq!((capabilities.min_page(), capabilities.max_page()), (4096, 65536));
        assert!(!capabilities.has_ready_timeouts());
        let other = Capabilities(3 << 32 | 1 << 43 | 1 << 48 | 15 << 52 | 1 << 60 | 0xffff);
        assert_eq!((other.queue_entries(), other.doorbell_stride()), (65536, 32));
        assert_eq!(other.timeout(), Duration::from_millis(500));
        assert!(!other.has_nvm_commands() && other.has_command_sets());
        assert_eq!((other.min_page(), other.max_page()), (8192, 1 << 27));
        assert!(other.has_ready_timeouts());
    }

    #[test]
    fn registers_stand_where_the_specification_puts_them() {
        let memory = region();
        let map = memory.map();
        map.write(0x00, QEMU.to_le()).expect("CAP");
        map.write(0x08, 0x0001_0400u32.to_le()).expect("VS");
        map.write(0x1c, 0b1001u32.to_le()).expect("CSTS");
        map.write(0x68, 0x0002_0007u32.to_le()).expect("CRTO");
        let registers = Registers::new(map);
        assert_eq!(registers.capabilities(), Ok(Capabilities(QEMU)));
        assert_eq!(registers.version().expect("VS").to_string(), "1.4.0");
        let status = registers.status().expect("CSTS");
        assert!(status.contains(ControllerStatus::READY) && status.is_shut_down());
        assert!(!status.contains(ControllerStatus::FATAL));
        assert_eq!(registers.ready_timeout(), Ok(Duration::from_millis(3500)));
        registers.set_admin_queues((0x1_2345_6000, 64), (0x9_8765_4000, 32)).expect("AQA");
        let word = |at| u32::from_le(map.read(at).expect("a word"));
        assert_eq!(word(0x24), 31 << 16 | 63);
        assert_eq!([word(0x28), word(0x2c)], [0x2345_6000, 1]);
        assert_eq!([word(0x30), word(0x34)], [0x8765_4000, 9]);
    }

    #[test]
    fn a_configuration_is_enabled_stopped_and_shut_down() {
        let memory = region();
        let registers = Registers::new(memory.map());
        let enabled = Configuration::enabled(8192, Capabilities(QEMU));
        registers.set_configuration(enabled).expect("CC");
        assert_eq!(memory.map().read(0x14), Ok(0x0046_0081u32.to_le()));
        assert_eq!(registers.configuration(), Ok(enabled));
        assert!(enabled.is_enabled() && !enabled.stopped().is_enabled());
        assert_eq!(enabled.shutting_down().0, 0x0046_4081);
        assert_eq!(enabled.shutting_down().stopped().0, 0x0046_0080);
        let sets = Configuration::enabled(4096, Capabilities(1 << 43));
        assert_eq!(sets.0, 0x0046_0061);
    }

    #[test]
    fn doorbells_are_a_stride_apart() {
        let memory = region();
        let registers = Registers::new(memory.map());
        for (capabilities, queue, expected) in [
            (Capabilities(0), 0, (0x1000, 0x1004)),
            (Capabilities(0), 3, (0x1018, 0x101c)),
            (Capabilities(2 << 32), 1, (0x1020, 0x1030)),
        ] {
            assert_eq!(registers.doorbells(capabilities, queue), Ok(expected));
        }
        let beyond = registers.doorbells(Capabilities(0), u16::MAX);
        assert!(matches!(beyond, Err(Fault::Map(MapError::OutOfBounds { .. }))), "{beyond:?}");
    }

    #[test]
    fn a_device_that_is_gone_is_noticed() {
        let memory = region();
        memory.map().fill(0xff).expect("writable");
        let registers = Registers::new(memory.map());
        assert_eq!(registers.capabilities(), Err(Fault::Gone));
        assert_eq!(registers.version(), Err(Fault::Gone));
        assert_eq!(registers.configuration(), Err(Fault::Gone));
        assert_eq!(registers.status(), Err(Fault::Gone));
        assert_eq!(registers.ready_timeout(), Err(Fault::Gone));
    }
}
