//! Pins and page frames, from the running kernel.
//!
//! Frame numbers need `CAP_SYS_ADMIN` and huge pages a pool: a test that cannot run here is counted
//! as ignored, and says why. What an ordinary user sees is tried in a child process that is one.

use std::fs;
use std::os::unix::process::CommandExt;
use std::process::Command;

use iomap::{Memory, MemoryError, PageSize, PagemapError, PhyrList, PinError, Pinned, pagemap};
use libtest_mimic::{Arguments, Failed, Trial};
use rustix::process::{Resource, Rlimit, getuid, setrlimit};

const AS_USER: &str = "IOMAP_TEST_AS_USER";
const POOL: &str = "/proc/sys/vm/nr_hugepages";
const NOBODY: u32 = 65534;

fn main() {
    if let Ok(scene) = std::env::var(AS_USER) {
        return as_user(&scene);
    }
    let mut args = Arguments::from_args();
    // The pool of huge pages is the machine's: one test at a time.
    args.test_threads = Some(1);
    let root = getuid().is_root();
    let frames = frames_hidden();
    let user = if root { None } else { Some("must be root to become an ordinary user".into()) };
    let pool = huge_pages_absent();
    let trials = vec![
        trial("two_mappings_have_equal_frames", &frames, two_mappings_have_equal_frames),
        trial("odd_beginnings_and_ends", &frames, odd_beginnings_and_ends),
        trial("frames_stay_while_pinned", &frames, frames_stay_while_pinned),
        trial("a_huge_page_is_one_range", &frames.clone().or(pool), a_huge_page_is_one_range),
        trial("an_ordinary_user_is_told", &user, || child("frames")),
        trial("a_low_limit_is_told", &user, || child("limit")),
        trial("a_pin_ends_with_its_guard", &user, || child("again")),
        trial("nothing_is_pinned_of_nothing", &None, nothing_is_pinned_of_nothing),
        trial("slices_can_be_pinned", &None, slices_can_be_pinned),
    ];
    libtest_mimic::run(&args, trials).exit();
}

/// A test, or an ignored one that says why.
fn trial(
    name: &str,
    obstacle: &Option<String>,
    test: impl FnOnce() -> Result<(), Failed> + Send + 'static,
) -> Trial {
    if let Some(why) = obstacle {
        println!("SKIPPED: {name}: {why}");
    }
    Trial::test(name, test).with_ignored_flag(obstacle.is_some())
}

fn frames_hidden() -> Option<String> {
    let memory = Memory::anonymous(4096, PageSize::Base).ok()?;
    match Pinned::new(memory.map()) {
        Ok(pinned) => pagemap::phyrs(&pinned).err().map(|error| error.to_string()),
        Err(error) => Some(error.to_string()),
    }
}

/// Reserves the pages for the question, and gives them back.
fn huge_pages_absent() -> Option<String> {
    Pool::of(4)?.err()
}

/// The machine's pool of huge pages, grown for a test and put back after.
struct Pool(String);

impl Pool {
    fn of(pages: usize) -> Option<Result<Self, String>> {
        let before = fs::read_to_string(POOL).ok()?;
        let count: usize = before.trim().parse().ok()?;
        let pool = Self(before);
        let wanted = (count + pages).to_string();
        let grown = fs::write(POOL, &wanted).is_ok()
            && fs::read_to_string(POOL).is_ok_and(|now| now.trim() == wanted);
        Some(if grown { Ok(pool) } else { Err(format!("{POOL} stays below {wanted}")) })
    }
}

impl Drop for Pool {
    fn drop(&mut self) {
        let _ = fs::write(POOL, &self.0);
    }
}

fn frames(map: iomap::BufMap<'_>) -> Result<PhyrList, Failed> {
    Ok(pagemap::phyrs(&Pinned::new(map)?)?)
}

fn ensure(holds: bool, what: impl Into<String>) -> Result<(), Failed> {
    if holds { Ok(()) } else { Err(what.into().into()) }
}

/// The frames are the memory's, not the mapping's: another process sees the same behind its own.
/// Here the other mapping is in this process, through the memfd.
fn two_mappings_have_equal_frames() -> Result<(), Failed> {
    let memory = Memory::memfd("frames", 300 * 4096, PageSize::Base)?;
    let fd = memory.fd().ok_or("no memfd")?;
    // The first pin brings the pages in, the second finds them.
    let first = frames(memory.map())?;
    let again = memmap2::MmapOptions::new().len(memory.len()).map_raw(&fd)?;
    let second = frames(map_of(&again))?;
    ensure(first.total() == memory.len() as u64, format!("{} bytes", first.total()))?;
    ensure(first == second, format!("{first:?} and {second:?} differ"))?;
    let other = Memory::memfd("other", 300 * 4096, PageSize::Base)?;
    ensure(frames(other.map())? != first, "two memories with the same frames")
}

#[allow(unsafe_code)]
fn map_of(pages: &memmap2::MmapRaw) -> iomap::BufMap<'_> {
    let (location, caching) = (iomap::Location::System, iomap::Caching::WriteBack);
    let (at, len) = (pages.as_mut_ptr(), pages.len());
    // SAFETY: mapped read-write over `len` bytes as long as `pages` is borrowed.
    unsafe { iomap::BufMap::from_raw(at, len, location, caching, iomap::Access::ReadWrite) }
}

