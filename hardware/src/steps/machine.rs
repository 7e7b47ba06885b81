//! What the machine is.

use std::env;
use std::fs;
use std::path::Path;
use std::process::Command;

use bufmap::pci::Tree;
use bytesize::ByteSize;
use serde_json::Value;

use crate::context::Context;
use crate::record::{Record, Teller};

pub fn run(_: &Context, teller: &mut Teller) {
    let name = rustix::system::uname();
    let kernel = [name.release(), name.version()].map(|part| part.to_string_lossy().into_owned());
    teller.fact("kernel", kernel.join(" "));
    teller.fact("command line", line("/proc/cmdline"));
    teller.fact("user", if rustix::process::geteuid().is_root() { "root" } else { "not root" });
    processors(teller);
    memory(teller);
    gpus(teller);
    drives(teller);
    iommu(teller);
    pci(teller);
    probe(teller);
}

/// The first line of a file, or why it cannot be read.
fn line(path: impl AsRef<Path>) -> String {
    match fs::read_to_string(&path) {
        Ok(text) => text.lines().next().unwrap_or_default().trim().to_owned(),
        Err(error) => format!("{}: {error}", path.as_ref().display()),
    }
}

/// The value behind the first line of a `key: value` file that begins with a key.
fn value_of(text: &str, key: &str) -> Option<String> {
    let line = text.lines().find(|line| line.starts_with(key))?;
    Some(line.split_once(':')?.1.trim().to_owned())
}

fn processors(teller: &mut Teller) {
    let text = fs::read_to_string("/proc/cpuinfo").unwrap_or_default();
    let model = value_of(&text, "model name").unwrap_or_else(|| "not told".into());
    let all = std::thread::available_parallelism().map_or(1, usize::from);
    teller.fact("processors", format!("{all} of {model}"));
}

fn memory(teller: &mut Teller) {
    let text = fs::read_to_string("/proc/meminfo").unwrap_or_default();
    for key in ["MemTotal", "MemAvailable", "Hugepagesize"] {
        teller.fact(key, value_of(&text, key).unwrap_or_else(|| "not told".into()));
    }
    teller.fact(
        "locked memory",
        value_of(
            &fs::read_to_string("/proc/self/limits")
                .unwrap_or_default()
                .replace("Max locked memory", "Max locked memory:"),
            "Max locked memory",
        )
        .unwrap_or_default(),
    );
}

fn gpus(teller: &mut Teller) {
    match fs::read_to_string("/proc/driver/nvidia/version") {
        Ok(text) => teller.fact("NVIDIA driver", text.lines().next().unwrap_or_default()),
        Err(error) => teller
            .skipped("NVIDIA's kernel driver", format!("/proc/driver/nvidia/version: {error}")),
    }
    let mut query = Command::new("nvidia-smi");
    query.args(["--query-gpu=name,driver_version,memory.total,pci.bus_id,pcie.link.gen.current,pcie.link.width.current", "--format=csv"]);
    match query.output() {
        Ok(output) if output.status.success() => {
            let text = String::from_utf8_lossy(&output.stdout).into_owned();
            text.lines().skip(1).for_each(|line| teller.fact("nvidia-smi", line));
        }
        Ok(output) => teller.skipped("nvidia-smi", output.status),
        Err(error) => teller.skipped("nvidia-smi", error),
    }
    for directory in entries("/sys/class/drm").filter(|name| name.starts_with("renderD")) {
        let device = Path::new("/sys/class/drm").join(&directory).join("device");
        let driver = fs::read_link(device.join("driver")).ok();
        let driver =
            driver.as_deref().and_then(Path::file_name).map(|name| name.display().to_string());
        let ids = ["vendor", "device"].map(|id| line(device.join(id)));
        teller.fact(&directory, format!("{} ({})", driver.unwrap_or_default(), ids.join(" ")));
    }
}

fn entries(directory: &str) -> impl Iterator<Item = String> {
    let mut names: Vec<_> = fs::read_dir(directory)
        .into_iter()
        .flatten()
        .flatten()
        .map(|entry| entry.file_name().to_string_lossy().into_owned())
        .collect();
    names.sort();
    names.into_iter()
}

fn drives(teller: &mut Teller) {
    let disks: Vec<_> = entries("/sys/block")
        .filter(|name| !["loop", "ram", "zram"].iter().any(|kind| name.starts_with(kind)))
        .collect();
    if disks.is_empty() {
        return teller.skipped("drives", "/sys/block names none");
    }
    for disk in disks {
        let directory = Path::new("/sys/block").join(&disk);
        let sectors: u64 = line(directory.join("size")).parse().unwrap_or(0);
        let len = ByteSize::b(sectors.saturating_mul(512)).display().iec();
        let model = fs::read_to_string(directory.join("device/model")).unwrap_or_default();
        teller.fact(&disk, format!("{len} {}", model.trim()));
    }
}

fn iommu(teller: &mut Teller) {
    let units: Vec<_> = entries("/sys/class/iommu").collect();
    match units.is_empty() {
        true => teller.fact("IOMMU", "none"),
        false => teller.fact("IOMMU", units.join(", ")),
    }
}

fn pci(teller: &mut Teller) {
    let tree = match Tree::read() {
        Ok(tree) => tree,
        Err(error) => return teller.skipped("the PCI tree", error),
    };
    for function in tree.functions() {
        let bars = function.bars.iter().map(|bar| format!("{bar:?}")).collect::<Vec<_>>();
        let up: Vec<_> =
            tree.path_up(function.address).skip(1).map(|f| f.address.to_string()).collect();
        teller.row(
            "PCI functions",
            [
                ("address", function.address.to_string().into()),
                ("id", format!("{:04x}:{:04x}", function.vendor, function.device).into()),
                ("class", format!("{:06x}", function.class.get()).into()),
                ("driver", function.driver.clone().unwrap_or_default().into()),
                ("below", up.join(" ").into()),
                ("BARs", bars.len().into()),
            ],
        );
    }
}

/// The tool's own report.
fn probe(teller: &mut Teller) {
    let tool = env::current_exe().ok().and_then(|own| Some(own.parent()?.join("bufmap")));
    let Some(tool) = tool.filter(|tool| tool.exists()) else {
        return teller.skipped("bufmap probe", "the tool is not beside this program");
    };
    match Command::new(tool).args(["probe", "--json"]).output() {
        Ok(output) => match serde_json::from_slice::<Value>(&output.stdout) {
            Ok(value) => teller.tell(&Record::Report { name: "bufmap probe".into(), value }),
            Err(error) => {
                let said = String::from_utf8_lossy(&output.stderr);
                teller
                    .failed("bufmap probe", format!("{}, {error}: {}", output.status, said.trim()));
            }
        },
        Err(error) => teller.failed("bufmap probe", error),
    }
}
