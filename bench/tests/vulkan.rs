//! Vulkan allocations that type1 maps for a drive.
//!
//! The machine has Mesa's lavapipe, whose memory is ordinary pages, and no GPU whose memory lies in a
//! BAR. So the memory of a lavapipe allocation is put into a BAR by mapping the BAR over it
//! ([`Moved`]): the allocation is what it was to Vulkan, and to the kernel it is what a GPU's is, a
//! BAR without pages.

#![allow(unsafe_code)]

use std::fs;
use std::os::fd::{AsFd, BorrowedFd};
use std::process::ExitCode;
use std::sync::Arc;
use std::sync::atomic::AtomicBool;

use bufmap::load::Load;
use bufmap::pci::{SystemRam, Tree, classify, driver};
use bufmap::storage::nvme::{Controller, DriveFile, Extent, QueueOptions, Target};
use bufmap::transfer::{Around, DataPath, Options, Request, Verify};
use bufmap_bench::card::card;
use bufmap_bench::drive::{Drive, pattern};
use bufmap_bench::leaks::Holdings;
use bufmap_bench::{Outcome, check};
use exporters::vfio::{Container, Device, DmaMapping, Region};
use exporters::vulkan::{Buffer, SteadyBuffer, VulkanError};
use exporters::{Intent, Udmabuf, vulkan};
use iomap::{BufMap, Memory, PageSize};
use libtest_mimic::Failed;
use rustix::mm::{MapFlags, ProtFlags, mmap, mmap_anonymous};

const LEN: usize = 1 << 20;

/// Where on the drive the tests read.
const FROM: u64 = 5 << 20;

/// The BAR that stands for video memory, and where in it the tests' is.
const VRAM: u32 = 2;
const IN_VRAM: u64 = 3 << 20;

fn main() -> ExitCode {
    bufmap_bench::run(
        "vfio",
        &[
            ("a_drive_fills_an_allocation_whose_pages_are_pinned", pages),
            ("a_load_by_the_driver_fills_what_vulkan_sees", loaded),
            ("a_drive_fills_an_allocation_in_a_bar_by_opt_in_only", bar),
            ("an_allocation_in_ram_without_pages_is_refused_by_type1", ram_without_pages),
            ("nobody_tells_type1_when_an_allocation_is_moved", moved_under_a_mapping),
            // The last, because what it forgets is not closed before the process ends.
            ("an_allocation_is_not_freed_under_a_guard_that_was_forgotten", forgotten),
        ],
    )
}

/// A drive of this process, and lavapipe.
struct Machine {
    container: Arc<Container>,
    drive: Arc<Controller>,
    gpu: vulkan::Device,
}

impl Machine {
    fn open() -> Result<Self, Failed> {
        let container = Arc::new(Container::new()?);
        let address = Drive::returned("reader")?.address()?;
        driver::bind(address, "vfio-pci")?;
        let drive = Controller::open(container.open(&address.to_string())?, 1)?;
        let gpu = vulkan::Device::open(None)?;
        check(gpu.info().shares_system_memory, &gpu.info().name)?;
        Ok(Self { container, drive, gpu })
    }

    fn buffer(&self) -> Result<Arc<Buffer>, Failed> {
        let buffer = Arc::new(self.gpu.allocate_host_visible(LEN)?);
        bytes_of(&buffer)?.fill(0xEE)?;
        Ok(buffer)
    }

    fn card(&self) -> Result<Device, Failed> {
        let address = card()?;
        driver::bind(address, "vfio-pci")?;
        Ok(self.container.open(&address.to_string())?)
    }

    /// Has the drive fill all of the mapping with what it has from `FROM` on.
    fn read(&self, mapping: &Arc<DmaMapping<SteadyBuffer>>) -> Outcome {
        let mut target = Target::default();
        target.push(mapping, 0..LEN as u64)?;
        let mut queue = self.drive.queue(QueueOptions::default())?;
        let namespace = self.drive.namespaces()?.remove(0);
        queue.read(1, &namespace, FROM, &Arc::new(target), 0..LEN as u64)?;
        Ok(queue.wait().ok_or("nothing came out")?.result?)
    }

    /// Checks that Vulkan sees the drive's bytes in the buffer.
    fn sees(&self, buffer: &Arc<Buffer>) -> Outcome {
        let mut bytes = vec![0; LEN];
        self.gpu.transfer()?.read_back(buffer, 0, &mut bytes)?;
        check(bytes == drives_bytes(), "Vulkan sees other bytes than the drive has")
    }
}

