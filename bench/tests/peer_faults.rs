//! Whole loads by the kernel into the memory of another drive, while what they stand on gives way.

mod peer;

use std::fs;
use std::io::{BufRead, BufReader, Read};
use std::os::unix::process::ExitStatusExt;
use std::process::{Child, ChildStdout, Command, ExitCode, Stdio};
use std::sync::atomic::AtomicBool;
use std::thread;
use std::time::{Duration, Instant};

use bufmap::load::Load;
use bufmap::pci::Address;
use bufmap::storage::file::SourceFile;
use bufmap::transfer::{
    Around, DataPath, Options, Progress, Receipt, Request, TransferError, Verify,
};
use bufmap_bench::cut_short::{LEN, SOON, holds, is_true};
use bufmap_bench::drive::Drive;
use bufmap_bench::monitor::Monitor;
use bufmap_bench::{Outcome, by_hand, check, slot};
use exporters::{P2pmem, PeerMemory};
use libtest_mimic::Failed;

/// No load takes longer to end, once something has happened to it, than what is in flight takes.
const AT_ONCE: Duration = Duration::from_secs(3);

/// A drive of 4 MiB a second.
const SLOW: &str = "victim";

/// The variable that makes this program the victim of a test, and says what it does.
const VICTIM: &str = "BUFMAP_VICTIM";

/// A load that something happens to.
struct Loading {
    name: &'static str,
    /// The drive whose memory is loaded into.
    provider: &'static str,
    require: Option<DataPath>,
    verify: Verify,
    /// How much has landed when it says so. When all has, the rest of `Verify::Full` is to compare.
    says: Says,
}

#[derive(Clone, Copy, PartialEq)]
enum Says {
    /// Before it begins, with the memory in its hands; then it waits to be told to go on.
    Ready,
    Soon,
    AllIsThere,
}

const fn into_provider(
    name: &'static str,
    require: Option<DataPath>,
    verify: Verify,
    says: Says,
) -> Loading {
    Loading { name, provider: "provider", require, verify, says }
}

const BY_PEER: Loading = into_provider("by peer", Some(DataPath::Peer), Verify::None, Says::Soon);

const LOADINGS: [Loading; 11] = [
    BY_PEER,
    into_provider("by peer, hashed", Some(DataPath::Peer), Verify::Hash, Says::Soon),
    into_provider("by peer, checked", Some(DataPath::Peer), Verify::Full, Says::Soon),
    into_provider("by peer, in the check", Some(DataPath::Peer), Verify::Full, Says::AllIsThere),
    into_provider("by peer, before the proof", Some(DataPath::Peer), Verify::None, Says::Ready),
    into_provider("by any path", None, Verify::None, Says::Soon),
    into_provider("by any path, hashed", None, Verify::Hash, Says::Soon),
    into_provider("by any path, before the proof", None, Verify::Hash, Says::Ready),
    into_provider("by the CPU", Some(DataPath::Bounce), Verify::None, Says::Soon),
    into_provider(
        "by the CPU, in the check",
        Some(DataPath::Bounce),
        Verify::Full,
        Says::AllIsThere,
    ),
    LOST,
];

const LOST: Loading = Loading {
    name: "into the lost",
    provider: "lost",
    require: Some(DataPath::Peer),
    verify: Verify::Full,
    says: Says::Soon,
};

fn main() -> ExitCode {
    if let Ok(what) = std::env::var(VICTIM) {
        let done = match LOADINGS.iter().find(|loading| loading.name == what) {
            Some(loading) => load_on_and_on(loading),
            None => hold(),
        };
        return match done {
            Ok(()) => ExitCode::SUCCESS,
            Err(error) => {
                println!("{}", error.message().unwrap_or_default());
                ExitCode::FAILURE
            }
        };
    }
    bufmap_bench::run(
        "switch",
        &[
            ("a_process_that_is_killed_in_mid_load_gives_its_peer_memory_back", killed),
            ("peer_memory_is_taken_from_who_holds_it", revoked),
            ("a_provider_that_is_unbound_ends_the_load", provider_unbound),
            ("a_drive_that_is_unbound_in_the_check_ends_it", unbound_in_the_check),
            ("a_loader_outlives_a_provider_that_is_unbound", || {
                peer::losses::of_the_provider(unbind_provider)
            }),
            ("a_loader_outlives_a_drive_that_is_unbound", peer::losses::of_the_drive),
            // What these do cannot be undone.
            ("a_provider_that_is_pulled_out_ends_the_load", provider_pulled),
            ("a_drive_whose_link_is_down_ends_the_load", cut_off),
            ("a_drive_that_is_unplugged_ends_the_load", unplugged),
        ],
    )
}

/// Loads the first `len` bytes of a drive.
fn load(
    drive: &Drive,
    into: &PeerMemory,
    len: u64,
    (require, verify): (Option<DataPath>, Verify),
    progress: &mut dyn FnMut(Progress),
) -> Result<Receipt, Failed> {
    Ok(try_load(drive, into, len, (require, verify), progress)??)
}

