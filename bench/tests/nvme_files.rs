//! Real files from a drive into a BAR that stands for a GPU's memory, by the driver in user space.

use std::fs::{self, File};
use std::ops::Range;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::sync::Arc;
use std::sync::atomic::AtomicBool;

use bufmap::dma::{Bounce, Iommu, Mapper};
use bufmap::format::Format;
use bufmap::format::{ExtentMap, Manifest, MappedFile, MappedItem, Selection};
use bufmap::load::Load;
use bufmap::pci::{Address, driver};
use bufmap::storage::nvme::{
    DriveFile, Extent, ExtentError, Lists, Queue, QueueOptions, Target, extents,
};
use bufmap::transfer::{Around, DataPath, Options, Receipt, TransferError, Verify};
use bufmap_bench::card::card;
use bufmap_bench::drive::{Drive, pattern};
use bufmap_bench::leaks::Holdings;
use bufmap_bench::ours::Ours;
use bufmap_bench::{Outcome, check, said, skip};
use exporters::Destination;
use exporters::vfio::Container;
use exporters::{Intent, Udmabuf};
use iomap::{BufMap, Memory, PageSize};
use libtest_mimic::Failed;

/// The real inputs, by name.
const INPUTS: [&str; 2] = ["model.safetensors", "high.wz"];

/// Where the drive's file system is mounted while the kernel has it.
const PLACE: &str = "/tmp/files";

/// Where loads keep what they have proved.
const PROOFS: &str = "/tmp/bufmap/peer-paths.json";

fn main() -> ExitCode {
    bufmap_bench::run(
        "vfio",
        &[
            ("a_file_that_is_not_on_the_drive_as_it_is_has_no_extents", unfit),
            ("a_file_that_changes_while_it_is_recorded_is_no_other", changing),
            ("mappers_give_what_the_drive_can_use", mappers),
            ("real_files_arrive_in_a_bar", real_files),
            ("real_files_arrive_by_sgls", by_sgls),
            ("a_load_fills_the_systems_memory_too", into_memory),
            ("a_map_that_is_not_true_is_found_out", untrue),
            ("a_block_that_cannot_be_read_ends_the_load_and_is_named", failing),
            ("the_tool_does_it_all", by_the_tool),
        ],
    )
}

/// The drive `files` in the kernel's hands, with a new file system on it, mounted.
fn mounted() -> Result<Address, Failed> {
    let drive = Drive::returned("files")?;
    let block = drive.block.display().to_string();
    said("mke2fs", &["-q", "-F", "-t", "ext4", &block])?;
    fs::create_dir_all(PLACE)?;
    said("mount", &[&block, PLACE])?;
    drive.address()
}

fn unmount() -> Outcome {
    said("umount", &[PLACE]).map(drop)
}

fn unfit() -> Outcome {
    mounted()?;
    let result = (|| {
        let path = Path::new(PLACE).join("sparse");
        let file = File::create(&path)?;
        file.set_len(1 << 20)?;
        let hole = extents(&File::open(&path)?, 0);
        check(matches!(hole, Err(ExtentError::Hole { offset: 0 })), format!("{hole:?}"))?;
        said("fallocate", &["-l", "1M", &path.display().to_string()])?;
        let unwritten = extents(&File::open(&path)?, 0);
        check(
            matches!(unwritten, Err(ExtentError::Unfit { offset: 0, .. })),
            format!("{unwritten:?}"),
        )?;
        // The guest's own files lie on 9p.
        let foreign = extents(&File::open("/usr/bin/env")?, 0);
        check(matches!(foreign, Err(ExtentError::FileSystem)), format!("{foreign:?}"))
    })();
    unmount()?;
    result
}

/// A file that is written to in place is not recorded; one that is replaced is recorded as it was, its
/// extents and its fingerprint those of the same file.
fn changing() -> Outcome {
    mounted()?;
    let result = (|| {
        let (path, other) = (Path::new(PLACE).join("file"), Path::new(PLACE).join("other"));
        let paths = [path.clone()];
        let first = |deed: &dyn Fn() -> std::io::Result<()>| {
            let mut done = None;
            let map = ExtentMap::record(
                &paths,
                &Selection::default(),
                &AtomicBool::new(false),
                &mut |_| {
                    done.get_or_insert_with(deed);
                },
            );
            match done {
                Some(Ok(())) => Ok(map),
                other => Err(Failed::from(format!("while it was recorded: {other:?}"))),
            }
        };
        fs::write(&path, pattern(8 << 20))?;
        let written =
            first(&|| File::options().write(true).open(&path)?.write_all_at(b"new", 1 << 20))?;
        let error = written.expect_err("it was written to").to_string();
        check(error.contains("file: something changed it") && error.contains("(mtime)"), &error)?;

        fs::write(&path, pattern(8 << 20))?;
        fs::write(&other, vec![7; 8 << 20])?;
        let expected =
            ExtentMap::record(&paths, &Selection::default(), &AtomicBool::new(false), &mut |_| ())?;
        let found = first(&|| fs::rename(&other, &path))??;
        check(found == expected, format!("{found:?}, not {expected:?}"))
    })();
    unmount()?;
    result
}