/// A whole load, checked by what Vulkan reads back.
fn loaded() -> Outcome {
    let machine = Machine::open()?;
    let namespace = machine.drive.namespaces()?.remove(0);
    let extents = vec![Extent { file_offset: 0, offset: FROM, len: LEN as u64 }];
    let file = DriveFile::new(&machine.drive, namespace, "by hand", extents)?;
    let buffer = machine.buffer()?;
    let steady = buffer.steady()?;
    let receipt = Load {
        files: &[file],
        requests: &[Request::new(0, 0, LEN as u64, 0)],
        around: Around::Untouched,
        destination: &steady,
        options: Options { verify: Verify::Full, ..Options::default() },
        stop: &AtomicBool::new(false),
    }
    .run(&mut |_| ())?;
    check(
        receipt.paths[0].path == DataPath::Direct && receipt.cpu_copied == 0,
        "the CPU moved bytes",
    )?;
    check(receipt.checked.compared == LEN as u64, "not all compared")?;
    machine.sees(&buffer)
}

fn drives_bytes() -> Vec<u8> {
    pattern(FROM as usize + LEN).split_off(FROM as usize)
}

fn bytes_of(buffer: &Buffer) -> Result<BufMap<'_>, Failed> {
    Ok(buffer.cpu().ok_or("the CPU does not reach it")?)
}

/// An allocation of lavapipe's with other memory mapped over its own, until this is dropped.
struct Moved(Arc<Buffer>);

impl Moved {
    fn to(buffer: &Arc<Buffer>, file: BorrowedFd<'_>, offset: u64) -> Result<Self, Failed> {
        let map = bytes_of(buffer)?;
        let access = ProtFlags::READ | ProtFlags::WRITE;
        let flags = MapFlags::SHARED | MapFlags::FIXED;
        // SAFETY: whole pages, which are the allocation's alone; nobody accesses them meanwhile.
        unsafe { mmap(map.as_ptr().cast(), map.len(), access, flags, file, offset) }?;
        Ok(Self(Arc::clone(buffer)))
    }

    fn into_bar(buffer: &Arc<Buffer>, card: &Device) -> Result<Self, Failed> {
        let region = card.map_part(VRAM, IN_VRAM..IN_VRAM + LEN as u64)?;
        let moved = Self::to(buffer, card.as_fd(), offset_of(&region)?)?;
        bytes_of(buffer)?.fill(0xEE)?;
        Ok(moved)
    }
}

impl Drop for Moved {
    fn drop(&mut self) {
        let Some(map) = self.0.cpu() else { return };
        let access = ProtFlags::READ | ProtFlags::WRITE;
        let flags = MapFlags::PRIVATE | MapFlags::FIXED;
        // SAFETY: as in `to`; the allocation has pages again before its owner frees them.
        let back = unsafe { mmap_anonymous(map.as_ptr().cast(), map.len(), access, flags) };
        back.expect("its place is there");
    }
}

/// At which offset of its device's file a region is mapped, by `/proc/self/maps`.
fn offset_of(region: &Region) -> Result<u64, Failed> {
    let start = format!("{:x}-", region.map().as_ptr().addr());
    let maps = fs::read_to_string("/proc/self/maps")?;
    let line = maps.lines().find(|line| line.starts_with(&start)).ok_or("it is not mapped")?;
    let offset = line.split_whitespace().nth(2).ok_or("a short line of maps")?;
    Ok(u64::from_str_radix(offset, 16)?)
}

fn pages() -> Outcome {
    let machine = Machine::open()?;
    let buffer = machine.buffer()?;
    let before = Holdings::now()?.locked_kib;
    let mapping = Arc::new(machine.container.map_dma(buffer.steady()?, Intent::Write)?);
    let pinned = Holdings::now()?.locked_kib - before;
    check(pinned == LEN as u64 >> 10, format!("{pinned} KiB are pinned"))?;
    machine.read(&mapping)?;
    machine.sees(&buffer)?;

    let phyrs = mapping.memory().phyrs()?;
    check(phyrs.list().total() == LEN as u64, format!("{phyrs:?}"))?;
    let elsewhere = classify(phyrs.list(), &Tree::read()?, &SystemRam::read()?)
        .into_iter()
        .find(|placed| !placed.is_as_claimed());
    check(elsewhere.is_none(), format!("{elsewhere:?}"))?;
    drop(phyrs);
    drop(mapping);
    check(Holdings::now()?.locked_kib == before, "they are still pinned")
}