/// A part that begins and ends inside pages has the sub-range of the whole's frames, across the
/// batches in which they are read.
fn odd_beginnings_and_ends() -> Result<(), Failed> {
    let memory = Memory::memfd("odd", 5000 * 4096, PageSize::Base)?;
    let whole = frames(memory.map())?;
    let len = memory.len();
    for (start, end) in
        [(0, 1), (4095, 4097), (1, len - 1), (5, 4091), (17 * 4096, len), (4096, 4096)]
    {
        let part = frames(memory.map().subrange(start..end)?)?;
        let wanted = whole.subrange(start as u64..end as u64)?;
        ensure(part == wanted, format!("{start}..{end}: {part:?}, not {wanted:?}"))?;
    }
    Ok(())
}

/// While the pin holds, the frames are the same whatever the machine does: here, compaction of all
/// memory is asked for, which moves pages that are not pinned.
fn frames_stay_while_pinned() -> Result<(), Failed> {
    let memory = Memory::anonymous(32 << 20, PageSize::Base)?;
    let pinned = Pinned::new(memory.map())?;
    let before = pagemap::phyrs(&pinned)?;
    fs::write("/proc/sys/vm/compact_memory", "1")?;
    ensure(pagemap::phyrs(&pinned)? == before, "pinned pages moved")
}

fn a_huge_page_is_one_range() -> Result<(), Failed> {
    let _pool = Pool::of(4).ok_or("no pool")??;
    for memory in [
        Memory::anonymous(4 << 20, PageSize::Huge2M)?,
        Memory::memfd("huge", 4 << 20, PageSize::Huge2M)?,
    ] {
        for page in [0, 2 << 20] {
            let list = frames(memory.map().subrange(page..page + (2 << 20))?)?;
            ensure(list.ranges().len() == 1, format!("a huge page in pieces: {list:?}"))?;
            let at = list.ranges()[0].addr().get();
            ensure(at.is_multiple_of(2 << 20), format!("a huge page at {at:#x}"))?;
        }
        drop(memory);
    }
    Ok(())
}

fn nothing_is_pinned_of_nothing() -> Result<(), Failed> {
    ensure(frames(iomap::BufMap::null())?.is_empty(), "frames of nothing")
}

fn slices_can_be_pinned() -> Result<(), Failed> {
    let mut bytes = vec![1; 10_000];
    let pinned = Pinned::new(iomap::BufMap::from_mut_slice(&mut bytes))?;
    pinned.map().fill(2)?;
    drop(pinned);
    ensure(bytes == [2; 10_000], "the pinned bytes are others")
}

/// Runs this program again as nobody, from a place where nobody may run it.
fn child(scene: &str) -> Result<(), Failed> {
    use std::os::unix::fs::PermissionsExt;
    let place = std::env::temp_dir().join(format!("iomap-pagemap-{}-{scene}", std::process::id()));
    fs::copy(std::env::current_exe()?, &place)?;
    fs::set_permissions(&place, fs::Permissions::from_mode(0o755))?;
    let output = Command::new(&place).env(AS_USER, scene).uid(NOBODY).gid(NOBODY).output();
    fs::remove_file(&place)?;
    let output = output?;
    let said = String::from_utf8_lossy(&output.stderr);
    ensure(output.status.success(), format!("{}: {said}", output.status))
}

/// What the child does.
fn as_user(scene: &str) {
    assert!(!getuid().is_root());
    let memory = Memory::anonymous(64 << 10, PageSize::Base).unwrap();
    match scene {
        "frames" => {
            let pinned = Pinned::new(memory.map()).expect("an ordinary user may pin 64 KiB");
            let error = pagemap::phyrs(&pinned).unwrap_err();
            assert!(matches!(error, PagemapError::Unprivileged), "{error}");
            assert!(error.to_string().contains("CAP_SYS_ADMIN"), "{error}");
            let huge = Memory::anonymous(1 << 30, PageSize::Huge1G).unwrap_err();
            assert!(matches!(huge, MemoryError::Kernel { .. }), "{huge}");
        }
        "limit" => {
            let limit = Rlimit { current: Some(32 << 10), maximum: Some(32 << 10) };
            setrlimit(Resource::Memlock, limit).unwrap();
            let error = Pinned::new(memory.map()).unwrap_err();
            assert!(matches!(error, PinError::Limit { limit: Some(32768), .. }), "{error}");
            assert!(error.to_string().contains("RLIMIT_MEMLOCK is 32768 bytes"), "{error}");
        }
        // One such pin fits under the limit at a time: it must end when its guard does.
        "again" => {
            let limit = Rlimit { current: Some(1 << 20), maximum: Some(1 << 20) };
            setrlimit(Resource::Memlock, limit).unwrap();
            let memory = Memory::anonymous(640 << 10, PageSize::Base).unwrap();
            let pinned = Pinned::new(memory.map()).unwrap();
            assert!(matches!(Pinned::new(memory.map()), Err(PinError::Limit { .. })));
            drop(pinned);
            for _ in 0..8 {
                Pinned::new(memory.map()).unwrap();
            }
        }
        _ => unreachable!("{scene}"),
    }
}
