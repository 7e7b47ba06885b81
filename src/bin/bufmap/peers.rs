//! The part of `bufmap probe` that is about peers: the tree of what gives memory and what reads, and
//! every pair of the two.

use bufmap::pci::{Address, BarKind, Function, PciError, PortType, Tree, Verdict, can_peer, route};
use bytesize::ByteSize;
use serde::Serialize;

use crate::table::{Rows, line};

/// A BAR shorter than this holds registers and not memory.
const MEMORY_FROM: u64 = 1 << 20;

/// What is known of this machine's devices as peers.
#[derive(Serialize)]
pub struct Peers {
    tree: Vec<Node>,
    pairs: Vec<Pair>,
}

/// A function that gives memory or reads, or a bridge above one.
#[derive(Serialize)]
struct Node {
    address: String,
    /// The bridge above it.
    below: Option<String>,
    host_bridge: String,
    what: String,
    #[serde(skip)]
    depth: usize,
}

/// Memory of one device, and a drive that could write into it.
#[derive(Serialize)]
struct Pair {
    memory: String,
    drive: String,
    /// By which path, if by any.
    path: Option<&'static str>,
    why: String,
    remedy: Option<String>,
}

/// Where a device's memory can be had.
#[derive(Clone, Copy)]
enum Giver {
    /// The kernel has it, for every driver.
    Kernel,
    /// A BAR, for devices in one VFIO container.
    Bar(u8),
}

impl Peers {
    /// Those of the running machine.
    pub fn find() -> Result<Self, PciError> {
        let tree = Tree::read()?;
        let mut shown: Vec<&Function> = tree
            .functions()
            .filter(|function| giver(function).is_some() || reads(function))
            .flat_map(|function| tree.path_up(function.address))
            .collect();
        shown.sort_by_key(|function| function.address);
        shown.dedup_by_key(|function| function.address);
        let nodes = shown.iter().map(|function| node(&tree, function)).collect();

        let givers = tree.functions().filter_map(|memory| Some((memory, giver(memory)?)));
        let pairs = givers.flat_map(|(memory, giver)| {
            let drives = tree.functions().filter(|drive| reads(drive) && !same(memory, drive));
            drives.map(move |drive| (memory, giver, drive))
        });
        let pairs = pairs.map(|(memory, giver, drive)| pair(&tree, memory, giver, drive)).collect();
        Ok(Self { tree: in_order(nodes), pairs })
    }

    /// For people.
    pub fn as_text(&self) -> String {
        if self.tree.is_empty() {
            return line("no drive and no memory for peers on the PCI bus");
        }
        let mut tree = Rows::new();
        let mut host = "";
        for node in &self.tree {
            if node.host_bridge != host {
                host = &node.host_bridge;
                tree.add_row([host]);
            }
            let indent = "  ".repeat(node.depth + 1);
            tree.add_row([&format!("{indent}{}", node.address), &node.what]);
        }
        let mut rows = Rows::new();
        rows.add_row(["memory of", "drive", "peer", ""]);
        for pair in &self.pairs {
            let why = match &pair.remedy {
                Some(remedy) => format!("{}; to change that, {remedy}", pair.why),
                None => pair.why.clone(),
            };
            rows.add_row([&pair.memory, &pair.drive, pair.path.unwrap_or("no"), &why]);
        }
        if self.pairs.is_empty() {
            return tree.text() + "\n" + &line("no pair of a device with memory and a drive");
        }
        format!("{}\n\n{}", tree.text(), rows.text())
    }
}

fn same(memory: &Function, drive: &Function) -> bool {
    memory.address == drive.address
}

/// Whether it is a drive that can write into peers' memory.
fn reads(function: &Function) -> bool {
    function.class == bufmap::pci::Class::NVME
}

fn giver(function: &Function) -> Option<Giver> {
    if function.peer_memory.is_some() {
        return Some(Giver::Kernel);
    }
    let is_vfios = function.driver.as_deref() == Some("vfio-pci") && !reads(function);
    if !is_vfios && !function.class.is_gpu() {
        return None;
    }
    let memory = |bar: &&bufmap::pci::Bar| {
        matches!(bar.kind, BarKind::Memory { .. }) && bar.len >= MEMORY_FROM
    };
    let largest = function.bars.iter().filter(memory).max_by_key(|bar| bar.len)?;
    Some(Giver::Bar(largest.index))
}

