//! Loads into the peer memory of a drive, of files that lie on another.

use std::fs;
use std::path::{Path, PathBuf};
use std::sync::atomic::AtomicBool;

use bufmap::format::{Manifest, Selection};
use bufmap::load::{Load, Target};
use bufmap::storage::file::{SourceFile, cache};
use bufmap::transfer::{
    Around, Check, CheckShare, DataPath, Options, Progress, Receipt, TransferError, Verify,
};
use bufmap_bench::drive::{Drive, pattern};
use bufmap_bench::{Outcome, check, said, skip};
use iomap::BufMap;
use libtest_mimic::Failed;

use super::address;

/// The real inputs, by name.
const INPUTS: [&str; 2] = ["model.safetensors", "high.wz"];

/// Where they lie on the drive `files`, under ext4, and where they came from; or `None`, and it was
/// said, if the host has not fetched them.
fn files() -> Result<Option<Vec<(PathBuf, PathBuf)>>, Failed> {
    let Some(inputs) = std::env::var_os("BUFMAP_INPUTS").map(PathBuf::from) else {
        skip("BUFMAP_INPUTS names no real inputs: run `cargo xtask test`");
        return Ok(None);
    };
    let place = mounted()?;
    for name in INPUTS {
        if !place.join(name).exists() {
            fs::copy(inputs.join(name), place.join(name))?;
        }
    }
    said("sync", &[])?;
    Ok(Some(INPUTS.map(|name| (place.join(name), inputs.join(name))).into()))
}

/// The drive `files`, with an ext4 on it.
pub fn mounted() -> Result<&'static Path, Failed> {
    let place = Path::new("/tmp/files");
    if !place.exists() {
        let block = Drive::with_serial("files")?.block.display().to_string();
        said("mke2fs", &["-q", "-F", "-t", "ext4", &block])?;
        fs::create_dir(place)?;
        said("mount", &[&block, &place.display().to_string()])?;
    }
    Ok(place)
}

/// A file with room for it in the provider's memory.
struct Into {
    manifest: Manifest,
    target: Target,
}

impl Into {
    fn of(path: &Path) -> Result<Self, Failed> {
        let manifest = Manifest::open(&[path.to_owned()], &Selection::default())?;
        // Of the file's table, too: nothing is to be had from the page cache.
        fs::write("/proc/sys/vm/drop_caches", "3")?;
        let target = Target::p2pmem(&address("provider")?.to_string(), manifest.buffer_len())?;
        Ok(Self { manifest, target })
    }

    fn load(&self, require: Option<DataPath>, verify: Verify) -> Result<Receipt, TransferError> {
        self.load_while(require, verify, &mut |_| {})
    }

    fn load_while(
        &self,
        require: Option<DataPath>,
        verify: Verify,
        progress: &mut dyn FnMut(Progress),
    ) -> Result<Receipt, TransferError> {
        Load {
            files: self.manifest.files(),
            requests: self.manifest.requests(),
            around: Around::Scratch,
            destination: self.target.destination(),
            options: Options { require, verify, ..Options::default() },
            stop: &AtomicBool::new(false),
        }
        .run(progress)
    }

    fn map(&self) -> Result<BufMap<'_>, Failed> {
        match &self.target {
            Target::Peer(memory) => Ok(memory.map()),
            other => Err(format!("not peer memory: {other}").into()),
        }
    }

    /// Every item is in its place, byte for byte as in another copy of the file.
    fn holds(&self, copy: &Path) -> Outcome {
        let expected = fs::read(copy)?;
        let mut found = vec![0; self.target.destination().len()];
        self.map()?.copy_to_slice(0, &mut found)?;
        for item in self.manifest.items() {
            let request = item.request;
            let place = request.buffer().start as usize..request.buffer().end as usize;
            let bytes = request.offset as usize..(request.offset + request.len) as usize;
            check(found[place] == expected[bytes], format!("{} differs", item.name))?;
        }
        Ok(())
    }

    /// Nothing of what the provider's memory held before is left to be mistaken for a load.
    fn clear(&self) -> Outcome {
        Ok(self.map()?.fill(0xEE)?)
    }
}

/// How many bytes took which path.
fn paths(receipt: &Receipt) -> Vec<(DataPath, u64)> {
    receipt.paths.iter().map(|share| (share.path, share.bytes)).collect()
}

/// Has this process and those after it find out anew which paths can be trusted.
pub fn forget() -> Outcome {
    match fs::remove_file(kept()?) {
        Err(error) if error.kind() != std::io::ErrorKind::NotFound => Err(error.into()),
        _ => Ok(()),
    }
}

/// Whether a verdict was kept since they were forgotten.
pub fn is_any_kept() -> Result<bool, Failed> {
    Ok(kept()?.exists())
}