/// Where the real inputs are, if they are there.
fn inputs() -> Option<PathBuf> {
    let inputs = std::env::var_os("BUFMAP_INPUTS").map(PathBuf::from);
    if inputs.is_none() {
        skip("BUFMAP_INPUTS names no real inputs: run `cargo xtask test`");
    }
    inputs
}

/// The real inputs copied to the drive and written down; the drive is then nobody's.
fn recorded(inputs: &Path) -> Result<(Address, Vec<(PathBuf, ExtentMap)>), Failed> {
    let drive = mounted()?;
    let record = |name| -> Result<_, Failed> {
        let (original, path) = (inputs.join(name), Path::new(PLACE).join(name));
        fs::copy(&original, &path)?;
        let (selection, stop) = (Selection::default(), AtomicBool::new(false));
        Ok((original, ExtentMap::record(&[path], &selection, &stop, &mut |_| ())?))
    };
    let maps: Result<_, _> = INPUTS.into_iter().map(record).collect();
    unmount()?;
    Ok((drive, maps?))
}

fn queue(ours: &Ours, lists: Lists) -> Result<Queue, Failed> {
    let options = QueueOptions { lists, max_read: 4 << 20, ..QueueOptions::default() };
    Ok(ours.controller.queue(options)?)
}

/// A load that has to take a path.
fn load(
    manifest: &Manifest<DriveFile>,
    destination: &dyn Destination,
    require: Option<DataPath>,
    verify: Verify,
) -> Result<Receipt, TransferError> {
    Load {
        files: manifest.files(),
        requests: manifest.requests(),
        around: Around::Scratch,
        destination,
        // Reads of 4 MiB take lists of PRPs that are longer than a page.
        options: Options { require, verify, block: 4 << 20, ..Options::default() },
        stop: &AtomicBool::new(false),
    }
    .run(&mut |_| ())
}

/// Every item is in the buffer as it is in the original.
fn all_there(manifest: &Manifest<DriveFile>, original: &Path, map: &BufMap<'_>) -> Outcome {
    let expected = fs::read(original)?;
    for item in manifest.items() {
        let mut found = vec![0; item.request.len as usize];
        map.copy_to_slice(item.request.buffer_offset as usize, &mut found)?;
        let start = item.request.offset as usize;
        check(found == expected[start..start + found.len()], format!("{} differs", item.name))?;
    }
    Ok(())
}

/// The model and the pack, byte for byte, by PRPs, from drive to device and nothing else.
fn real_files() -> Outcome {
    let Some(inputs) = inputs() else { return Ok(()) };
    let (drive, maps) = recorded(&inputs)?;
    let ours = Ours::open_at(Container::new()?, drive)?;
    let vram = ours.card.map_region(2)?;
    let mut before = None;
    for ((original, map), verify) in maps.iter().zip([Verify::Full, Verify::Hash]) {
        let manifest = map.manifest(&ours.controller, &[])?;
        let receipt = load(&manifest, &vram, Some(DataPath::Peer), verify)?;
        let Receipt { bytes, engine, paths, proofs, .. } = &receipt;
        println!("{}: {bytes} bytes by {engine}, {paths:?}, {proofs:?}", original.display());
        check(receipt.paths.len() == 1 && receipt.paths[0].path == DataPath::Peer, "another path")?;
        check(receipt.cpu_copied == 0 && receipt.slots == 0, "the CPU moved bytes")?;
        check(receipt.checked.format_checksums == manifest.items().len(), "not all checked")?;
        let compared = if verify == Verify::Full { receipt.bytes } else { 0 };
        check(receipt.checked.compared == compared, "not all compared")?;
        let proved = matches!(&receipt.proofs[..], [proof] if proof.arrives);
        check(proved, format!("{:?}", receipt.proofs))?;
        all_there(&manifest, original, &vram.map())?;
        let held = Holdings::now()?;
        // The first load has left the allocator what the second one uses.
        check(*before.get_or_insert(held) == held, format!("{before:?}, then {held:?}"))?;
    }
    // By default everything is looked at the first time, then a sample.
    let (original, map) = &maps[0];
    for all in [true, false] {
        vram.map().fill(0xEE)?;
        let manifest = map.manifest(&ours.controller, &[])?;
        let receipt = load(&manifest, &vram, Some(DataPath::Peer), Verify::Auto)?;
        let checked = &receipt.checked;
        println!("{:?}, {} compared", checked.checks, checked.compared);
        check((checked.compared == receipt.bytes) == all, checked.compared)?;
        check(checked.compared * 64 >= receipt.bytes, checked.compared)?;
        check(checked.read_back == checked.compared, checked.read_back)?;
        check(checked.fingerprints.iter().all(Option::is_some) == all, "other fingerprints")?;
        all_there(&manifest, original, &vram.map())?;
    }
    drop((vram, ours));
    driver::release(drive)?;
    Ok(())
}

