//! The tree: every function, where it hangs, and what lies where in the address space.

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};

use iomap::PhysAddr;

use super::function::went_away;
use super::sysfs::{names, resolved};
use super::windows::{Found, Windows};
use super::{Address, Cpu, Function, HostBridge, InBar, PciError, RootBus, block};

/// How often a tree is read that changes under the reader's eyes.
const ATTEMPTS: usize = 3;

/// The PCI tree of a machine at the moment it was read.
///
/// ```
/// use bufmap::pci::Tree;
///
/// match Tree::read() {
///     Ok(tree) => {
///         for function in tree.functions() {
///             let above = function.upstream.map_or(function.root_bus.to_string(), |a| a.to_string());
///             println!("{} below {above}: class {}", function.address, function.class);
///         }
///     }
///     Err(error) => println!("{error}"),
/// }
/// ```
#[derive(Clone, Debug)]
pub struct Tree {
    functions: BTreeMap<Address, Function>,
    hosts: BTreeMap<RootBus, HostBridge>,
    cpu: Cpu,
    bars: Windows<(Address, u8)>,
}

impl Tree {
    /// Reads the tree of the running machine, from `/sys` and `/proc/cpuinfo`.
    ///
    /// # Errors
    /// [`PciError::Unavailable`] where the kernel shows no PCI bus, [`PciError::Read`] and
    /// [`PciError::Content`] for files that cannot be read or make no sense, [`PciError::Changed`]
    /// if devices kept coming and going.
    pub fn read() -> Result<Self, PciError> {
        again_if_changed(|| Self::from_sysfs("/sys".as_ref(), "/proc".as_ref()))
    }

    /// Reads as much of the running machine's tree as decides about some functions: they themselves,
    /// the bridges above them, and the first function on each of their root buses. [`can_peer`] and
    /// [`route`] answer for any two of them as by the whole tree, at a fraction of its cost.
    ///
    /// The rest is as if it were not there: other functions, their BARs, and all disks. So is a
    /// function among `functions` that the machine does not have.
    ///
    /// [`can_peer`]: super::can_peer
    /// [`route`]: super::route
    ///
    /// # Errors
    /// Those of [`Tree::read`].
    pub fn read_around(functions: &[Address]) -> Result<Self, PciError> {
        let (sys, proc) = ("/sys".as_ref(), "/proc".as_ref());
        again_if_changed(|| Self::from_sysfs_around(sys, proc, functions))
    }

    /// Reads a tree from a directory with the form of `/sys` and one with the form of `/proc`, such
    /// as a recording of another machine. Of the latter only `cpuinfo` is read.
    ///
    /// # Errors
    /// Those of [`Tree::read`].
    pub fn from_sysfs(sys: &Path, proc: &Path) -> Result<Self, PciError> {
        let list = list(sys)?;
        let sys = resolved(sys)?;
        let mut functions = read_functions(&sys, &list, names(&list)?)?;
        for (disk, behind) in block::read(&sys)? {
            for address in behind {
                if let Some(function) = functions.get_mut(&address) {
                    function.block_devices.push(disk.clone());
                }
            }
        }
        Self::of(functions, proc)
    }

    /// The same for [`Tree::read_around`].
    ///
    /// # Errors
    /// Those of [`Tree::read`].
    pub fn from_sysfs_around(
        sys: &Path,
        proc: &Path,
        functions: &[Address],
    ) -> Result<Self, PciError> {
        let list = list(sys)?;
        let sys = resolved(sys)?;
        let mut around = BTreeSet::new();
        for function in functions {
            if let Ok(path) = list.join(function.to_string()).canonicalize() {
                around.extend(way_up(&path)?);
            }
        }
        let names = around.iter().map(Address::to_string);
        Self::of(read_functions(&sys, &list, names)?, proc)
    }

    fn of(functions: BTreeMap<Address, Function>, proc: &Path) -> Result<Self, PciError> {
        Ok(Self {
            hosts: hosts(&functions),
            cpu: Cpu::read(&proc.join("cpuinfo"))?,
            bars: bars(&functions),
            functions,
        })
    }

    /// All functions, by address.
    pub fn functions(&self) -> impl Iterator<Item = &Function> {
        self.functions.values()
    }

    /// The function at an address.
    ///
    /// # Errors
    /// [`PciError::NoFunction`] if there is none.
    pub fn function(&self, address: Address) -> Result<&Function, PciError> {
        self.functions.get(&address).ok_or(PciError::NoFunction { address })
    }

    /// The function and the bridges above it, up to and including the one on the root bus. Nothing
    /// for an address without a function.
    pub fn path_up(&self, from: Address) -> impl Iterator<Item = &Function> {
        std::iter::successors(self.functions.get(&from), |function| {
            self.functions.get(&function.upstream?)
        })
    }

    /// The functions directly below a bridge.
    pub fn below(&self, bridge: Address) -> impl Iterator<Item = &Function> {
        self.functions().filter(move |function| function.upstream == Some(bridge))
    }

    /// The functions behind which a disk stands, by its name (`nvme0n1`). There are several for a
    /// drive that can be reached by several controllers, and none for what is no PCI device's.
    pub fn of_disk<'a>(&'a self, name: &'a str) -> impl Iterator<Item = &'a Function> {
        self.functions()
            .filter(move |function| function.block_devices.iter().any(|disk| disk.name == name))
    }

    /// All host bridges that have a function below them, by root bus.
    pub fn host_bridges(&self) -> impl Iterator<Item = &HostBridge> {
        self.hosts.values()
    }

