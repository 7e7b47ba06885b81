//! Taking a drive from the kernel: only one that nobody uses, and that nobody can begin to use.

use std::fs::{self, OpenOptions};
use std::os::unix::fs::FileExt;
use std::process::{Command, ExitCode};
use std::sync::Arc;
use std::time::{Duration, Instant};

use bufmap::pci::driver::{self, DriverError, Plan};
use bufmap::pci::{Address, NotFree, hold};
use bufmap_bench::card::card;
use bufmap_bench::drive::Drive;
use bufmap_bench::programs::Program;
use bufmap_bench::{Outcome, check, said};
use exporters::vfio::Container;
use libtest_mimic::Failed;

/// Where a file system is mounted.
const PLACE: &str = "/tmp/bind";

fn main() -> ExitCode {
    bufmap_bench::run(
        "vfio",
        &[
            ("a_dry_run_does_nothing_and_the_plan_does_it", plan),
            ("a_drive_mounted_in_another_namespace_is_refused", mounted_elsewhere),
            ("a_drive_mounted_out_of_sight_is_refused", mounted_out_of_sight),
            ("a_drive_without_its_node_is_refused", without_node),
            ("a_partition_that_is_mounted_keeps_the_drive", partition),
            ("a_drive_that_is_swapped_to_is_refused", swap),
            ("a_drive_below_a_loop_device_is_refused", below_a_loop),
            ("a_drive_that_a_program_has_open_is_refused", program),
            ("nobody_mounts_a_drive_that_is_held", race),
            ("a_device_in_a_programs_hands_is_not_waited_for", in_hands),
        ],
    )
}

/// The drive `files` in the kernel's hands.
fn drive() -> Result<(String, Address), Failed> {
    fs::create_dir_all(PLACE)?;
    let drive = Drive::returned("files")?;
    Ok((drive.block.display().to_string(), drive.address()?))
}

/// The same, with a file system on it.
fn formatted() -> Result<(String, Address), Failed> {
    let (block, address) = drive()?;
    said("mke2fs", &["-q", "-F", "-t", "ext4", &block])?;
    Ok((block, address))
}

/// The last part of a path.
fn name(block: &str) -> &str {
    block.trim_start_matches("/dev/")
}

/// Status, output and complaint of the tool, run by a shell after these commands.
fn tool_after(unshare: &[&str], commands: &str, tool: &[&str]) -> Result<(i32, String), Failed> {
    let script = format!("{commands} exec \"$@\"");
    let mut command = Command::new("unshare");
    command.args(unshare).args(["sh", "-ec", &script, "sh"]);
    let output = command.arg(std::env::var("BUFMAP_TOOL")?).args(tool).output()?;
    let text = [output.stdout, output.stderr].concat();
    let text = String::from_utf8_lossy(&text).into_owned();
    println!("{text}");
    Ok((output.status.code().ok_or("a signal ended it")?, text))
}

fn tool(arguments: &[&str]) -> Result<(i32, String), Failed> {
    tool_after(&["--uts"], "", arguments)
}

/// Bound neither in a dry run nor without, for this reason; and the kernel's driver has it still.
fn is_refused(address: Address, words: &[&str]) -> Outcome {
    let at = address.to_string();
    for arguments in
        [&["bind", &at, "--dry-run"][..], &["bind", &at], &["unbind", &at, "--dry-run"]]
    {
        let (status, text) = tool(arguments)?;
        check(status == 1 && text.contains(&at), &text)?;
        for words in words {
            check(text.contains(words), format!("no {words:?} in {text}"))?;
        }
    }
    stays(address)
}

fn stays(address: Address) -> Outcome {
    let driver = driver::driver(address)?;
    check(driver.as_deref() == Some("nvme"), format!("{driver:?} has it"))
}

