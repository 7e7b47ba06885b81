//! Devices in the hands of this process, and a BAR that stands for a GPU's memory.

use std::os::fd::AsFd;
use std::process::ExitCode;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::Duration;

use bufmap::pci::{Address, Class, Tree, driver};
use bufmap_bench::card::card;
use bufmap_bench::drive::{Drive, pattern};
use bufmap_bench::leaks::{Holdings, hold_no_more};
use bufmap_bench::{Outcome, by_hand, check, comes_true};
use exporters::movable::{By, Movable};
use exporters::vfio::{Bar, Container, Device, Interrupt, VfioError};
use exporters::{DmaBufError, Exporter, Intent, SystemMemory};
use iomap::{Caching, Location, Memory, PageSize, PhyrKind};
use libtest_mimic::Failed;
use rustix::event::{PollFd, PollFlags, Timespec, poll};

/// The BAR that stands for video memory, and its length.
const VRAM: u32 = 2;
const VRAM_LEN: u64 = 128 << 20;

const PAGE: u64 = 4096;

fn main() -> ExitCode {
    bufmap_bench::run(
        "vfio",
        &[
            ("a_device_of_another_driver_is_refused_with_the_remedy", foreign),
            ("a_bar_is_mapped_uncached_and_keeps_what_is_written", mapped),
            ("type1_maps_the_bar_of_another_device", type1_maps_a_bar),
            ("type1_pins_memory_until_the_guard_is_dropped", type1_pins),
            ("what_type1_cannot_map_is_named", unmappable),
            ("a_bar_is_a_dma_buf_that_the_cpu_cannot_map", dma_buf),
            ("a_bar_is_given_out_in_pieces", pieces),
            ("a_buffer_moves_between_memory_and_a_bar_under_load", moves),
            ("bus_mastering_is_off_until_it_is_switched_on", bus_master),
            ("whoever_unbinds_a_device_asks_its_user_and_waits", release_is_asked_for),
            ("ten_thousand_mappings_leave_nothing_behind", mappings_leave_nothing),
            ("a_hundred_times_bound_and_released", bound_and_released),
        ],
    )
}

/// The card with the memory.
/// The drive, wherever it is bound.
fn drive() -> Result<Address, Failed> {
    let tree = Tree::read()?;
    let found = tree.functions().find(|function| function.class == Class::NVME);
    Ok(found.ok_or("there is no NVMe drive")?.address)
}

/// Both devices, in one container.
fn devices() -> Result<(Arc<Container>, Device, Device), Failed> {
    let container = Arc::new(Container::new()?);
    let open = |address: Address| -> Result<Device, Failed> {
        driver::bind(address, "vfio-pci")?;
        Ok(container.open(&address.to_string())?)
    };
    let (card, drive) = (open(card()?)?, open(drive()?)?);
    Ok((container, card, drive))
}

fn foreign() -> Outcome {
    let address = drive()?;
    driver::release(address)?;
    let container = Arc::new(Container::new()?);
    let error = container.open(&address.to_string()).expect_err("the kernel has it").to_string();
    check(error.contains(&format!("bufmap bind {address}")), error)?;
    let error = container.open("0000:7f:00.0").expect_err("it is not there").to_string();
    check(error.contains("there is no such PCI function"), error)?;
    let error = driver::bind(address, "no-such-driver").expect_err("not loaded").to_string();
    check(error.contains("modprobe no-such-driver"), error)
}

fn mapped() -> Outcome {
    let (_, card, _) = devices()?;
    check(card.region_len(VRAM)? == VRAM_LEN, "another length")?;
    let vram = card.map_region(VRAM)?;
    let map = vram.map();
    check(
        (map.location(), map.caching()) == (Location::Io, Caching::Uncached),
        "other attributes",
    )?;
    map.copy_from_slice(0x123_4678, &pattern(PAGE as usize))?;
    // Another mapping shows the same bytes.
    let other = card.map_part(VRAM, 0x123_4000..0x123_6000)?;
    let mut bytes = vec![0; PAGE as usize];
    other.map().copy_to_slice(0x678, &mut bytes)?;
    check(bytes == pattern(PAGE as usize), "other bytes")?;

    let phyrs = other.phyrs()?;
    let tree = Tree::read()?;
    let bar = tree.function(card_address(&card)?)?.bars.iter().find(|bar| bar.index == VRAM as u8);
    let start = bar.ok_or("no BAR 2 in sysfs")?.start.get();
    let range = phyrs.iter().next().ok_or("no range")?;
    check(phyrs.total() == 0x2000 && range.kind() == PhyrKind::Peer, format!("{phyrs:?}"))?;
    check(range.addr().get() == start + 0x123_4000, format!("{phyrs:?}"))
}

fn card_address(card: &Device) -> Result<Address, Failed> {
    Ok(card.address().parse()?)
}