    /// The first function on a root bus of this tree, which tells the kernel what the host bridge
    /// is. There is one, because each way up was seen to end there.
    pub(super) fn first_on(&self, root_bus: RootBus) -> &Function {
        &self.functions[&self.hosts[&root_bus].first]
    }

    /// The processor.
    pub fn cpu(&self) -> &Cpu {
        &self.cpu
    }

    /// In which BAR a byte of the physical address space lies, or `None` if in none. BARs without
    /// an address and I/O ports do not count.
    pub fn bar_at(&self, address: PhysAddr) -> Option<InBar> {
        self.bars_at(address.get()).owner
    }

    /// The same, and how far it is true.
    pub(super) fn bars_at(&self, address: u64) -> FoundBar {
        let Found { owner, last } = self.bars.at(address);
        let owner = owner.map(|((function, bar), offset)| InBar { function, bar, offset });
        FoundBar { owner, last }
    }
}

impl Function {
    /// Reads the function at an address of the running machine, and no other: it is not told which
    /// disks are behind it.
    ///
    /// # Errors
    /// [`PciError::NoFunction`] if there is none; [`PciError::Read`] and [`PciError::Content`] for files
    /// that cannot be read or make no sense.
    pub fn read(address: Address) -> Result<Self, PciError> {
        let sys = resolved("/sys".as_ref())?;
        let path = list(&sys)?.join(address.to_string());
        let path = path.canonicalize().map_err(|_| PciError::NoFunction { address })?;
        read_function(&sys, &path, address)
    }
}

/// What lies at an address: a BAR or none, and the last address of which that is true.
pub(super) struct FoundBar {
    pub owner: Option<InBar>,
    pub last: u64,
}

/// Reads a tree, a few times if it changes under the reader's eyes.
fn again_if_changed(read: impl Fn() -> Result<Tree, PciError>) -> Result<Tree, PciError> {
    let mut attempt = 1;
    loop {
        match read() {
            Err(PciError::Changed { .. }) if attempt < ATTEMPTS => attempt += 1,
            read => return read,
        }
    }
}

/// The directory that has a link to each function.
fn list(sys: &Path) -> Result<PathBuf, PciError> {
    let list = sys.join("bus/pci/devices");
    match list.is_dir() {
        true => Ok(list),
        false => Err(PciError::Unavailable {
            path: list,
            why: "the kernel shows no PCI bus",
            fix: "mount sysfs there, and run outside of a container that hides it",
        }),
    }
}

/// The function in a directory, the bridges above it, and the first function on its root bus.
fn way_up(path: &Path) -> Result<Vec<Address>, PciError> {
    let of = |path: &Path| Address::of_directory(path.file_name()?.to_str()?);
    let mut way: Vec<_> = path.ancestors().map_while(of).collect();
    if let Some(root_bus) = path.ancestors().nth(way.len()) {
        let on_it = names(root_bus)?;
        way.extend(on_it.iter().filter_map(|name| Address::of_directory(name)).min());
    }
    Ok(way)
}

fn read_functions(
    sys: &Path,
    list: &Path,
    names: impl IntoIterator<Item = String>,
) -> Result<BTreeMap<Address, Function>, PciError> {
    let mut functions = BTreeMap::new();
    let mut paths: BTreeMap<Address, PathBuf> = BTreeMap::new();
    for name in names {
        let link = list.join(&name);
        let Some(address) = Address::of_directory(&name) else {
            return Err(PciError::content(link, "a function's address", &name));
        };
        let Ok(path) = link.canonicalize() else { continue };
        match read_function(sys, &path, address) {
            Ok(function) => functions.insert(address, function),
            Err(error) if went_away(&error, &path) => continue,
            Err(error) => return Err(error),
        };
        paths.insert(address, path);
    }
    // A parent is the directory above and nothing else: so every path up ends at the root.
    for function in functions.values() {
        let Some(parent) = function.upstream else { continue };
        let path = &paths[&function.address];
        if paths.get(&parent).map(PathBuf::as_path) != path.parent() {
            return Err(PciError::Changed { path: path.clone(), parent });
        }
    }
    Ok(functions)
}

/// Reads the function in a directory, whose place in the tree is its path.
fn read_function(sys: &Path, path: &Path, address: Address) -> Result<Function, PciError> {
    let misplaced = || {
        let found = path.to_string_lossy();
        PciError::content(path, "a path of bridges below a host bridge", &found)
    };
    let below = path.strip_prefix(sys).map_err(|_| misplaced())?;
    let mut parts = below.components().rev().map(|part| part.as_os_str().to_str());
    let mut next = || parts.next().flatten().ok_or_else(misplaced);
    if Address::of_directory(next()?) != Some(address) {
        return Err(misplaced());
    }
    let mut parent = next()?;
    let upstream = Address::of_directory(parent);
    while Address::of_directory(parent).is_some() {
        parent = next()?;
    }
    let root_bus = RootBus::of_directory(parent).ok_or_else(misplaced)?;
    Function::in_directory(path, address, upstream, root_bus)
}

fn hosts(functions: &BTreeMap<Address, Function>) -> BTreeMap<RootBus, HostBridge> {
    let mut hosts = BTreeMap::new();
    for function in functions.values().filter(|function| function.upstream.is_none()) {
        let host = HostBridge { root_bus: function.root_bus, first: function.address };
        hosts.entry(function.root_bus).or_insert(host);
    }
    hosts
}

fn bars(functions: &BTreeMap<Address, Function>) -> Windows<(Address, u8)> {
    Windows::new(functions.values().flat_map(|function| {
        let bars = function.bars.iter();
        bars.filter_map(|bar| Some((bar.window()?, (function.address, bar.index))))
    }))
}