fn plan() -> Outcome {
    let (block, address) = drive()?;
    let (at, card) = (address.to_string(), card()?.to_string());
    driver::release(card.parse()?)?;
    let dry_run = ["bind", &at, &card, &at, "--dry-run"];
    let (status, text) = tool(&dry_run)?;
    check(status == 0 && text.contains(&format!("{at} would go from nvme to vfio-pci")), &text)?;
    check(text.lines().count() == 2, &text)?;
    stays(address)?;
    for name in ["..", ".", "", "no/name"] {
        let (status, text) = tool(&["bind", &at, "--driver", name, "--dry-run"])?;
        check(status == 2, text)?;
    }
    // sysfs that cannot be written.
    let read_only = "mount -o remount,bind,ro /sys && mount -t devtmpfs none /dev &&";
    let (status, text) = tool_after(&["--mount"], read_only, &dry_run)?;
    check(status == 1 && text.contains("driver_override: Read-only"), text)?;

    let (status, text) = tool(&["bind", &at, &card])?;
    check(status == 0 && text.contains(&format!("{at} went from nvme to vfio-pci")), &text)?;
    check(driver::driver(address)?.as_deref() == Some("vfio-pci"), "another driver has it")?;
    let (status, text) = tool(&["bind", &at, &card])?;
    check(status == 0 && text.contains(&format!("{at} stays with vfio-pci")), &text)?;
    let (status, text) = tool(&["unbind", &at, &card])?;
    check(status == 0 && text.contains(&format!("{at} went from vfio-pci to nvme")), &text)?;
    // Nothing of the drive was held when it came back, so that it has its name again.
    check(Drive::appearing("files")?.block.ends_with(name(&block)), "another name")
}

/// A shell that has made ready what its script says, in namespaces of its own, until it is dropped.
fn shell(unshare: &[&str], script: &str) -> Result<Program, Failed> {
    let script = format!("{script} && echo ready && read -r line");
    let mut command = Command::new("unshare");
    command.args(unshare).args(["sh", "-c", &script]);
    let mut shell = Program::start(&mut command, &[])?;
    shell.says("ready")?;
    Ok(shell)
}

fn mounted_elsewhere() -> Outcome {
    let (block, address) = formatted()?;
    let shell = shell(&["--mount"], &format!("mount {block} {PLACE}"))?;
    is_refused(
        address,
        &[&format!("{} is mounted on {PLACE} in the mount namespace of", name(&block))],
    )?;
    drop(shell);
    // A namespace goes with its last process, and its mounts some time after.
    let begun = Instant::now();
    while let Err(error) = hold(&[address]) {
        check(begun.elapsed() < Duration::from_secs(10), error)?;
    }
    Ok(())
}

/// Neither the mount nor a process that sees it is seen: the kernel's own answer is left.
fn mounted_out_of_sight() -> Outcome {
    let (block, address) = formatted()?;
    said("mount", &[&block, PLACE])?;
    let unseen = format!("umount {PLACE} &&");
    let spaces = ["--mount", "--pid", "--fork", "--mount-proc"];
    let told = tool_after(&spaces, &unseen, &["bind", &address.to_string(), "--dry-run"]);
    said("umount", &[PLACE])?;
    let (status, text) = told?;
    check(status == 1 && text.contains(&format!("somebody has {block} exclusively")), text)
}

fn without_node() -> Outcome {
    let (block, address) = drive()?;
    let at = address.to_string();
    let missing = "mount -t tmpfs none /dev &&";
    let wrong = format!("{missing} mknod {block} b 1 0 &&");
    let no_node = format!("there is no {block} here");
    let not_it = format!("{block} is not the device");
    for (commands, words) in [(missing, &no_node), (&wrong, &not_it)] {
        for tool in [&["bind", &at, "--dry-run"][..], &["bind", &at]] {
            let (status, text) = tool_after(&["--mount"], commands, tool)?;
            check(status == 1 && text.contains(words), text)?;
        }
    }
    stays(address)
}

/// Divides a drive: one partition, from the first megabyte to the end of the ninth.
fn divide(block: &str) -> Result<String, Failed> {
    let mut record = [0; 512];
    let entry = [0x00, 0, 0, 0, 0x83, 0, 0, 0];
    record[446..454].copy_from_slice(&entry);
    record[454..458].copy_from_slice(&2048u32.to_le_bytes());
    record[458..462].copy_from_slice(&(8u32 << 11).to_le_bytes());
    record[510..].copy_from_slice(&[0x55, 0xaa]);
    let disk = OpenOptions::new().write(true).open(block)?;
    disk.write_all_at(&record, 0)?;
    disk.sync_all()?;
    drop(disk);
    said("blockdev", &["--rereadpt", block])?;
    Ok(format!("{block}p1"))
}

