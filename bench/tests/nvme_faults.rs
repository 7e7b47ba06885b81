//! Whole loads by the driver in user space, while what they stand on gives way: each ends soon, with
//! an error that names device and cause, and the bytes that it calls valid are the drive's.

use std::collections::BTreeMap;
use std::fs;
use std::io::{self, Read};
use std::os::unix::fs::FileExt;
use std::os::unix::process::ExitStatusExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitCode, Stdio};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use bufmap::format::Format;
use bufmap::format::{ExtentMap, MappedFile, MappedItem};
use bufmap::load::Load;
use bufmap::pci::{Address, Tree, driver};
use bufmap::storage::nvme::{Controller, DriveFile, Extent};
use bufmap::transfer::{
    Around, DataPath, Options, Progress, Receipt, Request, TransferError, Verify,
};
use bufmap_bench::card::is_card;
use bufmap_bench::cut_short::{LEN, SOON, holds, is_true};
use bufmap_bench::drive::{Drive, pattern};
use bufmap_bench::leaks::Holdings;
use bufmap_bench::monitor::Monitor;
use bufmap_bench::{Outcome, by_hand, check, said, slot};
use exporters::Destination;
use exporters::vfio::{Container, Device, Region};
use libtest_mimic::Failed;

/// No load takes longer to end, once something has happened to it, than what is in flight takes.
const AT_ONCE: Duration = Duration::from_secs(3);

/// The variable that makes this program the victim of a test, and names its drive.
const VICTIM: &str = "BUFMAP_VICTIM";

fn main() -> ExitCode {
    if let Ok(address) = std::env::var(VICTIM) {
        return match victim(&address) {
            Ok(()) => ExitCode::SUCCESS,
            Err(error) => {
                eprintln!("{error:?}");
                ExitCode::FAILURE
            }
        };
    }
    bufmap_bench::run(
        "vfio",
        &[
            ("a_load_is_stopped_by_its_flag", stopped),
            ("a_drive_that_the_kernel_asks_for_in_mid_load_is_given_back", recalled),
            ("a_drive_that_somebody_resets_ends_the_load", reset),
            ("a_controller_that_does_not_answer_ends_the_load", silent),
            ("without_bus_mastering_a_load_is_an_error_and_no_hang", unmastered),
            ("a_card_that_the_kernel_asks_for_is_filled_first", card_recalled),
            ("a_process_that_is_killed_in_mid_load_leaves_the_next_one_its_devices", killed),
            ("the_tool_is_interrupted_killed_and_loads_again", by_the_tool),
            ("a_card_whose_memory_is_switched_off_ends_the_load", card_switched_off),
            ("a_card_whose_memory_is_off_is_not_loaded_into", card_is_off),
            ("a_card_that_was_away_is_proved_again", card_came_back),
            ("devices_are_bound_loaded_from_and_unbound_again_and_again", bind_cycles),
            // What these do cannot be undone.
            ("a_drive_that_is_unplugged_is_let_go_of", unplugged),
            ("a_drive_that_is_pulled_out_ends_the_load", pulled),
            ("a_card_that_is_pulled_out_ends_the_load", card_pulled),
        ],
    )
}

/// The cards with memory: the larger one, and the one to be lost.
fn cards() -> Result<[Address; 2], Failed> {
    let tree = Tree::read()?;
    let cards = tree.functions().filter(|function| is_card(function));
    let cards: Vec<_> = cards.map(|card| card.address).collect();
    cards.try_into().map_err(|cards| format!("not two ivshmem devices: {cards:?}").into())
}

/// The address of the drive with this serial number, which only the kernel's driver tells.
fn drive(serial: &'static str) -> Result<Address, Failed> {
    static KNOWN: Mutex<BTreeMap<&str, Address>> = Mutex::new(BTreeMap::new());
    let mut known = KNOWN.lock().unwrap_or_else(PoisonError::into_inner);
    match known.get(serial) {
        Some(&address) => Ok(address),
        None => {
            let address = Drive::returned(serial)?.address()?;
            known.insert(serial, address);
            Ok(address)
        }
    }
}