/// The same by SGLs, which a load takes only where PRPs do not fit.
fn by_sgls() -> Outcome {
    let Some(inputs) = inputs() else { return Ok(()) };
    let (drive, maps) = recorded(&inputs)?;
    let ours = Ours::open_at(Container::new()?, drive)?;
    let vram = Arc::new(ours.card.map_region(2)?);
    let mapping = Arc::new(ours.container.map_dma(Arc::clone(&vram), Intent::Write)?);
    let mut queue = queue(&ours, Lists::Sgl)?;
    const READ: u64 = 1 << 20;
    for (original, map) in &maps {
        let expected = fs::read(original)?;
        let mut target = Target::default();
        target.push(&mapping, 0..mapping.len())?;
        let target = Arc::new(target);
        vram.map().fill(0xEE)?;
        for extent in &map.files[0].extents {
            for at in (0..extent.len).step_by(READ as usize) {
                let start = extent.file_offset + at;
                let part = start..start + READ.min(extent.len - at);
                queue.read(0, &ours.namespace, extent.offset + at, &target, part)?;
                queue.wait().ok_or("nothing is in flight")?.result?;
            }
        }
        let mut found = vec![0; expected.len()];
        vram.map().copy_to_slice(0, &mut found)?;
        check(found == expected, format!("{} differs", original.display()))?;
    }
    drop((queue, mapping, vram, ours));
    driver::release(drive)?;
    Ok(())
}

/// The system's memory is filled by the drive, and a BAR by the CPU where that is asked for.
fn into_memory() -> Outcome {
    let Some(inputs) = inputs() else { return Ok(()) };
    let (drive, maps) = recorded(&inputs)?;
    let ours = Ours::open_at(Container::new()?, drive)?;
    let (original, map) = &maps[0];
    let manifest = map.manifest(&ours.controller, &[])?;
    let memory = Memory::anonymous(manifest.buffer_len() as usize, PageSize::Base)?;
    let receipt = load(&manifest, &memory, None, Verify::Full)?;
    check(
        receipt.paths[0].path == DataPath::Direct && receipt.cpu_copied == 0,
        "the CPU moved bytes",
    )?;
    all_there(&manifest, original, &memory.map())?;

    let vram = ours.card.map_region(2)?;
    let receipt = load(&manifest, &vram, Some(DataPath::Bounce), Verify::None)?;
    check(receipt.paths[0].path == DataPath::Bounce && receipt.slots > 0, "another path")?;
    check(receipt.cpu_copied == receipt.bytes, "the CPU did not move them all")?;
    all_there(&manifest, original, &vram.map())?;

    let memory = &memory;
    let refused = load(&manifest, memory, Some(DataPath::Buffered), Verify::None);
    let words = refused.err().ok_or("a path that cannot be")?.to_string();
    check(words.contains("the kernel does not have the drive"), words)?;
    drop((manifest, vram, ours));
    driver::release(drive)?;
    Ok(())
}

