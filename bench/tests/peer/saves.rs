//! Saves out of the peer memory of a drive, into a file system on another.

use std::fs;
use std::path::{Path, PathBuf};
use std::sync::atomic::AtomicBool;

use bufmap::load::Load;
use bufmap::save::{Save, To};
use bufmap::storage::file::{SourceFile, cache};
use bufmap::transfer::{Around, DataPath, Direction, Options, Receipt, Request, SaveError, Verify};
use bufmap_bench::drive::pattern;
use bufmap_bench::{Outcome, check, said};
use exporters::PeerMemory;
use libtest_mimic::Failed;

use super::address;

/// A last block that is a part of one.
const LEN: u64 = (12 << 20) + 777;

/// Peer memory that holds what no drive does, and a file of the same on another file system.
struct Held {
    memory: PeerMemory,
    bytes: Vec<u8>,
    copy: PathBuf,
}

impl Held {
    fn new() -> Result<Self, Failed> {
        let memory = super::memory(LEN as usize)?;
        let bytes: Vec<u8> = pattern(memory.len()).iter().map(|byte| byte ^ 0x5A).collect();
        memory.map().copy_from_slice(0, &bytes)?;
        let copy = PathBuf::from("/tmp/saved.copy");
        fs::write(&copy, &bytes[..LEN as usize])?;
        Ok(Self { memory, bytes, copy })
    }

    fn save(
        &self,
        to: To<'_>,
        request: Request,
        require: Option<DataPath>,
        verify: Verify,
    ) -> Result<Receipt, SaveError> {
        let save = Save {
            source: &self.memory,
            to,
            requests: &[request],
            options: Options { require, verify, ..Options::default() },
            stop: &AtomicBool::new(false),
        };
        let receipt = save.run(&mut |_| {})?;
        println!("{:?}, {:?}, {}", receipt.paths, receipt.step_downs, receipt.engine);
        Ok(receipt)
    }

    /// The memory holds what it held before.
    fn is_as_it_was(&self) -> Outcome {
        let mut found = vec![0; self.bytes.len()];
        self.memory.map().copy_to_slice(0, &mut found)?;
        check(found == self.bytes, "a proof has left bytes of its own")
    }
}

/// The file on the drive has the bytes of another, as another program sees them.
fn same(file: &Path, copy: &Path) -> Outcome {
    fs::write("/proc/sys/vm/drop_caches", "3")?;
    said("cmp", &[&file.display().to_string(), &copy.display().to_string()]).map(drop)
}

fn whole() -> Request {
    Request::new(0, 0, LEN, 0)
}

fn paths(receipt: &Receipt) -> Vec<(DataPath, u64)> {
    receipt.paths.iter().map(|share| (share.path, share.bytes)).collect()
}

/// All of it goes from device to drive, the CPU moves nothing, and the proof is of this direction alone.
pub fn arrive() -> Outcome {
    super::loads::forget()?;
    let (held, file) = (Held::new()?, super::loads::mounted()?.join("saved"));
    let mut first = true;
    for verify in [Verify::None, Verify::Full] {
        let receipt = held.save(To::NewFile(&file), whole(), Some(DataPath::Peer), verify)?;
        check(paths(&receipt) == [(DataPath::Peer, LEN)], format!("{receipt:?}"))?;
        check((receipt.cpu_copied, receipt.gpu_copied, receipt.slots) == (0, 0, 0), "copies")?;
        check(receipt.step_downs.is_empty(), format!("{:?}", receipt.step_downs))?;
        let [proof] = &receipt.proofs[..] else { return Err(format!("{receipt:?}").into()) };
        check(proof.arrives && proof.direction == Direction::ToDrive, format!("{proof:?}"))?;
        check((proof.bytes > 0) == first, format!("{proof:?}"))?;
        first = false;
        let full = verify == Verify::Full;
        check(receipt.checked.compared == if full { LEN } else { 0 }, format!("{receipt:?}"))?;
        same(&file, &held.copy)?;
        held.is_as_it_was()?;
    }
    // What a kernel writes through its cache stays there.
    held.save(To::NewFile(&file), whole(), None, Verify::None)?;
    let source = SourceFile::open(&file)?;
    // The last page is cut off by the kernel, in its cache.
    check(cache::resident(&source, 0..LEN / 4096 * 4096)? == 0, "written through the page cache")?;
    loads_are_proved_by_themselves(&source)
}