fn node(tree: &Tree, function: &Function) -> Node {
    Node {
        address: function.address.to_string(),
        below: function.upstream.map(|bridge| bridge.to_string()),
        host_bridge: function.root_bus.to_string(),
        what: what(function),
        depth: tree.path_up(function.address).count() - 1,
    }
}

/// Each function directly behind the bridge above it.
fn in_order(nodes: Vec<Node>) -> Vec<Node> {
    fn add(below: Option<&str>, left: &mut Vec<Node>, ordered: &mut Vec<Node>) {
        while let Some(at) = left.iter().position(|node| node.below.as_deref() == below) {
            let node = left.remove(at);
            let address = node.address.clone();
            ordered.push(node);
            add(Some(&address), left, ordered);
        }
    }
    let (mut left, mut ordered) = (nodes, Vec::new());
    add(None, &mut left, &mut ordered);
    ordered.extend(left);
    ordered
}

fn what(function: &Function) -> String {
    if function.class.is_bridge() {
        return match function.port() {
            Some(PortType::RootPort) => "root port",
            Some(PortType::Upstream) => "switch",
            Some(PortType::Downstream) => "switch port",
            _ => "bridge",
        }
        .into();
    }
    let kind = match (reads(function), function.class.is_gpu()) {
        (true, _) => "drive",
        (_, true) => "GPU",
        _ => "device",
    };
    let mut words = vec![kind.to_owned()];
    match &function.driver {
        Some(driver) => words.push(format!("driver {driver}")),
        None => words.push("no driver".into()),
    }
    words.extend(
        function.block_devices.iter().map(|disk| format!("{} of {}", disk.name, iec(disk.len))),
    );
    if let Some(memory) = &function.peer_memory {
        words.push(format!(
            "memory for peers: {}, {} free",
            iec(memory.size),
            iec(memory.available)
        ));
    } else if let Some(Giver::Bar(index)) = giver(function) {
        let len = function.bars.iter().find(|bar| bar.index == index).map_or(0, |bar| bar.len);
        words.push(format!("memory in BAR {index}: {}", iec(len)));
    }
    words.join(", ")
}

fn pair(tree: &Tree, memory: &Function, giver: Giver, drive: &Function) -> Pair {
    let made = |path, why, remedy| Pair {
        memory: memory.address.to_string(),
        drive: drive.address.to_string(),
        path,
        why,
        remedy,
    };
    let by_vfio = |function: &Function| function.driver.as_deref() == Some("vfio-pci");
    match giver {
        Giver::Kernel => match can_peer(tree, memory.address, drive.address) {
            Err(error) => made(None, error.to_string(), None),
            Ok(verdict) if !verdict.outcome.is_supported() => {
                let remedy = verdict.remedy();
                made(None, verdict.to_string(), remedy)
            }
            Ok(verdict) if by_vfio(drive) => {
                let why = format!("{verdict}; but the drive is VFIO's and not the kernel's");
                made(None, why, Some(format!("bufmap unbind {}", drive.address)))
            }
            Ok(verdict) => made(Some("kernel"), verdict.to_string(), None),
        },
        Giver::Bar(_) => match (by_vfio(memory), by_vfio(drive)) {
            (true, true) => made(Some("vfio"), by_iommu(tree, memory, drive), None),
            _ => {
                let ours = [memory, drive].into_iter().filter(|function| !by_vfio(function));
                let addresses: Vec<_> = ours.map(|function| function.address.to_string()).collect();
                let why = "the memory is in a BAR that the kernel gives to nobody".to_owned();
                let remedy = format!(
                    "bufmap bind {}, which takes them from their drivers",
                    addresses.join(" ")
                );
                made(None, why, Some(remedy))
            }
        },
    }
}

/// VFIO asks nobody whether two devices may talk; what lies between them may still matter.
fn by_iommu(tree: &Tree, memory: &Function, drive: &Function) -> String {
    let forecast = |address: Address| route(tree, memory.address, address);
    match forecast(drive.address) {
        Ok(Verdict { distance, .. }) => {
            format!(
                "mapped by VFIO in one container, distance {distance}; whether bytes arrive shows \
                 when some are moved"
            )
        }
        Err(error) => error.to_string(),
    }
}

fn iec(bytes: u64) -> String {
    ByteSize::b(bytes).display().iec().to_string()
}