fn try_load(
    drive: &Drive,
    into: &PeerMemory,
    len: u64,
    (require, verify): (Option<DataPath>, Verify),
    progress: &mut dyn FnMut(Progress),
) -> Result<Result<Receipt, TransferError>, Failed> {
    let file = SourceFile::open(&drive.block)?;
    let stop = AtomicBool::new(false);
    let options = Options { require, verify, depth: 4, block: 256 << 10, ..<_>::default() };
    let load = Load {
        files: &[file],
        requests: &[Request::new(0, 0, len, 0)],
        around: Around::Untouched,
        destination: into,
        options,
        stop: &stop,
    };
    Ok(load.run(progress))
}

/// A whole load, as if nothing had ever happened.
fn works() -> Outcome {
    const SOME: u64 = 1 << 20;
    let memory = peer::memory(SOME as usize)?;
    memory.map().fill(0xEE)?;
    let how = (Some(DataPath::Peer), Verify::Full);
    let receipt = load(&Drive::with_serial(SLOW)?, &memory, SOME, how, &mut |_| ())?;
    check(receipt.bytes == SOME && receipt.cpu_copied == 0, format!("{receipt:?}"))?;
    holds(&memory.map(), 0..SOME)
}

/// A process that does something to peer memory. Nothing was proved to it before.
fn begin(what: &str) -> Result<(Child, BufReader<ChildStdout>), Failed> {
    const NOTHING_KNOWN: &str = "/tmp/nothing known";
    let _ = fs::remove_dir_all(NOTHING_KNOWN);
    fs::create_dir(NOTHING_KNOWN)?;
    let mut victim = Command::new(std::env::current_exe()?)
        .env(VICTIM, what)
        .env("XDG_RUNTIME_DIR", NOTHING_KNOWN)
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()?;
    let mut said = BufReader::new(victim.stdout.take().ok_or("no pipe")?);
    let mut line = String::new();
    said.read_line(&mut line)?;
    check(line == "now\n", format!("it says {line:?}"))?;
    Ok((victim, said))
}

fn load_on_and_on(loading: &Loading) -> Outcome {
    let provider = P2pmem::in_directory(&Drive::with_serial(loading.provider)?.function)?;
    let (drive, memory) = (Drive::with_serial(SLOW)?, provider.allocate(LEN as usize)?);
    if loading.says == Says::Ready {
        println!("now");
        std::io::stdin().read_line(&mut String::new())?;
    }
    let at = if loading.says == Says::AllIsThere { LEN } else { SOON };
    loop {
        let mut told = loading.says == Says::Ready;
        load(&drive, &memory, LEN, (loading.require, loading.verify), &mut |progress| {
            if progress.done >= at && !std::mem::replace(&mut told, true) {
                println!("now");
            }
        })?;
        println!("and again");
    }
}

fn hold() -> Outcome {
    let memory = peer::memory(SOON as usize)?;
    memory.map().write(0, 0x1234_u32)?;
    println!("now");
    let mut line = String::new();
    std::io::stdin().read_line(&mut line)?;
    println!("it is there: {}", memory.is_there());
    println!("it holds {:#x}", memory.map().read::<u32>(0)?);
    Ok(())
}

fn killed() -> Outcome {
    let provider = peer::provider()?;
    let free = provider.available()?;
    for _ in 0..3 {
        let (mut victim, _said) = begin(BY_PEER.name)?;
        check(provider.available()? == free - LEN, "it has none of the memory")?;
        victim.kill()?;
        check(victim.wait()?.signal() == Some(libc::SIGKILL), "it was not killed")?;
        // The drive still writes into some of it.
        let start = Instant::now();
        while provider.available()? != free {
            check(start.elapsed() < AT_ONCE, "not all of the memory has come back")?;
            thread::sleep(Duration::from_millis(10));
        }
        println!("its memory came back in {:?}", start.elapsed());
        works()?;
    }
    Ok(())
}

/// Unbinds the provider's driver, which waits for nobody, and has it take the function again.
fn unbind_provider() -> Outcome {
    let provider = peer::address("provider")?;
    let unbinder = thread::spawn(move || by_hand::unbind(provider));
    let start = Instant::now();
    while !unbinder.is_finished() {
        check(start.elapsed() < AT_ONCE, "the unbinding waits for who holds the memory")?;
        thread::sleep(Duration::from_millis(10));
    }
    let driver = unbinder.join().map_err(|_| "the thread panicked")??;
    check(driver.as_deref() == Some("nvme"), "the kernel did not take it again")
}

/// Nobody is waited for who holds the memory: the kernel takes it away, and touching it is deadly.
/// The driver that comes back does not bring it back.
fn revoked() -> Outcome {
    let (mut victim, mut said) = begin("hold")?;
    unbind_provider()?;
    drop(victim.stdin.take());
    let mut words = String::new();
    said.read_to_string(&mut words)?;
    let signal = victim.wait()?.signal();
    println!("{words}, and then signal {signal:?}");
    check(words == "it is there: false\n", &words)?;
    check(signal == Some(libc::SIGBUS), format!("{signal:?}"))?;
    works()
}