/// A file that is the first bytes of a drive, and a card to load it into.
struct Ours {
    card: Device,
    file: DriveFile,
}

impl Ours {
    fn open(serial: &'static str) -> Result<Self, Failed> {
        Self::open_at(drive(serial)?, cards()?[0])
    }

    fn open_at(drive: Address, card: Address) -> Result<Self, Failed> {
        let container = Arc::new(Container::new()?);
        let open = |address: Address| -> Result<Device, Failed> {
            driver::bind(address, "vfio-pci")?;
            Ok(container.open(&address.to_string())?)
        };
        let card = open(card)?;
        let controller = Controller::open(open(drive)?, 1)?;
        let namespace = controller.namespaces()?.remove(0);
        let extents = vec![Extent { file_offset: 0, offset: 0, len: LEN }];
        let file = DriveFile::new(&controller, namespace, "the first bytes", extents)?;
        Ok(Self { card, file })
    }

    fn drive(&self) -> Result<Address, Failed> {
        Ok(self.file.controller().address().parse()?)
    }

    /// The card's memory for the file, with nothing in it.
    fn vram(&self) -> Result<Region, Failed> {
        self.vram_of(LEN)
    }

    fn vram_of(&self, len: u64) -> Result<Region, Failed> {
        let vram = self.card.map_part(2, 0..len)?;
        vram.map().fill(0xEE)?;
        Ok(vram)
    }

    fn load(
        &self,
        destination: &dyn Destination,
        len: u64,
        options: Options,
        stop: &AtomicBool,
        progress: &mut dyn FnMut(Progress),
    ) -> Result<Receipt, TransferError> {
        Load {
            files: std::slice::from_ref(&self.file),
            requests: &[Request::new(0, 0, len, 0)],
            around: Around::Untouched,
            destination,
            options,
            stop,
        }
        .run(progress)
    }

    /// Fills the card's memory from the file; in the middle of it, something happens once. Returns how
    /// long the load took from then on.
    fn load_while(
        &self,
        vram: &Region,
        options: Options,
        happens: impl FnOnce() -> Outcome,
    ) -> Result<(Result<Receipt, TransferError>, Duration), Failed> {
        self.load_until(SOON, vram, options, happens)
    }

    /// The same, when so much has landed. When all has, the rest of `Verify::Full` is to compare.
    fn load_until(
        &self,
        landed: u64,
        vram: &Region,
        options: Options,
        happens: impl FnOnce() -> Outcome,
    ) -> Result<(Result<Receipt, TransferError>, Duration), Failed> {
        let mut happens = Some(happens);
        let mut since = (Instant::now(), Ok(()));
        let (stop, len) = (AtomicBool::new(false), vram.map().len() as u64);
        let loaded = self.load(vram, len, options, &stop, &mut |progress| {
            if progress.done >= landed
                && let Some(happens) = happens.take()
            {
                since = (Instant::now(), happens());
            }
        });
        let took = since.0.elapsed();
        since.1?;
        check(happens.is_none(), format!("nothing happened before the end: {loaded:?}"))?;
        Ok((loaded, took))
    }

    /// A whole load, as if nothing had ever happened.
    fn works(&self) -> Outcome {
        const SOME: u64 = 1 << 20;
        let vram = self.vram_of(SOME)?;
        let stop = AtomicBool::new(false);
        let options = with(Some(DataPath::Peer));
        let receipt = self.load(&vram, SOME, options, &stop, &mut |_| ())?;
        check(receipt.bytes == SOME && receipt.cpu_copied == 0, format!("{receipt:?}"))?;
        holds(&vram.map(), 0..SOME)
    }
}

/// Few and short reads, so that little is in flight.
fn with(require: Option<DataPath>) -> Options {
    Options { require, depth: 4, block: 256 << 10, ..Options::default() }
}