/// Extents that lead elsewhere, and a drive that is another one.
fn untrue() -> Outcome {
    let Some(inputs) = inputs() else { return Ok(()) };
    let (drive, mut maps) = recorded(&inputs)?;
    let ours = Ours::open_at(Container::new()?, drive)?;
    let map = &mut maps[0].1;
    map.files[0].extents[0].offset += 4096;
    let manifest = map.manifest(&ours.controller, &[])?;
    let memory = Memory::anonymous(manifest.buffer_len() as usize, PageSize::Base)?;
    let loaded = load(&manifest, &memory, None, Verify::Hash);
    check(matches!(loaded, Err(TransferError::Mismatch { .. })), format!("{loaded:?}"))?;

    map.files[0].extents[0].offset += 1;
    let words = map.manifest(&ours.controller, &[]).err().ok_or("no block")?.to_string();
    check(words.contains("does not begin with a block"), words)?;
    map.drive.serial.push('!');
    let words = map.manifest(&ours.controller, &[]).err().ok_or("another drive")?.to_string();
    check(words.contains("has the serial number files and not files!"), words)?;
    drop((manifest, ours));
    driver::release(drive)?;
    Ok(())
}

/// What could be read is told from what could not, on the peer path and on the one after it.
fn failing() -> Outcome {
    const LEN: u64 = 8 << 20;
    let drive = Drive::returned("failing")?.address()?;
    let ours = Ours::open_at(Container::new()?, drive)?;
    // The block that cannot be read is in the middle of the drive, and here in that of the file.
    let bad = ours.namespace.len() / 2;
    let extents = vec![Extent { file_offset: 0, offset: bad - LEN / 2 - 4096 * 100, len: LEN }];
    let item = MappedItem::new("all", 0, LEN);
    let file = MappedFile {
        path: "by hand".into(),
        format: Format::Raw,
        note: None,
        extents,
        items: vec![item],
    };
    let id = bufmap::format::Drive {
        address: drive.to_string(),
        serial: "failing".into(),
        namespace: ours.namespace.id(),
    };
    let manifest = ExtentMap { drive: id, files: vec![file], left_out: Vec::new() }
        .manifest(&ours.controller, &[])?;
    let vram = ours.card.map_region(2)?;
    let loaded = Load {
        files: manifest.files(),
        requests: manifest.requests(),
        around: Around::Untouched,
        destination: &vram,
        options: Options::default(),
        stop: &AtomicBool::new(false),
    }
    .run(&mut |_| ());
    let error = loaded.err().ok_or("a block that cannot be read was read")?;
    let TransferError::Read { valid, .. } = &error else { return Err(error.to_string().into()) };
    let words = error.to_string();
    println!("{words}");
    check(
        words.contains("by hand: reading at offset") && words.contains(&drive.to_string()),
        &words,
    )?;
    check(words.contains("Unrecovered Read Error"), &words)?;
    let place = LEN / 2 + 4096 * 100;
    let holds_it = |range: &Range<u64>| range.start < place + 512 && range.end > place;
    check(!valid.ranges().is_empty(), &words)?;
    check(!valid.ranges().iter().any(holds_it), "the bad block is said to be valid")?;
    let whole = pattern(ours.namespace.len() as usize);
    let start = (bad - place) as usize;
    for range in valid.ranges() {
        let mut found = vec![0; (range.end - range.start) as usize];
        vram.map().copy_to_slice(range.start as usize, &mut found)?;
        let from = start + range.start as usize;
        check(found == whole[from..from + found.len()], format!("{range:?} is not valid"))?;
    }
    drop((manifest, vram, ours));
    driver::release(drive)?;
    Ok(())
}