fn kept() -> Result<PathBuf, Failed> {
    let runtime = std::env::var("XDG_RUNTIME_DIR")?;
    Ok(Path::new(&runtime).join("bufmap/peer-paths.json"))
}

/// The real inputs go from drive to device, all of them, and the CPU moves nothing.
pub fn real_inputs_arrive() -> Outcome {
    forget()?;
    let Some(files) = files()? else { return Ok(()) };
    let mut proof = true;
    for (path, copy) in files {
        let into = Into::of(&path)?;
        into.clear()?;
        let file = SourceFile::open(&path)?;
        let cached = || cache::resident(&file, 0..file.len());
        let receipt = into.load(Some(DataPath::Peer), Verify::None)?;
        println!("{}: {:?}, {}", path.display(), receipt.paths, receipt.engine);
        check(
            paths(&receipt) == [(DataPath::Peer, receipt.bytes)],
            format!("{:?}, {:?}", receipt.paths, receipt.step_downs),
        )?;
        let moved = (receipt.cpu_copied, receipt.gpu_copied, receipt.checked.read_back);
        check(moved == (0, 0, 0), format!("{moved:?}"))?;
        check(
            receipt.step_downs.is_empty() && receipt.slots == 0,
            format!("{:?}, {:?}", receipt.paths, receipt.step_downs),
        )?;
        // What a kernel reads through its cache stays there.
        check(cached()? == 0, "the kernel has read through its page cache")?;
        // The pair is proved once a boot.
        check(
            receipt.proofs.len() == 1 && receipt.proofs[0].arrives,
            format!("{:?}, {:?}", receipt.paths, receipt.step_downs),
        )?;
        check((receipt.proofs[0].bytes > 0) == proof, format!("{:?}", receipt.proofs))?;
        proof = false;
        into.holds(&copy)?;
    }
    Ok(())
}

/// What is asked for is checked by reading the device's memory back, which is counted apart.
pub fn checks_read_the_device_back() -> Outcome {
    let Some(files) = files()? else { return Ok(()) };
    let (pack, _) = &files[1];
    let into = Into::of(pack)?;
    into.clear()?;
    let receipt = into.load(None, Verify::Hash)?;
    check(
        paths(&receipt) == [(DataPath::Peer, receipt.bytes)],
        format!("{:?}, {:?}", receipt.paths, receipt.step_downs),
    )?;
    check(receipt.cpu_copied == 0, receipt.cpu_copied)?;
    check(receipt.checked.read_back == receipt.bytes, receipt.checked.read_back)?;
    check(receipt.checked.format_checksums > 500, receipt.checked.format_checksums)
}

/// The default compares everything when a process uses a pair for the first time, and then a sample, of which a wrong byte in
/// every block is noticed.
pub fn default_looks_at_a_sample() -> Outcome {
    let Some(files) = files()? else { return Ok(()) };
    let (pack, copy) = &files[1];
    let file = SourceFile::open(pack)?;
    let into = Into::of(pack)?;
    into.clear()?;
    let by = |receipt: &Receipt| -> Vec<_> {
        let shares = receipt.checked.checks.iter();
        shares.map(|CheckShare { check, bytes, .. }| (*check, *bytes)).collect()
    };
    check(Options::default().verify == Verify::Auto, "another default")?;
    let receipt = into.load(None, Verify::Auto)?;
    println!("{:?}, {:?}", receipt.paths, receipt.checked.checks);
    let (bytes, items) = (receipt.bytes, into.manifest.items().len());
    check(paths(&receipt) == [(DataPath::Peer, bytes)], format!("{:?}", receipt.step_downs))?;
    check(by(&receipt) == [(Check::Compared, bytes)], format!("{:?}", receipt.checked.checks))?;
    let checked = &receipt.checked;
    check((checked.compared, checked.read_back) == (bytes, bytes), checked.compared)?;
    check((checked.format_checksums, checked.format_checksums_left) == (items, 0), items)?;
    check(checked.fingerprints.iter().all(Option::is_some), "a fingerprint is not known")?;

    into.clear()?;
    let receipt = into.load(None, Verify::Auto)?;
    let checked = &receipt.checked;
    println!("{:?}, {} of {bytes} compared", checked.checks, checked.compared);
    check(by(&receipt) == [(Check::Sample, bytes)], format!("{:?}", checked.checks))?;
    // One block in 64. Some that are picked are the last of a member and shorter than a block: the bytes vary by some blocks.
    check(checked.compared * 70 >= bytes, checked.compared)?;
    check(checked.compared * 50 < bytes, checked.compared)?;
    check(checked.read_back == checked.compared, checked.read_back)?;
    let known = checked.fingerprints.iter().flatten().count();
    check(known == checked.format_checksums, "a checksum is not compared")?;
    check(known + checked.format_checksums_left == items, "an item is not accounted for")?;
    check(known < items / 2, format!("{known} of {items} looked at as a whole"))?;
    check(receipt.cpu_copied == 0, receipt.cpu_copied)?;
    let cached = cache::resident(&file, 0..file.len())?;
    check(cached == 0, format!("{cached} bytes were read again through the page cache"))?;
    into.holds(copy)?;

    // What something else does to the memory before it is looked at.
    let mut wiped = false;
    let error = into.load_while(None, Verify::Auto, &mut |progress| {
        if progress.done == progress.total && !wiped {
            wiped = into.clear().is_ok();
        }
    });
    check(wiped, "it never was whole")?;
    let Err(TransferError::Mismatch { path, what, .. }) = &error else {
        return Err(format!("{error:?}").into());
    };
    check(path == pack && what.contains("a second read of the file gives"), what)
}