/// The error of a load that was cut short, whose words name the device and one of the causes, and
/// whose account of the buffer is true.
fn cut_short(
    loaded: Result<Receipt, TransferError>,
    vram: &Region,
    device: Address,
    causes: &[&str],
) -> Outcome {
    let error = loaded.err().ok_or("it succeeded")?;
    let words = error.to_string();
    println!("{words}");
    check(words.contains(&device.to_string()), format!("{device} is not named: {words}"))?;
    check(causes.iter().any(|cause| words.contains(cause)), format!("{causes:?}: {words}"))?;
    let TransferError::Read { path, valid, .. } = &error else { return Err(words.into()) };
    check(path == Path::new("the first bytes"), path.display())?;
    if valid.bytes() < LEN {
        return is_true(valid, &vram.map());
    }
    // All had landed, and could not be compared.
    check(words.contains("at offset 0 failed"), &words)?;
    holds(&vram.map(), 0..LEN)
}

/// How a load is checked that something happens to, and when it happens.
const CHECKS: [(Verify, u64); 3] =
    [(Verify::Hash, SOON), (Verify::Full, SOON), (Verify::Full, LEN)];

/// Every byte is compared, once all have landed.
fn checked(require: Option<DataPath>) -> Options {
    Options { verify: Verify::Full, ..with(require) }
}

fn stopped() -> Outcome {
    let ours = Ours::open("slow")?;
    let vram = ours.vram()?;
    let (stop, mut since) = (AtomicBool::new(false), Instant::now());
    let loaded = ours.load(&vram, LEN, with(None), &stop, &mut |progress| {
        if progress.done >= SOON && !stop.swap(true, Ordering::Relaxed) {
            since = Instant::now();
        }
    });
    check(since.elapsed() < AT_ONCE, format!("{:?}", since.elapsed()))?;
    let Err(TransferError::Stopped { valid }) = &loaded else {
        return Err(format!("{loaded:?}").into());
    };
    is_true(valid, &vram.map())?;
    // The drive is as good as before.
    drop(vram);
    ours.works()
}

/// Gives a device back to the kernel, on a thread, because that waits until this process lets go.
fn unbind(device: Address) -> JoinHandle<Result<Option<String>, Failed>> {
    thread::spawn(move || by_hand::unbind(device))
}

/// Waits for a thread that waited for this process to let go of a device.
fn joined<T>(waiting: Option<JoinHandle<Result<T, Failed>>>) -> Result<T, Failed> {
    let waiting = waiting.ok_or("nobody asked for it")?;
    let start = Instant::now();
    while !waiting.is_finished() {
        check(start.elapsed() < Duration::from_secs(10), "it is let go of, and waited for")?;
        thread::sleep(Duration::from_millis(10));
    }
    waiting.join().map_err(|_| "the thread panicked")?
}

/// What is said of a drive that the kernel wants back.
const ASKED_BACK: [&str; 2] =
    ["the kernel asks for it back", "the kernel asked for the device back"];

fn recalled() -> Outcome {
    for (require, (verify, landed)) in [Some(DataPath::Peer), None, None].into_iter().zip(CHECKS) {
        let ours = Ours::open("slow")?;
        let (drive, vram) = (ours.drive()?, ours.vram()?);
        let mut unbinder = None;
        let options = Options { verify, ..with(require) };
        let (loaded, took) = ours.load_until(landed, &vram, options, || {
            unbinder = Some(unbind(drive));
            Ok(())
        })?;
        check(took < AT_ONCE, format!("{took:?}"))?;
        cut_short(loaded, &vram, drive, &ASKED_BACK)?;
        check(unbinder.as_ref().is_some_and(|u| !u.is_finished()), "it was taken away")?;
        drop((vram, ours));
        check(joined(unbinder)?.as_deref() == Some("nvme"), "the kernel did not take it")?;
        kernel_reads("slow")?;
    }
    Ok(())
}

/// The kernel has the drive, and what it reads is right.
fn kernel_reads(serial: &str) -> Outcome {
    let mut bytes = vec![0; 1 << 20];
    fs::File::open(Drive::returned(serial)?.block)?.read_exact(&mut bytes)?;
    check(bytes == pattern(bytes.len()), "the kernel reads other bytes")
}