/// A user's way from a mounted file to a BAR and back to the kernel.
fn by_the_tool() -> Outcome {
    let Some(inputs) = inputs() else { return Ok(()) };
    let tool = std::env::var("BUFMAP_TOOL")?;
    let drive = mounted()?;
    let file = Path::new(PLACE).join(INPUTS[0]);
    fs::copy(inputs.join(INPUTS[0]), &file)?;
    File::open(&file)?.sync_all()?;
    let (file, card, address) = (file.display().to_string(), card()?, drive.to_string());
    let to = format!("vfio:{card}");
    said(&tool, &["bind", &card.to_string()])?;

    // While the kernel has the drive, the CPU stands between, and it is said what would change that.
    let report = said(&tool, &["load", &file, "--to", &to])?;
    check(report.contains("by the CPU") && report.contains("bufmap extents"), &report)?;
    let words = said(&tool, &["explain", &file, "--to", &to])?;
    check(words.contains(&format!("bufmap bind {address}")), &words)?;
    let in_use = said(&tool, &["bind", &address]);
    check(in_use.is_err(), "a drive that is mounted was taken")?;

    // What the tests before this one have proved.
    if fs::exists(PROOFS)? {
        fs::remove_file(PROOFS)?;
    }
    let map = said(&tool, &["extents", &file])?;
    let path = "/tmp/model.extents.json";
    fs::write(path, map)?;
    // What is not yet as it must be is said, and the path that it will be.
    let explain = || said(&tool, &["explain", path, "--to", &to]);
    let words = explain()?;
    check(words.contains("the driver nvme has") && words.contains("peer: 86"), &words)?;
    let as_nobody = || {
        said(
            "setpriv",
            &[
                "--reuid=65534",
                "--regid=65534",
                "--clear-groups",
                &tool,
                "explain",
                path,
                "--to",
                &to,
            ],
        )
    };
    unmount()?;
    said(&tool, &["bind", &address])?;
    let words = explain()?;
    println!("{words}");
    check(!words.contains("not yet") && words.contains("none so far"), &words)?;
    let words = as_nobody()?;
    check(words.contains("may not open /dev/vfio/") && words.contains("peer: 86"), &words)?;
    let load = ["load", path, "--to", &to, "--require", "peer", "--verify", "full"];
    let report = said(&tool, &load)?;
    println!("{report}");
    for words in ["peer: 86", "0 B by the CPU", "arrives", "the NVMe driver in user space"] {
        check(report.contains(words), format!("no `{words}` in\n{report}"))?;
    }
    let words = explain()?;
    check(words.contains("arrives, by an earlier load"), &words)?;
    let report = said(&tool, &["load", path, "--to", &format!("{to}:2"), "--json"])?;
    check(report.contains("\"path\": \"peer\""), &report)?;
    let report = said(&tool, &["load", path, "--json"])?;
    check(report.contains("\"path\": \"direct\""), &report)?;
    said(&tool, &["unbind", &address, &card.to_string()])?;
    let back = Drive::returned("files")?;
    said("mount", &[&back.block.display().to_string(), PLACE])?;
    let same = fs::read(&file)? == fs::read(inputs.join(INPUTS[0]))?;
    unmount()?;
    check(same, "the kernel reads another file now")
}

/// Iommu and a bounce buffer give the drive addresses at which it can write, and only the second has
/// the CPU copy.
fn mappers() -> Outcome {
    const LEN: usize = 64 << 10;
    let drive = mounted()?;
    let path = Path::new(PLACE).join("file");
    let expected: Vec<u8> = (0..LEN).map(|i| ((i * 7) >> 3) as u8).collect();
    fs::write(&path, &expected)?;
    let file = File::open(&path)?;
    file.sync_all()?;
    let lying = extents(&file, 0)?;
    drop(file);
    unmount()?;
    let ours = Ours::open_at(Container::new()?, drive)?;
    let vram = ours.card.map_part(2, 0..LEN as u64)?;
    let memory = Memory::anonymous(LEN, PageSize::Base)?;
    let mut queue = queue(&ours, Lists::Fitting)?;
    let type1 = Iommu(Arc::clone(&ours.container));
    let bounce = Bounce(Arc::clone(&ours.container));
    let mappers: [(&dyn Mapper, u64); 2] = [(&type1, 0), (&bounce, LEN as u64)];
    for (mapper, copies) in mappers {
        for map in [vram.map(), memory.map()] {
            map.fill(0)?;
        }
        for (memory, map) in
            [(&vram as &dyn exporters::vfio::Mappable, vram.map()), (&memory, memory.map())]
        {
            let mapped = mapper.map(memory, Intent::Write)?;
            check(mapped.list().total() == LEN as u64, format!("{mapped:?}"))?;
            queue.read_to(&ours.namespace, lying[0].offset, &mapped)?;
            let copied = mapped.finish()?;
            check(copied == copies, format!("{mapper:?}: the CPU copied {copied} bytes"))?;
            let mut found = vec![0; LEN];
            map.copy_to_slice(0, &mut found)?;
            check(found == expected, format!("{mapper:?}: other bytes"))?;
        }
    }
    // A dma-buf whose pages nobody else may know is bounced too, between the CPU's brackets.
    let shared = Memory::memfd("bounced", LEN, PageSize::Base)?;
    let buffer = Udmabuf::open()?.create(&shared, 0..LEN)?;
    let mapped = bounce.map_dma_buf(&buffer, Intent::Write)?;
    queue.read_to(&ours.namespace, lying[0].offset, &mapped)?;
    check(mapped.finish()? == LEN as u64, "the CPU copied another number of bytes")?;
    let mut found = vec![0; LEN];
    shared.map().copy_to_slice(0, &mut found)?;
    check(found == expected, "other bytes in the dma-buf")?;
    // Whoever has the container has the drive's group, which is not taken then.
    drop((queue, vram, ours, type1, bounce));
    driver::release(drive)?;
    Ok(())
}
