//! Memory mapped for a drive by iommufd, for kernels that have it.
//!
//! Debian's kernel is built without: these tests are then ignored, but for the last. Ubuntu's since
//! 26.04 (Linux 7.0) has all that they ask for; docs/testing.md says how to run them with it.

use std::fs;
use std::path::Path;
use std::process::{Command, ExitCode};
use std::sync::Arc;
use std::sync::atomic::AtomicBool;

use bufmap::dma::{Iommu, Mapper};
use bufmap::format::Format;
use bufmap::format::{ExtentMap, MappedFile, MappedItem};
use bufmap::load::Load;
use bufmap::pci::driver;
use bufmap::storage::nvme::{Extent, QueueOptions, Target};
use bufmap::transfer::{Around, DataPath, Options, Verify};
use bufmap_bench::drive::{Drive, pattern};
use bufmap_bench::leaks::{Holdings, hold_no_more};
use bufmap_bench::ours::Ours;
use bufmap_bench::{Outcome, check, skip};
use exporters::Intent;
use exporters::vfio::Container;
use iomap::{BufMap, Memory, PageSize};

const LEN: u64 = 1 << 20;

fn main() -> ExitCode {
    bufmap_bench::run(
        "vfio",
        &[
            ("iommufd_maps_pages_and_a_bar", pages_and_a_bar),
            ("iommufd_maps_a_dma_buf_by_its_file", dma_buf),
            ("a_load_takes_a_container_of_iommufd", load),
            ("iommufd_leaves_nothing_behind", cycles),
            ("type1_takes_no_dma_buf_and_says_so", type1_refuses),
        ],
    )
}

/// Whether the kernel has iommufd; says it, if not.
fn has_iommufd() -> bool {
    let _ = Command::new("modprobe").args(["--quiet", "iommufd"]).status();
    let there = Path::new("/dev/iommu").exists();
    if !there {
        skip("this kernel has no iommufd: run it with one that has, see docs/testing.md");
    }
    there
}

/// Gives the drive back to the kernel, which must find it as it was.
fn end(ours: Ours) -> Outcome {
    let drive = ours.drive;
    drop(ours);
    driver::release(drive)?;
    let block = Drive::returned("reader")?.block;
    check(fs::read(block)?.starts_with(&pattern(LEN as usize)), "the kernel reads other bytes")
}

fn is_the_drives(map: &BufMap<'_>) -> Outcome {
    let mut found = vec![0; LEN as usize];
    map.copy_to_slice(0, &mut found)?;
    check(found == pattern(LEN as usize), "other bytes than the drive's")
}

/// A read of which one half goes to pages, which are mapped by their address, and the other to a BAR,
/// which is mapped by a dma-buf.
fn pages_and_a_bar() -> Outcome {
    if !has_iommufd() {
        return Ok(());
    }
    let ours = Ours::open(Container::iommufd()?, "reader")?;
    check(ours.container.kind() == "iommufd", ours.container.kind())?;
    let vram = Arc::new(ours.card.map_region(2)?);
    vram.map().fill(0)?;
    let memory = Memory::anonymous(LEN as usize, PageSize::Base)?;
    let vram = Arc::new(ours.container.map_dma(vram, Intent::Write)?);
    let memory = Arc::new(ours.container.map_dma(memory, Intent::Write)?);
    let mut target = Target::default();
    target.push(&memory, 0..LEN / 2)?;
    target.push(&vram, 0..LEN / 2)?;
    let mut queue = ours.controller.queue(QueueOptions::default())?;
    let most = queue.max_read();
    check(most >= LEN, format!("reads of {most} bytes"))?;
    queue.read(0, &ours.namespace, 0, &Arc::new(target), 0..LEN)?;
    queue.wait().ok_or("nothing came out")?.result?;
    let whole = pattern(LEN as usize);
    for (map, expected) in
        [(memory.map(), &whole[..whole.len() / 2]), (vram.map(), &whole[whole.len() / 2..])]
    {
        let mut found = vec![0; expected.len()];
        map.copy_to_slice(0, &mut found)?;
        check(found == expected, "other bytes than the drive's")?;
    }
    drop((queue, memory, vram));
    end(ours)
}