fn bar() -> Outcome {
    let machine = Machine::open()?;
    let card = machine.card()?;
    let buffer = machine.buffer()?;
    let _moved = Moved::into_bar(&buffer, &card)?;

    let refusal = buffer.steady().expect_err("it is no memory that is known to stay");
    check(matches!(refusal, VulkanError::MayMove { .. }), &refusal)?;
    check(refusal.to_string().contains("Buffer::assume_it_stays"), &refusal)?;

    // SAFETY: the BAR stays where it is until the card is closed, after all that is mapped here.
    let vram = unsafe { buffer.assume_it_stays() }?;
    let absent = vram.phyrs().expect_err("it has no pages");
    check(absent.why.contains("cannot be pinned") && absent.fix.contains("IOMMU"), absent)?;
    let before = Holdings::now()?.locked_kib;
    let mapping = Arc::new(machine.container.map_dma(vram, Intent::Write)?);
    check(Holdings::now()?.locked_kib == before, "a BAR has no pages to pin")?;
    machine.read(&mapping)?;
    machine.sees(&buffer)?;
    // And in the card's memory they are.
    check(in_bar(&card)? == drives_bytes(), "the bytes are not in the BAR")
}

fn in_bar(card: &Device) -> Result<Vec<u8>, Failed> {
    let mut bytes = vec![0; LEN];
    let region = card.map_part(VRAM, IN_VRAM..IN_VRAM + LEN as u64)?;
    region.map().copy_to_slice(0, &mut bytes)?;
    Ok(bytes)
}

fn ram_without_pages() -> Outcome {
    let machine = Machine::open()?;
    let buffer = machine.buffer()?;
    // A udmabuf is mapped without pages, as a GPU's buffer in system memory is.
    let ram = Arc::new(Memory::memfd("ram", LEN, PageSize::Base)?);
    let shared = Udmabuf::open()?.share(Arc::clone(&ram))?;
    let _moved = Moved::to(&buffer, shared.dma_bufs()[0].as_fd(), 0)?;
    bytes_of(&buffer)?.fill(1)?;
    check(ram.map().read::<u8>(LEN - 1)? == 1, "the buffer does not lie there")?;
    let refusal = buffer.steady().expect_err("it is no memory that is known to stay");
    check(matches!(refusal, VulkanError::MayMove { .. }), refusal)?;
    // SAFETY: the udmabuf's pages stay where they are as long as it does.
    let promised = unsafe { buffer.assume_it_stays() }?;
    let refusal = machine.container.map_dma(promised, Intent::Write).expect_err("it is RAM");
    let words = refusal.to_string();
    check(words.contains("while its driver keeps it in the GPU's own memory"), words)
}

/// What the opt-in is for: the drive goes on writing to where the allocation was.
fn moved_under_a_mapping() -> Outcome {
    let machine = Machine::open()?;
    let card = machine.card()?;
    let buffer = machine.buffer()?;
    let moved = Moved::into_bar(&buffer, &card)?;
    // SAFETY: it does not stay; but its old place in the card's memory is given to nobody else.
    let promised = unsafe { buffer.assume_it_stays() }?;
    let mapping = Arc::new(machine.container.map_dma(promised, Intent::Write)?);
    drop(moved);
    bytes_of(&buffer)?.fill(0xEE)?;
    machine.read(&mapping)?;
    check(in_bar(&card)? == drives_bytes(), "the bytes are not where the allocation was")?;
    let mut bytes = vec![0; LEN];
    machine.gpu.transfer()?.read_back(&buffer, 0, &mut bytes)?;
    check(bytes.iter().all(|&byte| byte == 0xEE), "the drive's bytes followed the allocation")
}

fn forgotten() -> Outcome {
    let machine = Machine::open()?;
    let steady = machine.buffer()?.steady()?;
    let left = Arc::downgrade(steady.buffer());
    let kept = machine.container.map_dma(&steady, Intent::Write)?;
    drop(kept);
    check(left.strong_count() == 1, "the guard let go of it and holds it still")?;
    std::mem::forget(machine.container.map_dma(&steady, Intent::Write)?);
    drop(steady);
    check(left.strong_count() == 1, "a device may write it, and it is freed")
}