fn unplugged() -> Outcome {
    let ours = Ours::open("victim")?;
    let (drive, vram) = (ours.drive()?, ours.vram()?);
    let mut monitor = Monitor::open()?;
    let (loaded, took) = ours.load_while(&vram, checked(None), || monitor.ask_for("victim"))?;
    check(took < AT_ONCE, format!("{took:?}"))?;
    cut_short(loaded, &vram, drive, &ASKED_BACK)?;
    let is_there = || -> Result<bool, Failed> {
        Ok(Tree::read()?.functions().any(|function| function.address == drive))
    };
    check(is_there()?, "it was taken away")?;
    drop((vram, ours));
    let start = Instant::now();
    while is_there()? {
        check(start.elapsed() < Duration::from_secs(10), "it is let go of, and waited for")?;
        thread::sleep(Duration::from_millis(20));
    }
    Ok(())
}

/// Somebody resets the drive: it is there, and knows nothing any more of what it was asked for.
fn reset() -> Outcome {
    for (verify, landed) in CHECKS {
        let ours = Ours::open("slow")?;
        let (drive, vram) = (ours.drive()?, ours.vram()?);
        let options = Options { verify, ..with(None) };
        let (loaded, took) = ours.load_until(landed, &vram, options, || {
            Ok(fs::write(format!("/sys/bus/pci/devices/{drive}/reset"), "1")?)
        })?;
        check(took < AT_ONCE, format!("{took:?}"))?;
        cut_short(loaded, &vram, drive, &["it was reset"])?;
        drop((vram, ours));
        Ours::open("slow")?.works()?;
    }
    Ok(())
}

/// A drive of 4 MiB a second has all of the file to read at once, and half a second for each read.
fn silent() -> Outcome {
    let ours = Ours::open("slow")?;
    let (drive, vram) = (ours.drive()?, ours.vram()?);
    let limit = Duration::from_millis(500);
    let options = Options { limit, block: 512 << 10, ..Options::default() };
    let (loaded, took) = ours.load_while(&vram, options, || Ok(()))?;
    check(took < limit + AT_ONCE, format!("{took:?}"))?;
    cut_short(loaded, &vram, drive, &["did not end within 500ms"])?;
    drop((vram, ours));
    Ours::open("slow")?.works()
}

fn unmastered() -> Outcome {
    let causes = ["bus mastering is on", "it reported a fatal error"];
    let ours = Ours::open("slow")?;
    let (drive, vram) = (ours.drive()?, ours.vram()?);
    let device = ours.file.controller().device();
    let (loaded, took) =
        ours.load_while(&vram, with(None), || Ok(device.set_bus_master(false)?))?;
    check(took < AT_ONCE, format!("{took:?}"))?;
    cut_short(loaded, &vram, drive, &causes)?;
    drop((vram, ours));

    // From the start.
    let ours = Ours::open("slow")?;
    let vram = ours.vram_of(SOON)?;
    ours.file.controller().device().set_bus_master(false)?;
    let (start, stop) = (Instant::now(), AtomicBool::new(false));
    let loaded = ours.load(&vram, SOON, with(None), &stop, &mut |_| ());
    check(start.elapsed() < AT_ONCE, format!("{:?}", start.elapsed()))?;
    let words = loaded.err().ok_or("it succeeded")?.to_string();
    println!("{words}");
    check(words.contains(&drive.to_string()) && words.contains(causes[0]), &words)?;
    drop((vram, ours));
    Ours::open("slow")?.works()
}

