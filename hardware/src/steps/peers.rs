//! Memory of one device that another fills and drains, past system memory: every pair, in both directions.

use std::fs::{self, File, OpenOptions};
use std::os::fd::AsRawFd;
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use std::sync::atomic::AtomicBool;

use bufmap::load::{Load, Target};
use bufmap::pci::{Class, Function, Tree};
use bufmap::storage::file::SourceFile;
use bufmap::transfer::{Around, DataPath, Options, Request, Verify};
use exporters::{P2pmem, PeerMemory};
use rustix::fs::OFlags;

use crate::context::Context;
use crate::record::Teller;

/// As much goes over each pair.
const LEN: usize = 1 << 20;

type Answer<T = String> = Result<T, Box<dyn std::error::Error>>;

pub fn run(context: &Context, teller: &mut Teller) {
    let tree = match Tree::read() {
        Ok(tree) => tree,
        Err(why) => return teller.skipped("peer memory", why),
    };
    let providers: Vec<_> = tree.functions().filter(|one| one.peer_memory.is_some()).collect();
    if providers.is_empty() {
        return teller
            .skipped("peer memory", "no function of this machine publishes any (p2pmem in sysfs)");
    }
    let drives: Vec<_> = tree
        .functions()
        .filter(|one| one.class == Class::NVME && !one.block_devices.is_empty())
        .collect();
    for provider in &providers {
        for drive in drives.iter().filter(|drive| drive.address != provider.address) {
            let pair = format!("{} and {}", provider.address, drive.address);
            told(teller, &pair, "from the drive", from_drive(provider, drive));
            told(teller, &pair, "to the drive", to_drive(context, provider, drive));
        }
    }
}

fn told(teller: &mut Teller, pair: &str, direction: &str, answer: Answer) {
    match answer {
        Ok(how) => teller.row(
            "Pairs",
            [
                ("memory and drive", pair.into()),
                ("direction", direction.into()),
                ("result", how.into()),
            ],
        ),
        Err(why) => teller.skipped(format!("{pair}, {direction}"), why),
    }
}

/// The drive's first bytes, read by the drive into the peer and compared with a read of the kernel's.
fn from_drive(provider: &Function, drive: &Function) -> Answer {
    let disk = Path::new("/dev").join(&drive.block_devices[0].name);
    let target = Target::p2pmem(&provider.address.to_string(), LEN as u64)?;
    let files = [SourceFile::open(disk)?];
    let receipt = Load {
        files: &files,
        requests: &[Request::new(0, 0, LEN as u64, 0)],
        around: Around::Scratch,
        destination: target.destination(),
        options: Options {
            require: Some(DataPath::Peer),
            verify: Verify::Full,
            ..Options::default()
        },
        stop: &AtomicBool::new(false),
    }
    .run(&mut |_| {})?;
    let proofs = receipt.proofs.iter().all(|proof| proof.arrives);
    Ok(format!("{} bytes arrived and are equal, proved: {proofs}", receipt.bytes))
}

/// A file of this program's own on the drive, written from the peer's memory and read back by the kernel.
fn to_drive(context: &Context, provider: &Function, drive: &Function) -> Answer {
    let disk = &drive.block_devices[0].name;
    let own = context.file.parent().map(Path::to_path_buf);
    let directory = own
        .into_iter()
        .chain(mounts_of(disk))
        .find(|directory| lies_on(directory, drive))
        .ok_or_else(|| {
            format!("no file system that this user may write to is mounted from {disk}")
        })?;
    let path = directory.join("bufmap-hardware-peer.bin");
    let answer = write_and_compare(&path, provider);
    let _ = fs::remove_file(&path);
    answer
}

/// Where file systems of a disk or its partitions are mounted.
fn mounts_of(disk: &str) -> Vec<PathBuf> {
    let mounts = fs::read_to_string("/proc/self/mounts").unwrap_or_default();
    let mine = mounts.lines().filter(|line| line.starts_with(&format!("/dev/{disk}")));
    mine.filter_map(|line| line.split(' ').nth(1).map(PathBuf::from)).collect()
}

/// Whether a file there lies on the drive, which is tried.
fn lies_on(directory: &Path, drive: &Function) -> bool {
    let path = directory.join("bufmap-hardware-peer.bin");
    let made = File::create(&path).and_then(|_| SourceFile::open(&path));
    let below = made.map(|file| bufmap::storage::stack::Stack::below(&file).drive());
    let _ = fs::remove_file(&path);
    matches!(below, Ok(Ok(address)) if address == drive.address)
}

fn write_and_compare(path: &Path, provider: &Function) -> Answer {
    let memory = P2pmem::open(&provider.address.to_string())?.allocate(LEN)?;
    let bytes: Vec<u8> =
        (0..LEN as u32 / 4).flat_map(|n| n.wrapping_mul(0x85eb_ca6b).to_le_bytes()).collect();
    memory.map().copy_from_slice(0, &bytes)?;
    // The blocks are there before, so that nothing but the data is written now.
    fs::write(path, vec![0; LEN])?;
    let file =
        OpenOptions::new().write(true).custom_flags(OFlags::DIRECT.bits() as i32).open(path)?;
    let written = write(&file, &memory)?;
    file.sync_all()?;
    if written != LEN {
        return Err(format!("{written} of {LEN} bytes were written").into());
    }
    match fs::read(path)? == bytes {
        true => Ok(format!("{LEN} bytes arrived and are equal")),
        false => Err("the kernel reported success, and other bytes are in the file".into()),
    }
}

#[allow(unsafe_code)]
fn write(file: &File, memory: &PeerMemory) -> std::io::Result<usize> {
    let map = memory.map();
    // SAFETY: the kernel reads the map's own bytes, which are mapped for as long as it is borrowed.
    let written = unsafe { libc::pwrite(file.as_raw_fd(), map.as_ptr().cast(), map.len(), 0) };
    usize::try_from(written).map_err(|_| std::io::Error::last_os_error())
}