fn type1_maps_a_bar() -> Outcome {
    let (container, card, _drive) = devices()?;
    let vram = Arc::new(card.map_region(VRAM)?);
    let there = container.map_dma(Arc::clone(&vram), Intent::ReadWrite)?;
    let here = container.map_dma(Memory::anonymous(1 << 20, PageSize::Base)?, Intent::Write)?;
    check(there.len() == VRAM_LEN, there.len())?;
    let (there_end, here_end) = (there.iova().get() + there.len(), here.iova().get() + here.len());
    let apart = there_end <= here.iova().get() || here_end <= there.iova().get();
    check(apart, "two mappings at one address")?;
    let before = there.iova();
    drop(there);
    let again = container.map_dma(vram, Intent::ReadWrite)?;
    check(again.iova() == before, "the addresses did not come back")
}

fn type1_pins() -> Outcome {
    let (container, _card, _drive) = devices()?;
    let before = Holdings::now()?.locked_kib;
    let memory = Memory::anonymous(8 << 20, PageSize::Base)?;
    let mapping = container.map_dma(&memory, Intent::Write)?;
    let pinned = Holdings::now()?.locked_kib - before;
    check(pinned == 8 << 10, format!("{pinned} KiB of 8 MiB are pinned"))?;
    drop(mapping);
    check(Holdings::now()?.locked_kib == before, "they are still pinned")
}

fn unmappable() -> Outcome {
    let alone = Arc::new(Container::new()?);
    let memory = Memory::anonymous(PAGE as usize, PageSize::Base)?;
    let error = alone.map_dma(&memory, Intent::Write).expect_err("no IOMMU yet").to_string();
    check(error.contains("open a device first"), error)?;

    let (_, card, _) = devices()?;
    for (index, range) in
        [(VRAM, 0..PAGE / 2), (VRAM, 0..VRAM_LEN + PAGE), (5, 0..PAGE), (77, 0..PAGE)]
    {
        let what = format!("{index} {range:?}");
        let error = card.map_part(index, range).expect_err(&what);
        check(matches!(error, VfioError::Region { .. }), format!("{what}: {error}"))?;
    }
    Ok(())
}

fn dma_buf() -> Outcome {
    let (_, card, _) = devices()?;
    let dma_buf = card.dma_buf(VRAM, PAGE..PAGE * 5)?;
    check(dma_buf.len() == 4 * PAGE as usize, dma_buf.len())?;
    check(dma_buf.exporter() == "vfio_pci_core", dma_buf.exporter())?;
    match dma_buf.map() {
        Err(DmaBufError::Kernel { source, .. }) if source.raw_os_error() == Some(libc::EINVAL) => {}
        other => return Err(format!("{other:?}").into()),
    }
    let error = card.dma_buf(VRAM, 0..VRAM_LEN * 2).expect_err("it is longer than the BAR");
    check(matches!(error, VfioError::Region { .. }), error)?;
    let error = card.dma_buf(VRAM, 1..PAGE).expect_err("no whole pages");
    check(matches!(error, VfioError::Kernel { .. }), error)
}

fn pieces() -> Outcome {
    let (_, card, _) = devices()?;
    let bar = Bar::new(&card, VRAM)?;
    let (one, two) = (bar.export(5000)?, bar.export(32 << 20)?);
    check(one.len() == 8192 && two.len() == 32 << 20, "other lengths")?;
    let (first, second) = (one.phyrs()?, two.phyrs()?);
    let starts =
        [&first, &second].map(|phyrs| phyrs.list().iter().next().map(|range| range.addr()));
    check(starts[0].is_some() && starts[0] < starts[1], format!("{starts:?}"))?;
    check(one.dma_buf()?.len() == 8192, "another dma-buf")?;
    {
        let access = two.cpu()?.begin(Intent::ReadWrite)?;
        access.map().write(4096, 0xfeed_u32)?;
        let whole = card.map_region(VRAM)?;
        check(whole.map().read::<u32>(8192 + 4096)? == 0xfeed, "it lies elsewhere")?;
        access.finish()?;
    }
    let error = bar.export(100 << 20).expect_err("32 MiB are taken");
    check(matches!(error.downcast_ref(), Some(VfioError::Region { .. })), &error)?;
    let error = error.to_string();
    check(error.contains("the longest free one has"), error)?;
    drop((first, second));
    drop((one, two));
    check(bar.export(VRAM_LEN as usize)?.len() == VRAM_LEN as usize, "not all came back")
}

