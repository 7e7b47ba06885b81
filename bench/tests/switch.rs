//! Two drives under one PCIe switch: the kernel maps bus addresses.

mod peer;

use std::fs;
use std::os::unix::fs::OpenOptionsExt;
use std::os::unix::process::CommandExt;
use std::process::{Command, ExitCode};

use bufmap::dma::DmaKind;
use bufmap::pci::{
    NotFree, Outcome as Kernel, Place, PortType, Reason, SystemRam, Tree, User, classify, hold,
};
use bufmap::storage::file::SourceFile;
use bufmap::storage::stack::Stack;
use bufmap::transfer::DataPath;
use bufmap_bench::drive::Drive;
use bufmap_bench::{Outcome, check, said};
use exporters::{Exporter, Intent, P2pmem, P2pmemError, Provider};
use iomap::{Memory, PageSize, PhyrKind, Pinned, pagemap};
use libtest_mimic::Failed;

fn main() -> ExitCode {
    if std::env::var_os(ANYBODY).is_some() {
        return what_anybody_is_told();
    }
    bufmap_bench::run(
        "switch",
        &[
            ("a_read_into_peer_memory_arrives", peer::arrives),
            ("real_inputs_go_from_drive_to_device", peer::loads::real_inputs_arrive),
            ("a_loader_fills_peer_memory", || peer::loader::fills(DataPath::Peer, "")),
            ("a_check_reads_the_device_back", peer::loads::checks_read_the_device_back),
            ("peer_memory_is_saved_by_the_drive", peer::saves::arrive),
            ("a_save_in_place_harms_no_neighbour", peer::saves::in_place),
            ("a_file_is_saved_from_drive_to_device_to_drive", peer::saves::by_the_tool),
            ("the_default_looks_at_a_sample", default_looks_at_a_sample),
            ("peer_memory_is_given_out_and_comes_back", memory_comes_back),
            ("peer_memory_that_is_not_there_is_named", memory_is_missing),
            ("an_export_of_peer_memory_is_a_part_of_a_bar", export_is_a_part_of_a_bar),
            ("a_peer_is_mapped_by_its_bus_address", mapped_by_bus_address),
            ("a_read_that_fails_in_flight_falls_back", peer::loads::falls_back_in_flight),
            ("a_loader_learns_of_changes", peer::loader::learns_of_changes),
            ("a_loader_s_read_that_fails_falls_back", peer::loader::falls_back_in_flight),
            ("the_verdict_is_the_switch", verdict_is_the_switch),
            ("who_uses_a_drive_is_named", users_are_named),
            ("what_lies_between_file_and_drive_is_named", layers_are_named),
            ("the_tree_is_the_machines", tree_is_the_machines),
            ("memory_is_classified_as_what_it_is", memory_is_classified),
            ("an_ordinary_user_is_told_what_is_not_known", user_is_told),
        ],
    )
}

/// Another trial's load would be the process's first.
fn default_looks_at_a_sample() -> Outcome {
    let name = "switch::the_default_looks_at_a_sample";
    bufmap_bench::alone(name, peer::loads::default_looks_at_a_sample)
}

/// The length of the provider's memory.
const CMB: u64 = 128 << 20;

fn memory_comes_back() -> Outcome {
    let provider = peer::provider()?;
    check(provider.size() == CMB, provider.size())?;
    let before = provider.available()?;
    let memory = provider.allocate(peer::LEN + 1)?;
    check(memory.len() == peer::LEN + 4096, memory.len())?;
    memory.map().fill(0x77)?;
    let left = provider.available()?;
    check(left == before - memory.len() as u64, format!("{left} of {before} bytes are left"))?;
    drop(memory);
    check(provider.available()? == before, "not all of it has come back")
}

/// Too much, a function without any, no function: each by its name, with what would help.
fn memory_is_missing() -> Outcome {
    let provider = peer::provider()?;
    let error = provider.allocate(CMB as usize + 1);
    let Err(P2pmemError::TooLittle { available, size: CMB, .. }) = error else {
        return Err(format!("{error:?}").into());
    };
    check(available == provider.available()?, available)?;
    for (function, why) in [
        (peer::address("reader")?.to_string(), "its driver gives the kernel no memory for peers"),
        ("0000:7f:00.0".into(), "there is no such PCI function"),
    ] {
        let error = P2pmem::open(&function).err().ok_or("it is there")?.to_string();
        check(error.starts_with(&function) && error.contains(why), error)?;
    }
    Ok(())
}