/// That the drive reads the memory says nothing about whether it writes it.
fn loads_are_proved_by_themselves(source: &SourceFile) -> Outcome {
    fs::write("/proc/sys/vm/drop_caches", "3")?;
    let memory = super::memory(LEN as usize)?;
    let load = Load {
        files: std::slice::from_ref(source),
        requests: &[whole()],
        around: Around::Scratch,
        destination: &memory,
        options: Options { require: Some(DataPath::Peer), ..Options::default() },
        stop: &AtomicBool::new(false),
    };
    let receipt = load.run(&mut |_| {})?;
    let [proof] = &receipt.proofs[..] else { return Err(format!("{receipt:?}").into()) };
    let own = proof.direction == Direction::FromDrive && proof.bytes > 0;
    check(proof.arrives && own, format!("{proof:?}"))
}

/// Whole blocks go by the peer path and the parts of two by the page cache; what lies around them stays.
pub fn in_place() -> Outcome {
    super::loads::forget()?;
    let (held, file) = (Held::new()?, super::loads::mounted()?.join("written"));
    let mut expected = vec![0x77; LEN as usize + 5000];
    fs::write(&file, &expected)?;
    said("sync", &[])?;
    let part = 1000..LEN - 3000;
    let request = Request::new(0, part.start, part.end - part.start, part.start);
    let receipt = held.save(To::InPlace(&file), request, None, Verify::Full)?;
    let by_peer = part.end / 4096 * 4096 - 4096;
    let rest = part.end - part.start - by_peer;
    let all = [(DataPath::Peer, by_peer), (DataPath::Buffered, rest)];
    check(paths(&receipt) == all, format!("{receipt:?}"))?;
    check(receipt.proofs.iter().all(|proof| proof.arrives && proof.bytes > 0), "no proof")?;
    let part = part.start as usize..part.end as usize;
    expected[part.clone()].copy_from_slice(&held.bytes[part]);
    fs::write(&held.copy, &expected)?;
    same(&file, &held.copy)?;
    held.is_as_it_was()?;
    let names: Vec<_> = fs::read_dir(file.parent().ok_or("no directory")?)?
        .map(|entry| Ok(entry?.file_name()))
        .collect::<std::io::Result<_>>()?;
    let ours = |name: &std::ffi::OsString| name.to_string_lossy().starts_with(".bufmap");
    check(!names.iter().any(ours), format!("{names:?}"))
}

/// `bufmap save` copies a file by way of the peer memory, and `cmp` finds no difference.
pub fn by_the_tool() -> Outcome {
    let tool = std::env::var("BUFMAP_TOOL")?;
    let place = super::loads::mounted()?;
    let (from, to) = (place.join("saved"), place.join("copied"));
    if !from.exists() {
        arrive()?;
    }
    fs::write("/proc/sys/vm/drop_caches", "3")?;
    let names = [&to, &from].map(|path| path.display().to_string());
    let provider = format!("p2pmem:{}", address("provider")?);
    let args = [
        "save",
        &provider,
        &names[0],
        "--from",
        &names[1],
        "--require",
        "peer",
        "--verify",
        "full",
    ];
    let table = said(&tool, &args)?;
    println!("{table}");
    for words in [" path    peer: 12.0 MiB", "reads out of the memory of", "0 B by the CPU"] {
        check(table.contains(words), format!("'{words}' is not in {table}"))?;
    }
    same(&to, &from)
}

/// It arrives by the CPU, because the peer path is out for `why`; and who requires that path gets an error with the same
/// words, and no file.
pub fn bounce(why: &[&str]) -> Outcome {
    let (held, file) = (Held::new()?, super::loads::mounted()?.join("bounced"));
    let receipt = held.save(To::NewFile(&file), whole(), None, Verify::Full)?;
    check(paths(&receipt) == [(DataPath::Bounce, LEN)], format!("{receipt:?}"))?;
    check(receipt.cpu_copied == LEN, receipt.cpu_copied)?;
    let [step_down] = &receipt.step_downs[..] else {
        return Err(format!("{:?}", receipt.step_downs).into());
    };
    check((step_down.path, step_down.bytes) == (DataPath::Peer, LEN), &step_down.why)?;
    for words in why {
        check(step_down.why.contains(words), &step_down.why)?;
    }
    same(&file, &held.copy)?;
    held.is_as_it_was()?;

    fs::remove_file(&file)?;
    let error = held.save(To::NewFile(&file), whole(), Some(DataPath::Peer), Verify::None);
    let Err(SaveError::DataPath { data_path: DataPath::Peer, why: said, .. }) = &error else {
        return Err(format!("{error:?}").into());
    };
    for words in why {
        check(said.contains(words), said)?;
    }
    check(!file.exists(), "a save that was refused has made a file")
}