/// A dma-buf of a BAR, of which this process knows no address.
fn dma_buf() -> Outcome {
    if !has_iommufd() {
        return Ok(());
    }
    let ours = Ours::open(Container::iommufd()?, "reader")?;
    let region = ours.card.map_part(2, 0..LEN)?;
    region.map().fill(0)?;
    let buffer = ours.card.dma_buf(2, 0..LEN)?;
    let mapper = Iommu(Arc::clone(&ours.container));
    let mapped = mapper.map_dma_buf(&buffer, Intent::Write)?;
    check(mapped.list().total() == LEN, format!("{mapped:?}"))?;
    let mut queue = ours.controller.queue(QueueOptions::default())?;
    queue.read_to(&ours.namespace, 0, &mapped)?;
    check(mapped.finish()? == 0, "the CPU copied bytes")?;
    is_the_drives(&region.map())?;
    drop((queue, region, buffer, mapper));
    end(ours)
}

/// A whole load into the BAR, proved and checked as every one.
fn load() -> Outcome {
    if !has_iommufd() {
        return Ok(());
    }
    let ours = Ours::open(Container::iommufd()?, "reader")?;
    let extents = vec![Extent { file_offset: 0, offset: 0, len: LEN }];
    let items = vec![MappedItem::new("all", 0, LEN)];
    let file =
        MappedFile { path: "by hand".into(), format: Format::Raw, note: None, extents, items };
    let drive = bufmap::format::Drive {
        address: ours.drive.to_string(),
        serial: "reader".into(),
        namespace: ours.namespace.id(),
    };
    let manifest = ExtentMap { drive, files: vec![file], left_out: Vec::new() }
        .manifest(&ours.controller, &[])?;
    let vram = ours.card.map_region(2)?;
    let receipt = Load {
        files: manifest.files(),
        requests: manifest.requests(),
        around: Around::Scratch,
        destination: &vram,
        options: Options {
            require: Some(DataPath::Peer),
            verify: Verify::Full,
            ..Options::default()
        },
        stop: &AtomicBool::new(false),
    }
    .run(&mut |_| ())?;
    println!("{receipt:?}");
    check(receipt.cpu_copied == 0 && receipt.checked.compared == LEN, "the CPU moved bytes")?;
    is_the_drives(&vram.map())?;
    drop((manifest, vram));
    end(ours)
}

fn cycles() -> Outcome {
    if !has_iommufd() {
        return Ok(());
    }
    let ours = Ours::open(Container::iommufd()?, "reader")?;
    let memory = Memory::anonymous(LEN as usize, PageSize::Base)?;
    memory.map().fill(1)?;
    let region = ours.card.map_part(2, 0..LEN)?;
    let cycle = || -> Outcome {
        let pages = ours.container.map_dma(&memory, Intent::Write)?;
        let bar = ours.container.map_dma(&region, Intent::Write)?;
        drop((pages, bar));
        Ok(())
    };
    hold_no_more(Holdings::now, 1..1001, |_| cycle())?;
    drop((memory, region));
    end(ours)
}

/// What cannot be had without iommufd is refused in words.
fn type1_refuses() -> Outcome {
    let ours = Ours::open(Container::type1()?, "reader")?;
    check(ours.container.kind() == "type1", ours.container.kind())?;
    let buffer = ours.card.dma_buf(2, 0..LEN)?;
    let mapper = Iommu(Arc::clone(&ours.container));
    let refused = mapper.map_dma_buf(&buffer, Intent::Write).err().ok_or("type1 took a dma-buf")?;
    let words = refused.to_string();
    check(words.contains("type1 takes memory that this process has mapped"), words)?;
    // The mapper keeps the container, and the container the drive's group.
    drop((buffer, mapper));
    end(ours)
}