/// All four facets of an export: the CPU's view, ranges that lie in a BAR of the provider, no
/// dma-buf with a reason, and who holds it.
fn export_is_a_part_of_a_bar() -> Outcome {
    let drive = Drive::with_serial("provider")?;
    let export = P2pmem::open(&peer::address("provider")?.to_string())?.export(peer::LEN)?;
    let access = export.cpu()?.begin(Intent::ReadWrite)?;
    access.map().write(8, 0x1234_5678_u32)?;
    check(access.map().read::<u32>(8)? == 0x1234_5678, "it does not keep what is written")?;
    access.finish()?;

    let phyrs = export.phyrs()?;
    check(phyrs.list().total() == peer::LEN as u64, format!("{:?}", phyrs.list()))?;
    let bars = drive.bars()?;
    for range in phyrs.list() {
        let (first, last) = (range.addr().get(), range.end().get() - 1);
        let inside = bars.iter().any(|&(start, end)| start <= first && last <= end);
        check(range.kind() == PhyrKind::Peer && inside, format!("{range} in none of {bars:x?}"))?;
    }

    let absent = export.dma_buf().err().ok_or("it is a dma-buf")?;
    check(absent.fix.contains("vfio-pci"), absent)?;
    let provider = Provider::PeerMemory { device: peer::address("provider")?.to_string() };
    check(*export.provider() == provider, export.provider())
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
    check(memory.size == CMB && memory.published, format!("{memory:?}"))?;
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
    let peers = peer::memory(peer::LEN)?;
    let own = Memory::memfd("own", peer::LEN, PageSize::Base)?;
    let provider = peer::address("provider")?;
    for placed in classify(&peers.phyrs()?, &tree, &ram) {
        let in_bar = matches!(placed.place, Place::Bar(bar) if bar.function == provider);
        check(in_bar && placed.is_as_claimed(), placed)?;
    }
    own.map().fill(0)?;
    let own = Pinned::new(own.map())?;
    // Who takes it for a peer's is told so, too.
    let claims = [(pagemap::phyrs(&own)?, true), (pagemap::peer_phyrs(own.map())?, false)];
    for (list, honest) in claims {
        for placed in classify(&list, &tree, &ram) {
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

fn mapped_by_bus_address() -> Outcome {
    peer::is_mapped_as(Some(DmaKind::Bus))
}

/// A drive is nobody's, or a file system's, or a program's, even if that is this one.
fn users_are_named() -> Outcome {
    let drive = Drive::with_serial("provider")?;
    let users = || -> Result<Vec<String>, Failed> {
        match hold(&[peer::address("provider")?]) {
            Ok(_) => Ok(Vec::new()),
            Err(NotFree::InUse { users, .. }) => Ok(users.iter().map(User::to_string).collect()),
            Err(error) => Err(error.into()),
        }
    };
    let block = drive.block.display().to_string();
    let name = block.trim_start_matches("/dev/").to_owned();
    check(users()?.is_empty(), format!("{:?}", users()?))?;

    said("mke2fs", &["-q", "-F", &block])?;
    fs::create_dir_all("/tmp/a place")?;
    said("mount", &[&block, "/tmp/a place"])?;
    let mounted = users()?;
    said("umount", &["/tmp/a place"])?;
    let expected = format!("{name} is mounted on /tmp/a place; umount /tmp/a place");
    check(mounted == [expected], format!("{mounted:?}"))?;

    let own = fs::OpenOptions::new().read(true).custom_flags(libc::O_EXCL).open(&block)?;
    let taken = users()?;
    let program = format!("process {} (switch", std::process::id());
    check(taken.len() == 1 && taken[0].starts_with(&program), format!("{taken:?}"))?;
    drop(own);
    check(users()?.is_empty(), format!("{:?}", users()?))
}

/// A file on ext4 on a drive has the drive; through a loop device, an overlay or memory it has none.
fn layers_are_named() -> Outcome {
    let drive = Drive::with_serial("provider")?;
    let block = drive.block.display().to_string();
    let script = format!(
        "modprobe loop && mke2fs -q -F -t ext4 {block} && mkdir -p /tmp/on/ext4 /tmp/on/loop /tmp/on/overlay && \
         mount {block} /tmp/on/ext4 && cd /tmp/on/ext4 && mkdir lower upper work && \
         head -c 8M /dev/urandom >file && cp file lower && truncate -s 16M image && mke2fs -q -F -t ext4 image && sync && \
         mount -o loop image /tmp/on/loop && cp file /tmp/on/loop && echo short >/tmp/on/tiny && \
         mount -t overlay -o lowerdir=/tmp/on/ext4/lower,upperdir=/tmp/on/ext4/upper,workdir=/tmp/on/ext4/work none /tmp/on/overlay && \
         sync"
    );
    said("sh", &["-c", &script])?;
    let below =
        |path: &str| -> Result<Stack, Failed> { Ok(Stack::below(&SourceFile::open(path)?)) };
    let found = (|| {
        let own = peer::address("provider")?;
        let stack = below("/tmp/on/ext4/file")?;
        check(stack.drive() == Ok(own), format!("{stack:?}"))?;
        check(stack.to_string().starts_with("ext4 on /tmp/on/ext4, on drive"), &stack)?;
        check(below(&block)?.drive() == Ok(own), "the drive itself")?;
        for (path, words) in [
            ("/tmp/on/loop/file", "itself"),
            ("/tmp/on/overlay/file", "lowerdir=/tmp/on/ext4/lower"),
            ("/tmp/on/tiny", "tmpfs keeps it in memory"),
            ("/usr/bin/env", "overlay"),
        ] {
            let stack = below(path)?;
            let why = stack.drive().err().map(|absent| absent.to_string()).unwrap_or_default();
            check(why.contains(words), format!("{path}: {why:?} of {stack:?}"))?;
        }
        Ok(())
    })();
    said("sh", &["-c", "umount /tmp/on/overlay /tmp/on/loop; umount /tmp/on/ext4"])?;
    found
}
