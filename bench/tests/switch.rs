//! Two drives under one PCIe switch: the kernel maps bus addresses.

mod peer;

use std::os::unix::process::CommandExt;
use std::process::{Command, ExitCode};

use bufmap::pci::{Outcome as Kernel, Place, PortType, Reason, SystemRam, Tree, classify};
use bufmap_bench::drive::Drive;
use bufmap_bench::peer::{PeerMemory, frames, published};
use bufmap_bench::{Outcome, check};
use iomap::{BufMap, Memory, PageSize, Phyr, PhyrKind, PhyrList, PhysAddr};
use libtest_mimic::Failed;

fn main() -> ExitCode {
    if std::env::var_os(ANYBODY).is_some() {
        return what_anybody_is_told();
    }
    bufmap_bench::run(
        "switch",
        &[
            ("a_read_into_peer_memory_arrives", peer::arrives),
            ("peer_memory_is_published", || {
                let size = published(&Drive::with_serial("provider")?)?;
                check(size == 64 << 20, format!("{size} bytes"))
            }),
            ("frames_of_peer_memory_are_those_of_a_bar", frames_are_a_bars),
            ("the_verdict_is_the_switch", verdict_is_the_switch),
            ("the_tree_is_the_machines", tree_is_the_machines),
            ("memory_is_classified_as_what_it_is", memory_is_classified),
            ("an_ordinary_user_is_told_what_is_not_known", user_is_told),
        ],
    )
}

fn frames_are_a_bars() -> Outcome {
    let provider = Drive::with_serial("provider")?;
    let memory = PeerMemory::of(&provider, peer::LEN)?;
    memory.map().fill(0)?; // A page has a frame once it was touched.
    let bars = provider.bars()?;
    for frame in frames(&memory.map())? {
        let address = frame * 4096;
        let inside = bars.iter().any(|&(start, end)| (start..=end).contains(&address));
        check(frame != 0 && inside, format!("{address:#x} is in none of {bars:x?}"))?;
    }
    Ok(())
}

fn verdict_is_the_switch() -> Outcome {
    let verdict = peer::verdict(Kernel::BusAddress, 4)?;
    let Reason::CommonBridge(bridge) = verdict.reason else {
        return Err(verdict.to_string().into());
    };
    let tree = Tree::read()?;
    let port = tree.function(bridge)?.port();
    check(port == Some(PortType::Upstream), format!("they meet at {port:?}"))?;
    peer::arrives()
}

/// From the drive up: a downstream port, an upstream port, a root port; and what hangs at the drive.
fn tree_is_the_machines() -> Outcome {
    let tree = Tree::read()?;
    let provider = peer::address("provider")?;
    let ports: Vec<_> = tree.path_up(provider).filter_map(|function| function.port()).collect();
    let up = [PortType::Endpoint, PortType::Downstream, PortType::Upstream, PortType::RootPort];
    check(ports == up, format!("{ports:?}"))?;

    let function = tree.function(provider)?;
    check(function.driver.as_deref() == Some("nvme"), format!("{:?}", function.driver))?;
    let memory = function.peer_memory.ok_or("no peer memory")?;
    check(memory.size == 64 << 20 && memory.published, format!("{memory:?}"))?;
    let disk = &function.block_devices[..];
    let whole = disk.len() == 1 && disk[0].len == 64 << 20 && disk[0].namespace == Some(1);
    check(whole, format!("{disk:?}"))?;
    let block = Drive::with_serial("provider")?.block;
    check(block.ends_with(&disk[0].name), block.display())
}

/// The pages of peer memory lie in a BAR of the provider, those of a memfd in RAM; and a list that
/// claims the latter to be a peer's is found out.
fn memory_is_classified() -> Outcome {
    let (tree, ram) = (Tree::read()?, SystemRam::read()?);
    let provider = Drive::with_serial("provider")?;
    let peers = PeerMemory::of(&provider, peer::LEN)?;
    let own = Memory::memfd("own", peer::LEN, PageSize::Base)?;
    let provider = peer::address("provider")?;
    for placed in classify(&list(&peers.map(), PhyrKind::Peer)?, &tree, &ram) {
        let in_bar = matches!(placed.place, Place::Bar(bar) if bar.function == provider);
        check(in_bar && placed.is_as_claimed(), placed)?;
    }
    for (claim, honest) in [(PhyrKind::System, true), (PhyrKind::Peer, false)] {
        for placed in classify(&list(&own.map(), claim)?, &tree, &ram) {
            check(placed.place == Place::SystemRam && placed.is_as_claimed() == honest, placed)?;
        }
    }
    Ok(())
}

/// Set for this program when it runs as an ordinary user.
const ANYBODY: &str = "BUFMAP_ANYBODY";

/// Without root the kernel shows 64 bytes of configuration space, and zeros in `/proc/iomem`: the
/// answer depends on the first, and neither is guessed.
fn user_is_told() -> Outcome {
    const NOBODY: u32 = 65534;
    let mut program = Command::new(std::env::current_exe()?);
    let output = program.env(ANYBODY, "1").uid(NOBODY).gid(NOBODY).output()?;
    let told = String::from_utf8_lossy(&output.stdout);
    let provider = peer::address("provider")?;
    check(told.contains("depends on the configuration space of"), &told)?;
    check(told.contains(&provider.to_string()), &told)?;
    check(told.contains("shows no address of system memory"), told)
}

fn what_anybody_is_told() -> ExitCode {
    match peer::verdict(Kernel::BusAddress, 4) {
        Ok(verdict) => println!("{verdict}"),
        Err(failed) => println!("{}", failed.message().unwrap_or_default()),
    }
    match SystemRam::read() {
        Ok(_) => println!("system memory is known"),
        Err(error) => println!("{error}"),
    }
    ExitCode::SUCCESS
}

/// The ranges behind a map, claimed to be of some kind.
fn list(map: &BufMap<'_>, claim: PhyrKind) -> Result<PhyrList, Failed> {
    map.fill(0)?;
    let ranges = frames(map)?;
    check(ranges.iter().all(|&frame| frame != 0), "a page without a frame")?;
    let ranges = ranges.iter().map(|frame| Phyr::new(claim, PhysAddr::new(frame * 4096), 4096));
    Ok(ranges.collect::<Result<_, _>>()?)
}
