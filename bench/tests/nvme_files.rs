//! Real files from a drive into a BAR that stands for a GPU's memory, by the driver in user space.

use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::sync::Arc;

use bufmap::dma::{Bounce, Mapper, Type1};
use bufmap::pci::{Address, Tree, driver};
use bufmap::storage::nvme::{
    Controller, Extent, ExtentError, Lists, Namespace, Queue, QueueOptions, Target, extents, fill,
};
use bufmap_bench::drive::Drive;
use bufmap_bench::leaks::Holdings;
use bufmap_bench::{Outcome, check, said};
use exporters::Intent;
use exporters::vfio::{Container, Device};
use iomap::{Memory, PageSize};
use libtest_mimic::Failed;

/// The real inputs, by name.
const INPUTS: [&str; 2] = ["model.safetensors", "high.wz"];

/// Where the drive's file system is mounted while the kernel has it.
const PLACE: &str = "/tmp/files";

fn main() -> ExitCode {
    bufmap_bench::run(
        "vfio",
        &[
            ("a_file_that_is_not_on_the_drive_as_it_is_has_no_extents", unfit),
            ("mappers_give_what_the_drive_can_use", mappers),
            ("real_files_arrive_in_a_bar", real_files),
        ],
    )
}

fn card() -> Result<Address, Failed> {
    let tree = Tree::read()?;
    let found = tree.functions().find(|f| (f.vendor, f.device) == (0x1af4, 0x1110));
    Ok(found.ok_or("there is no ivshmem device")?.address)
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
        check(matches!(foreign, Err(ExtentError::Kernel(_))), format!("{foreign:?}"))
    })();
    unmount()?;
    result
}

/// A file of the host's with a copy on the drive, and where it lies there.
struct Lying {
    original: PathBuf,
    extents: Vec<Extent>,
}

fn copies(inputs: &Path) -> Result<Vec<Lying>, Failed> {
    let copy = |name| -> Result<Lying, Failed> {
        let (original, path) = (inputs.join(name), Path::new(PLACE).join(name));
        fs::copy(&original, &path)?;
        let file = File::open(&path)?;
        file.sync_all()?;
        Ok(Lying { original, extents: extents(&file, 0)? })
    };
    INPUTS.into_iter().map(copy).collect()
}

/// The drive and the card, both this process's.
struct Ours {
    container: Arc<Container>,
    card: Device,
    controller: Arc<Controller>,
    namespace: Namespace,
}

impl Ours {
    fn open(drive: Address) -> Result<Self, Failed> {
        let container = Arc::new(Container::new()?);
        let open = |address: Address| -> Result<Device, Failed> {
            driver::bind(address, "vfio-pci")?;
            Ok(container.open(&address.to_string())?)
        };
        let card = open(card()?)?;
        let controller = Controller::open(open(drive)?, 1)?;
        let namespace = controller.namespaces()?.remove(0);
        Ok(Self { container, card, controller, namespace })
    }

    fn queue(&self, lists: Lists) -> Result<Queue, Failed> {
        let options = QueueOptions { lists, max_read: 4 << 20, ..QueueOptions::default() };
        Ok(self.controller.queue(options)?)
    }
}

/// The model and the pack, byte for byte, by PRPs and by SGLs. Their offsets in the file are their
/// offsets in the BAR.
fn real_files() -> Outcome {
    let Some(inputs) = std::env::var_os("BUFMAP_INPUTS").map(PathBuf::from) else {
        println!("SKIPPED: BUFMAP_INPUTS names no real inputs: run `cargo xtask test`");
        return Ok(());
    };
    let drive = mounted()?;
    let files = copies(&inputs);
    unmount()?;
    let files = files?;
    let ours = Ours::open(drive)?;
    let before = Holdings::now()?;
    let vram = Arc::new(ours.card.map_region(2)?);
    let mapping = Arc::new(ours.container.map_dma(Arc::clone(&vram), Intent::Write)?);
    for (file, lists) in files.iter().zip([Lists::Prp, Lists::Sgl]) {
        let expected = fs::read(&file.original)?;
        let mut target = Target::default();
        target.push(&mapping, 0..mapping.len())?;
        let target = Arc::new(target);
        vram.map().fill(0xEE)?;
        let mut queue = ours.queue(lists)?;
        let mut told = 0;
        let filled = fill(&mut queue, &ours.namespace, &file.extents, &target, &mut |done| {
            told = done;
        })?;
        check(filled == expected.len() as u64 && told == filled, format!("{filled} bytes"))?;
        let mut found = vec![0; expected.len()];
        vram.map().copy_to_slice(0, &mut found)?;
        check(found == expected, format!("{} differs", file.original.display()))?;
        println!(
            "{}: {filled} bytes in {} extents, {lists:?}",
            file.original.display(),
            file.extents.len()
        );
    }
    drop((mapping, vram));
    let after = Holdings::now()?;
    check(before == after, format!("{before:?}, then {after:?}"))?;
    drop(ours);
    driver::release(drive)?;
    Ok(())
}

/// Type1 and a bounce buffer give the drive addresses at which it can write, and only the second has
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
    let ours = Ours::open(drive)?;
    let vram = ours.card.map_part(2, 0..LEN as u64)?;
    let memory = Memory::anonymous(LEN, PageSize::Base)?;
    let mut queue = ours.queue(Lists::Fitting)?;
    let type1 = Type1(Arc::clone(&ours.container));
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
    drop((queue, ours));
    driver::release(drive)?;
    Ok(())
}