/// The kernel waits for the card until the load has filled it and the buffer is dropped.
fn card_recalled() -> Outcome {
    let ours = Ours::open("slow")?;
    let vram = ours.vram_of(2 * SOON)?;
    let card = ours.card.address().parse()?;
    let mut unbinder = None;
    let (loaded, _) = ours.load_while(&vram, with(Some(DataPath::Peer)), || {
        unbinder = Some(unbind(card));
        Ok(())
    })?;
    let receipt = loaded?;
    check(receipt.bytes == 2 * SOON && receipt.cpu_copied == 0, format!("{receipt:?}"))?;
    holds(&vram.map(), 0..2 * SOON)?;
    check(unbinder.as_ref().is_some_and(|u| !u.is_finished()), "it was taken away")?;
    drop((vram, ours));
    check(joined(unbinder)?.is_none(), "a driver has it")?;
    Ours::open("slow")?.works()
}

fn pulled() -> Outcome {
    let ours = Ours::open("pulled")?;
    let (drive, vram) = (ours.drive()?, ours.vram()?);
    let (loaded, took) = ours.load_while(&vram, checked(None), || slot::pull(drive))?;
    check(took < AT_ONCE, format!("{took:?}"))?;
    cut_short(loaded, &vram, drive, &["unplugged"])?;
    drop((vram, ours));
    slot::forget(drive)?;
    Ours::open("slow")?.works()
}

/// The error of a load whose buffer went away with its card: not one byte is valid.
fn is_lost(loaded: Result<Receipt, TransferError>, card: Address) -> Outcome {
    let error = loaded.err().ok_or("it succeeded")?;
    let words = error.to_string();
    println!("{words}");
    let TransferError::BufferLost { device } = &error else { return Err(words.into()) };
    check(*device == card.to_string() && words.contains("no byte of the buffer is valid"), words)
}

/// Who switches the memory of a card off.
#[derive(Clone, Copy, Debug)]
enum Switch {
    /// Whoever has the card by VFIO. The kernel takes its memory out of every mapping.
    OfTheUser,
    /// Somebody else, whom the kernel does not watch. The CPU reads ones then.
    OfTheMachine,
}

impl Switch {
    /// Sets the bit that has the card answer to accesses of its memory, or clears it.
    fn turn(self, card: &Device, on: bool) -> Outcome {
        /// The command register and its bit (PCI Local Bus Specification 3.0, 6.2.2).
        const COMMAND: u64 = 4;
        const MEMORY_SPACE: u8 = 1 << 1;
        /// Where a device's file has its configuration space: the kernel numbers regions in the
        /// upper bits (VFIO_PCI_OFFSET_SHIFT).
        const CONFIGURATION: u64 = 7 << 40;

        let mut command = [0; 2];
        card.read_config(COMMAND, &mut command)?;
        command[0] = if on { command[0] | MEMORY_SPACE } else { command[0] & !MEMORY_SPACE };
        match self {
            Self::OfTheUser => {
                let written = rustix::io::pwrite(card, &command, CONFIGURATION + COMMAND)?;
                check(written == 2, "the register was not written")
            }
            Self::OfTheMachine => {
                let config = format!("/sys/bus/pci/devices/{}/config", card.address());
                let config = fs::OpenOptions::new().write(true).open(config)?;
                Ok(config.write_all_at(&command, COMMAND)?)
            }
        }
    }
}

/// Whenever the memory of a card is switched off, by whomever, nobody dies of it, and nothing that
/// arrived nowhere is taken for loaded.
fn card_switched_off() -> Outcome {
    let ours = Ours::open("slow")?;
    let card = ours.card.address().parse()?;
    let mut before = None;
    for switch in [Switch::OfTheUser, Switch::OfTheMachine, Switch::OfTheUser] {
        for path in [Some(DataPath::Peer), None, Some(DataPath::Bounce)] {
            for (verify, landed) in [(Verify::None, SOON)].into_iter().chain(CHECKS) {
                // The second half of the shorter load is enough to be noticed by.
                let vram = ours.vram_of(2 * SOON)?;
                let (options, landed) = (with(path), landed.min(2 * SOON));
                let options = Options { verify, ..options };
                let (loaded, took) =
                    ours.load_until(landed, &vram, options, || switch.turn(&ours.card, false))?;
                println!("{switch:?}, {path:?}, {verify:?}, at {landed}, after {took:?}:");
                is_lost(loaded, card)?;
                check(took < AT_ONCE, format!("{took:?}"))?;
                switch.turn(&ours.card, true)?;
            }
        }
        ours.works()?;
        let held = before.replace(Holdings::now()?);
        check(held.is_none() || held == before, format!("{held:?}, then {before:?}"))?;
    }
    Ok(())
}