/// A thread counts in every word of a buffer, through maps of its own, while the buffer moves.
fn moves() -> Outcome {
    const LEN: usize = 64 << 10;
    const MOVES: u64 = 100;
    let (_, card, _) = devices()?;
    let (bar, memory) = (Bar::new(&card, VRAM)?, SystemMemory::default());
    let buffer = Movable::new(memory.export(LEN)?);
    let done = AtomicBool::new(false);
    let count_up = |expected: u64| -> Result<Location, Failed> {
        let stay = buffer.stay();
        let access = stay.cpu()?.begin(Intent::ReadWrite)?;
        let map = access.map();
        for word in (0..LEN).step_by(8) {
            let found = map.read::<u64>(word)?;
            check(found == expected, format!("{found} in {}, not {expected}", stay.provider()))?;
            map.write(word, expected + 1)?;
        }
        let location = map.location();
        access.finish()?;
        Ok(location)
    };
    let (count, in_bar) = thread::scope(|scope| {
        let writer = scope.spawn(|| -> Result<(u64, u64), Failed> {
            let (mut count, mut in_bar) = (0, 0);
            while !done.load(Ordering::Relaxed) {
                in_bar += u64::from(count_up(count)? == Location::Io);
                count += 1;
            }
            Ok((count, in_bar))
        });
        let moved = (0..MOVES).try_for_each(|turn| {
            let place: &dyn Exporter = if turn % 2 == 0 { &bar } else { &memory };
            buffer.move_to(place, By::Cpu, Duration::from_secs(20))
        });
        done.store(true, Ordering::Relaxed);
        let counted = writer.join().map_err(|_| "the writer panicked")??;
        moved?;
        Ok::<_, Failed>(counted)
    })?;
    println!("{MOVES} moves, written {count} times, of which {in_bar} in the BAR");
    check(in_bar > 0 && in_bar < count, "it was in one place only")?;
    check(count_up(count)? == Location::System, "it is not where it was moved last")
}

fn bus_master() -> Outcome {
    let (_, _, drive) = devices()?;
    let command = || -> Result<u16, Failed> {
        let mut bytes = [0; 2];
        drive.read_config(4, &mut bytes)?;
        Ok(u16::from_le_bytes(bytes) & 4)
    };
    check(command()? == 0, "it is on from the start")?;
    drive.set_bus_master(true)?;
    check(command()? == 4, "it is not on")?;
    drive.set_bus_master(false)?;
    check(command()? == 0, "it is not off")
}

fn release_is_asked_for() -> Outcome {
    let (_container, card, _drive) = devices()?;
    let address = card_address(&card)?;
    let asked = card.listen(Interrupt::Release, 1)?;
    let vram = card.map_region(VRAM)?;
    let unbinder = thread::spawn(move || by_hand::unbind(address));
    let mut wait = [PollFd::new(&asked[0], PollFlags::IN)];
    let ten_seconds = Timespec { tv_sec: 10, tv_nsec: 0 };
    check(poll(&mut wait, Some(&ten_seconds))? == 1, "nobody asked")?;
    // It is still this process's device, and its memory answers.
    vram.map().write(0, 7u32)?;
    check(vram.map().read::<u32>(0)? == 7 && !unbinder.is_finished(), "it was taken away")?;
    let export = card.dma_buf(VRAM, 0..PAGE)?;
    drop((vram, card));
    let unbound = comes_true(Duration::from_secs(10), || Ok(unbinder.is_finished()))?;
    check(unbound, "the device is closed, and still waited for")?;
    let now = unbinder.join().map_err(|_| "the thread panicked")??;
    check(now.is_none(), format!("{now:?}"))?;
    // The dma-buf outlives its device, revoked: it has its size, and nothing behind it.
    check(
        export.len() == PAGE as usize && export.as_fd().try_clone_to_owned().is_ok(),
        "it is gone",
    )
}

fn mappings_leave_nothing() -> Outcome {
    let (container, card, _drive) = devices()?;
    let memory = Memory::anonymous(1 << 20, PageSize::Base)?;
    let vram = card.map_part(VRAM, 0..1 << 20)?;
    hold_no_more(Holdings::now, 11..10_000, |_| {
        let here = container.map_dma(&memory, Intent::Write)?;
        let there = container.map_dma(&vram, Intent::Write)?;
        drop((here, there));
        Ok(())
    })
}

fn bound_and_released() -> Outcome {
    let address = drive()?;
    hold_no_more(Holdings::now, 4..100, |_| {
        driver::bind(address, "vfio-pci")?;
        let container = Arc::new(Container::new()?);
        let device = container.open(&address.to_string())?;
        let _registers = device.map_region(0)?;
        drop((device, container, _registers));
        check(driver::release(address)?.as_deref() == Some("nvme"), "the kernel did not take it")
    })?;
    // And the kernel reads it as ever.
    let bytes = std::fs::read(Drive::appearing("reader")?.block)?;
    check(bytes == pattern(bytes.len()) && bytes.len() == 64 << 20, "other bytes")
}