/// Whoever has a partition keeps the drive, and whoever holds the drive keeps its partitions.
fn partition() -> Outcome {
    let (block, address) = drive()?;
    let partition = divide(&block)?;
    said("mke2fs", &["-q", "-F", &partition])?;
    said("mount", &[&partition, PLACE])?;
    is_refused(address, &[&format!("{} is mounted on {PLACE}; umount {PLACE}", name(&partition))])?;
    let unseen = format!("umount {PLACE} &&");
    let spaces = ["--mount", "--pid", "--fork", "--mount-proc"];
    let told = tool_after(&spaces, &unseen, &["bind", &address.to_string(), "--dry-run"]);
    said("umount", &[PLACE])?;
    let (status, text) = told?;
    check(status == 1 && text.contains(&format!("somebody has {block} exclusively")), text)?;

    let held = hold(&[address])?;
    let mounted = said("mount", &[&partition, PLACE]);
    check(mounted.is_err(), "a partition of a drive that is held was mounted")?;
    drop(held);
    said("mount", &[&partition, PLACE])?;
    said("umount", &[PLACE])?;
    said("wipefs", &["-q", "-a", &block]).map(drop)
}

fn swap() -> Outcome {
    let (block, address) = drive()?;
    said("mkswap", &[&block])?;
    said("swapon", &[&block])?;
    let refused = is_refused(address, &[&format!("the system swaps to {}", name(&block))]);
    said("swapoff", &[&block])?;
    refused?;
    hold(&[address]).map(drop).map_err(Failed::from)
}

/// A loop device has what it is of not exclusively, and is not among its holders.
fn below_a_loop() -> Outcome {
    let (block, address) = formatted()?;
    said("modprobe", &["loop"])?;
    let device = said("losetup", &["--find", "--show", &block])?;
    let device = device.trim();
    said("mount", &[device, PLACE])?;
    let refused = is_refused(
        address,
        &[
            &format!("{} is made of {}", name(device), name(&block)),
            &format!("{} is mounted on {PLACE}", name(device)),
        ],
    );
    said("umount", &[PLACE])?;
    said("losetup", &["--detach", device])?;
    refused
}

/// A virtual machine or a database has a drive open and not exclusively.
fn program() -> Outcome {
    let (block, address) = drive()?;
    let shell = shell(&["--mount"], &format!("exec 3<{block}"))?;
    is_refused(address, &["(sh) has", &format!("{block} open; end it")])?;
    drop(shell);
    // Under another /dev it has another name.
    let elsewhere = format!(
        "mkdir /tmp/nodes; mount -t devtmpfs none /tmp/nodes && exec 3</tmp/nodes/{}",
        name(&block)
    );
    let shell = self::shell(&["--mount"], &elsewhere)?;
    is_refused(address, &["(sh) has", &format!("{block} open; end it")])?;
    drop(shell);
    hold(&[address]).map(drop).map_err(Failed::from)
}

/// From the check until the driver has let the drive go, nobody gets it.
fn race() -> Outcome {
    let (block, address) = formatted()?;
    let plan = Plan::bind(&[address], &"vfio-pci".parse()?)?;
    // The same command does it below.
    check(said("mount", &[&block, PLACE]).is_err(), "a drive that is held was mounted")?;
    check(hold(&[address]).is_err(), "it is held twice")?;
    plan.carry_out(|moved, now| println!("{moved:?} is {now:?}'s"))?;
    check(driver::driver(address)?.as_deref() == Some("vfio-pci"), "another driver has it")?;
    driver::release(address)?;
    let block = Drive::appearing("files")?.block.display().to_string();
    said("mount", &[&block, PLACE])?;
    said("umount", &[PLACE])?;
    // A plan that is not carried out leaves everything as it was.
    drop(Plan::bind(&[address], &"vfio-pci".parse()?)?);
    said("mount", &[&block, PLACE])?;
    said("umount", &[PLACE])?;
    stays(address)
}

/// The kernel would wait for as long as the program has it, and could not be interrupted.
fn in_hands() -> Outcome {
    let card = card()?;
    driver::bind(card, "vfio-pci")?;
    let container = Arc::new(Container::new()?);
    let device = container.open(&card.to_string())?;
    let begun = Instant::now();
    let refused = driver::release(card);
    let words = match refused {
        Err(DriverError::NotFree(error @ NotFree::InUse { .. })) => error.to_string(),
        other => return Err(format!("{other:?}").into()),
    };
    println!("{words}");
    check(words.contains(&format!("process {} (bind", std::process::id())), &words)?;
    check(begun.elapsed() < Duration::from_secs(2), "it was waited for")?;
    let (status, text) = tool(&["unbind", &card.to_string(), "--dry-run"])?;
    check(status == 1 && text.contains("/dev/vfio/"), text)?;
    drop((device, container));

    // Nor does a program get it in between.
    let held = hold(&[card])?;
    let container = Arc::new(Container::new()?);
    check(container.open(&card.to_string()).is_err(), "a device that is held was opened")?;
    drop(held);
    drop((container.open(&card.to_string())?, container));
    driver::release(card)?;
    Ok(())
}