/// The real inputs arrive by the CPU, because the peer path is out for `why`; and who requires that
/// path gets an error with the same words.
pub fn real_inputs_bounce(why: &[&str]) -> Outcome {
    let Some(files) = files()? else { return Ok(()) };
    for (path, copy) in files {
        let into = Into::of(&path)?;
        into.clear()?;
        let receipt = into.load(None, Verify::Hash)?;
        println!("{}: {:?}, {:?}", path.display(), receipt.paths, receipt.step_downs);
        check(
            paths(&receipt) == [(DataPath::Bounce, receipt.bytes)],
            format!("{:?}, {:?}", receipt.paths, receipt.step_downs),
        )?;
        check(receipt.cpu_copied == receipt.bytes, receipt.cpu_copied)?;
        check(receipt.checked.read_back == 0, "what was in the CPU's hands is read back")?;
        let [step_down] = &receipt.step_downs[..] else {
            return Err(format!("{:?}", receipt.step_downs).into());
        };
        check(
            (step_down.path, step_down.bytes) == (DataPath::Peer, receipt.bytes),
            &step_down.why,
        )?;
        for words in why {
            check(step_down.why.contains(words), &step_down.why)?;
        }
        into.holds(&copy)?;

        into.clear()?;
        let error = into.load(Some(DataPath::Peer), Verify::None);
        let Err(TransferError::DataPath { data_path: DataPath::Peer, why: said, .. }) = &error
        else {
            return Err(format!("{error:?}").into());
        };
        for words in why {
            check(said.contains(words), said)?;
        }
    }
    Ok(())
}

/// A read that fails on the way ends a load that requires the path, and says which bytes are valid;
/// otherwise the rest is bounced, and nothing is lost.
pub fn falls_back_in_flight() -> Outcome {
    let block = Drive::with_serial("flaky")?.block;
    let into = Into::of(&block)?;
    let expected = pattern(64 << 20);
    let found = || -> Result<Vec<u8>, Failed> {
        let mut found = vec![0; expected.len()];
        into.map()?.copy_to_slice(0, &mut found)?;
        Ok(found)
    };

    into.clear()?;
    let error = into.load(Some(DataPath::Peer), Verify::None);
    let Err(TransferError::Read { path, valid, .. }) = &error else {
        return Err(format!("{error:?}").into());
    };
    check(*path == block && valid.bytes() > 0 && valid.bytes() < 64 << 20, valid)?;
    let bytes = found()?;
    for range in valid.ranges() {
        let range = range.start as usize..range.end as usize;
        check(bytes[range.clone()] == expected[range.clone()], format!("{range:?} differ"))?;
    }

    into.clear()?;
    let receipt = into.load(None, Verify::None)?;
    println!("{:?}, {:?}", receipt.paths, receipt.step_downs);
    let [(DataPath::Peer, by_peer), (DataPath::Bounce, bounced)] = paths(&receipt)[..] else {
        return Err(format!("{:?}", receipt.paths).into());
    };
    check(by_peer + bounced == receipt.bytes && receipt.bytes == 64 << 20, by_peer)?;
    check(receipt.cpu_copied == bounced, receipt.cpu_copied)?;
    let [step_down] = &receipt.step_downs[..] else {
        return Err(format!("{:?}", receipt.step_downs).into());
    };
    check(step_down.bytes == bounced && step_down.why.contains("in flight"), &step_down.why)?;
    check(found()? == expected, "other bytes")?;

    // Now the medium is sound.
    into.clear()?;
    let receipt = into.load(Some(DataPath::Peer), Verify::None)?;
    check(
        paths(&receipt) == [(DataPath::Peer, 64 << 20)],
        format!("{:?}, {:?}", receipt.paths, receipt.step_downs),
    )?;
    check(found()? == expected, "other bytes")
}