/// A load into memory that is off from the beginning proves nothing and writes nothing.
fn card_is_off() -> Outcome {
    let ours = Ours::open("slow")?;
    let card = ours.card.address().parse()?;
    for switch in [Switch::OfTheUser, Switch::OfTheMachine] {
        for path in [Some(DataPath::Peer), None, Some(DataPath::Bounce)] {
            forget_proofs()?;
            let (vram, stop) = (ours.vram_of(SOON)?, AtomicBool::new(false));
            switch.turn(&ours.card, false)?;
            let loaded = ours.load(&vram, SOON, with(path), &stop, &mut |_| ());
            switch.turn(&ours.card, true)?;
            println!("{switch:?}, {path:?}:");
            is_lost(loaded, card)?;
            // Nothing was held against the pair of devices.
            ours.works()?;
        }
    }
    Ok(())
}

/// Has the next load prove its path anew.
fn forget_proofs() -> Outcome {
    let places = ["XDG_RUNTIME_DIR", "XDG_CACHE_HOME"].map(std::env::var_os);
    let home = std::env::var_os("HOME").map(|home| Path::new(&home).join(".cache"));
    for place in places.into_iter().flatten().map(PathBuf::from).chain(home) {
        match fs::remove_file(place.join("bufmap/peer-paths.json")) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error.into()),
            _ => {}
        }
    }
    Ok(())
}

/// What a drive writes to where a card was arrives nowhere, and the drive does not know.
fn card_pulled() -> Outcome {
    let [card, lost] = cards()?;
    let drive = drive("slow")?;
    let ours = Ours::open_at(drive, lost)?;
    let vram = ours.vram_of(2 * SOON)?;
    let (loaded, _) = ours.load_while(&vram, checked(Some(DataPath::Peer)), || slot::pull(lost))?;
    is_lost(loaded, lost)?;
    drop((vram, ours));
    slot::forget(lost)?;
    Ours::open_at(drive, card)?.works()
}

/// A process that loads until it is killed.
fn victim(address: &str) -> Outcome {
    let ours = Ours::open_at(address.parse()?, cards()?[0])?;
    loop {
        let vram = ours.vram()?;
        let (loaded, _) = ours.load_while(&vram, with(Some(DataPath::Peer)), || {
            println!("loading");
            Ok(())
        })?;
        loaded?;
    }
}

fn killed() -> Outcome {
    let drive = drive("slow")?;
    for _ in 0..2 {
        let mut victim = Command::new(std::env::current_exe()?)
            .env(VICTIM, drive.to_string())
            .stdout(Stdio::piped())
            .spawn()?;
        let mut line = [0; 7];
        victim.stdout.take().ok_or("no pipe")?.read_exact(&mut line)?;
        check(&line == b"loading", "it says something else")?;
        victim.kill()?;
        check(victim.wait()?.signal() == Some(libc::SIGKILL), "it was not killed")?;
        Ours::open_at(drive, cards()?[0])?.works()?;
    }
    check(driver::release(drive)?.as_deref() == Some("nvme"), "the kernel did not take it")?;
    kernel_reads("slow")
}

/// Waits until the tool is in the middle of its load: it has its threads then.
fn in_mid_load(tool: &mut Child) -> Outcome {
    let tasks = format!("/proc/{}/task", tool.id());
    let start = Instant::now();
    // The main thread, the one that waits for Ctrl-C, and the engine.
    while fs::read_dir(&tasks)?.count() < 3 {
        check(start.elapsed() < Duration::from_secs(10), "it does not begin")?;
        check(tool.try_wait()?.is_none(), "it has ended")?;
        thread::sleep(Duration::from_millis(5));
    }
    thread::sleep(Duration::from_millis(500));
    check(tool.try_wait()?.is_none(), "it has ended")
}