/// A load ends with an error and touches what it has lost no more, whatever path it may take.
fn provider_unbound() -> Outcome {
    let provider = peer::address("provider")?.to_string();
    for Loading { name, .. } in LOADINGS.iter().filter(|loading| loading.provider == "provider") {
        let (mut victim, mut said) = begin(name)?;
        unbind_provider()?;
        drop(victim.stdin.take());
        let since = Instant::now();
        let mut words = String::new();
        said.read_to_string(&mut words)?;
        let (status, took) = (victim.wait()?, since.elapsed());
        println!("{name}: {status}: {words}, after {took:?}");
        check(took < AT_ONCE, format!("{name}: {took:?}"))?;
        check(status.code() == Some(1), format!("{name}: {status}"))?;
        let lost = format!("the memory of {provider} was lost while it was loaded into");
        let none = "no byte of the buffer is valid";
        check(words.starts_with(&lost) && words.contains(none), format!("{name}: {words}"))?;
        works()?;
    }
    Ok(())
}

/// A load ends with an error, and in time, when its drive is taken away in the middle.
fn without_its_drive(
    drive: &Drive,
    at: u64,
    within: Duration,
    take_away: impl FnOnce(Address) -> Outcome,
) -> Outcome {
    let (address, memory) = (drive.address()?, peer::memory(LEN as usize)?);
    let (mut take_away, mut taken) = (Some(take_away), None);
    let loaded = try_load(drive, &memory, LEN, (None, Verify::Full), &mut |progress| {
        if progress.done >= at
            && let Some(take_away) = take_away.take()
        {
            taken = Some((Instant::now(), take_away(address)));
        }
    })?;
    let (since, done) = taken.ok_or("it ended before")?;
    let took = since.elapsed();
    done?;
    let error = loaded.err().ok_or("it succeeded")?;
    println!("{error}, after {took:?}");
    check(took < within, format!("{took:?}"))?;
    let TransferError::Read { path, source, valid, .. } = &error else {
        return Err(error.to_string().into());
    };
    check(*path == drive.block, path.display())?;
    // A drive that is gone answers a read with ENODEV or EIO, and the opening past the page cache of a file on it,
    // when the load tries the next path, with ENXIO.
    check(matches!(source.raw_os_error(), Some(libc::ENODEV | libc::EIO | libc::ENXIO)), source)?;
    match at {
        // All had arrived, and could not be compared.
        LEN => {
            check(valid.bytes() == LEN && valid.wanted() == LEN, valid)?;
            holds(&memory.map(), 0..LEN)
        }
        _ => is_true(valid, &memory.map()),
    }
}

/// What has arrived is valid, though the file can be read no second time to be compared.
fn unbound_in_the_check() -> Outcome {
    let drive = Drive::with_serial(SLOW)?;
    without_its_drive(&drive, LEN, AT_ONCE, |address| {
        let unbind = format!("/sys/bus/pci/devices/{address}/driver/unbind");
        Ok(fs::write(unbind, address.to_string())?)
    })?;
    // Nobody has the file open any more, so that the drive gets its name back.
    Drive::returned(SLOW)?;
    works()
}

fn unplugged() -> Outcome {
    let (drive, mut monitor) = (Drive::with_serial(SLOW)?, Monitor::open()?);
    without_its_drive(&drive, SOON, AT_ONCE, |_| monitor.ask_for("victim"))?;
    let start = Instant::now();
    while drive.block.exists() {
        check(start.elapsed() < Duration::from_secs(10), "the drive is still there")?;
        thread::sleep(Duration::from_millis(20));
    }
    Ok(())
}

/// Nobody is told that the drive is gone. The kernel finds out by a read that does not end: it tries to
/// abort it, waits as long again, and gives the drive up.
fn cut_off() -> Outcome {
    const LIMIT: Duration = Duration::from_secs(1);
    let drive = Drive::with_serial("pulled")?;
    let name = drive.block.file_name().ok_or("a device without a name")?.to_string_lossy();
    let limit = format!("/sys/block/{name}/queue/io_timeout");
    fs::write(limit, LIMIT.as_millis().to_string())?;
    // Its timer ticks by the second.
    without_its_drive(&drive, SOON, 4 * LIMIT + AT_ONCE, slot::cut_off)?;
    slot::forget(drive.address()?)?;
    works()
}

/// The drive is told nothing and goes on writing to where nobody is, and the kernel believes that the
/// provider is there. The load does not believe it.
fn provider_pulled() -> Outcome {
    let lost = peer::address("lost")?;
    let (mut victim, mut said) = begin(LOST.name)?;
    slot::power_off(lost)?;
    let since = Instant::now();
    let mut words = String::new();
    said.read_to_string(&mut words)?;
    let (status, took) = (victim.wait()?, since.elapsed());
    println!("{status}: {words}, after {took:?}");
    slot::forget(lost)?;
    // It is noticed when all has been read.
    check(took < 2 * AT_ONCE, format!("{took:?}"))?;
    check(status.code() == Some(1), status)?;
    let lost_words = format!("the memory of {lost} was lost while it was loaded into");
    check(words.contains(&lost_words), &words)?;
    works()
}