fn by_the_tool() -> Outcome {
    let tool = std::env::var("BUFMAP_TOOL")?;
    let address = drive("slow")?.to_string();
    let card = cards()?[0].to_string();
    let len = LEN / 2;
    let item = MappedItem::new("all", 0, len);
    let extents = vec![Extent { file_offset: 0, offset: 0, len }];
    let file = MappedFile {
        path: "all".into(),
        format: Format::Raw,
        note: None,
        extents,
        items: vec![item],
    };
    let drive = bufmap::format::Drive { address, serial: "slow".into(), namespace: 1 };
    let path = "/tmp/slow.extents.json";
    ExtentMap { drive: drive.clone(), files: vec![file], left_out: Vec::new() }
        .write(Path::new(path))?;
    said(&tool, &["bind", &drive.address, &card])?;
    let to = format!("vfio:{card}");
    let load = ["load", path, "--to", &to, "--require", "peer", "--depth", "4"];
    let begin = || Command::new(&tool).args(load).stderr(Stdio::piped()).spawn();

    let mut interrupted = begin()?;
    in_mid_load(&mut interrupted)?;
    said("sh", &["-c", &format!("kill -INT {}", interrupted.id())])?;
    let output = interrupted.wait_with_output()?;
    let words = String::from_utf8_lossy(&output.stderr);
    println!("{words}");
    check(output.status.code() == Some(130) && words.contains("bytes are valid"), &words)?;

    let mut killed = begin()?;
    in_mid_load(&mut killed)?;
    killed.kill()?;
    check(killed.wait()?.signal() == Some(libc::SIGKILL), "it was not killed")?;

    let mut reset = begin()?;
    in_mid_load(&mut reset)?;
    fs::write(format!("/sys/bus/pci/devices/{}/reset", drive.address), "1")?;
    let output = reset.wait_with_output()?;
    let words = String::from_utf8_lossy(&output.stderr);
    println!("{words}");
    check(output.status.code() == Some(1), output.status)?;
    check(words.contains(&drive.address) && words.contains("was reset"), &words)?;

    let report = said(&tool, &load)?;
    check(report.contains("0 B by the CPU"), &report)?;
    said(&tool, &["unbind", &drive.address, &card])?;
    kernel_reads("slow")
}

/// What was found out about a card is no more believed of what comes after it to the same place.
fn card_came_back() -> Outcome {
    let (drive, card) = (drive("reader")?, cards()?[0]);
    let moved_for_proof = || -> Result<u64, Failed> {
        let ours = Ours::open_at(drive, card)?;
        let (vram, stop) = (ours.vram_of(64 << 10)?, AtomicBool::new(false));
        let options = with(Some(DataPath::Peer));
        let receipt = ours.load(&vram, 64 << 10, options, &stop, &mut |_| ())?;
        check(receipt.proofs.len() == 1 && receipt.proofs[0].arrives, format!("{receipt:?}"))?;
        Ok(receipt.proofs[0].bytes)
    };
    moved_for_proof()?;
    check(moved_for_proof()? == 0, "a proof is not kept")?;
    slot::forget(card)?;
    slot::look_again()?;
    check(moved_for_proof()? > 0, "what was known of the card before is believed")
}

fn bind_cycles() -> Outcome {
    const CYCLES: u32 = 20;
    let (drive, card) = (drive("reader")?, cards()?[0]);
    let start = Instant::now();
    let mut before = None;
    for cycle in 0..CYCLES {
        Ours::open_at(drive, card)?.works()?;
        check(driver::release(card)?.is_none(), "a driver has the card")?;
        check(driver::release(drive)?.as_deref() == Some("nvme"), "the kernel did not take it")?;
        if cycle == 3 {
            before = Some(Holdings::now()?);
        }
    }
    println!("{CYCLES} times in {:?}", start.elapsed());
    let after = Holdings::now()?;
    check(before == Some(after), format!("{before:?}, then {after:?}"))?;
    kernel_reads("reader")
}
