//! The machines that the bench can be, as data.
//!
//! To add one, add an entry to [`TOPOLOGIES`]: what it shows, the processor, the devices as QEMU takes them, the drives
//! they name, and the modules to load in the guest.

use crate::child::Error;

/// A machine in software.
pub struct Topology {
    pub name: &'static str,
    /// What it is for, in a line.
    pub shows: &'static str,
    pub cpu: &'static str,
    /// Whether there is an IOMMU, and the kernel uses it.
    pub iommu: bool,
    /// The arguments of `-device`, in order.
    pub devices: &'static [&'static str],
    /// Drives that the devices name.
    pub drives: &'static [Drive],
    /// Other arguments of QEMU, which runs in the session's directory.
    pub others: &'static [&'static str],
    /// Modules to load in the guest.
    pub modules: &'static [&'static str],
}

/// What a device's `drive=NAME` names.
pub struct Drive {
    pub name: &'static str,
    pub medium: Medium,
    pub content: Content,
}

/// What a drive holds.
pub enum Content {
    /// 64 MiB of a pattern.
    Pattern,
    /// So many bytes of nothing, for a file system.
    Blank { len: u64 },
}

impl Content {
    /// How many bytes.
    pub const fn len(&self) -> u64 {
        match self {
            Self::Pattern => 64 << 20,
            Self::Blank { len } => *len,
        }
    }
}

/// How a drive's medium behaves.
pub enum Medium {
    Sound,
    /// Reads that touch the sector in its middle fail.
    Failing,
    /// The first two reads that touch the sector in its middle fail, however often the kernel tries
    /// them again (five times each); those after them do not.
    FailingTwice,
    /// It gives 4 MiB a second.
    Slow,
}

impl Medium {
    /// QEMU's description of such a medium whose bytes are in `file`.
    pub fn describe(&self, file: &str, len: u64) -> String {
        match self {
            Self::Sound => format!("file={file}"),
            Self::Slow => format!("file={file},throttling.bps-read={}", 4 << 20),
            Self::Failing => failing(file, len, 1, "off"),
            Self::FailingTwice => failing(file, len, 12, "on"),
        }
    }
}

/// A medium whose middle fails by `errors` rules.
fn failing(file: &str, len: u64, errors: u32, once: &str) -> String {
    let sector = len / 2 / 512;
    let rules = (0..errors).map(|i| {
        let rule = format!("file.inject-error.{i}");
        format!(
            ",{rule}.event=read_aio,{rule}.iotype=read,{rule}.errno=5,{rule}.once={once},\
             {rule}.sector={sector}"
        )
    });
    let image = format!("file.driver=blkdebug,file.image.driver=file,file.image.filename={file}");
    image + &rules.collect::<String>()
}

const fn of_medium(name: &'static str, medium: Medium) -> Drive {
    Drive { name, medium, content: Content::Pattern }
}

const fn sound(name: &'static str) -> Drive {
    of_medium(name, Medium::Sound)
}

/// A drive for a file system with the real inputs.
const FILES: Drive =
    Drive { name: "files", medium: Medium::Sound, content: Content::Blank { len: 256 << 20 } };

/// The monitor is the guest's fourth serial port, by a socket of QEMU's own.
const MONITOR: &[&str] = &[
    "-chardev",
    "socket,id=monitor,path=monitor,server=on,wait=off",
    "-mon",
    "chardev=monitor,mode=control",
    "-chardev",
    "socket,id=plug,path=monitor",
    "-serial",
    "chardev:plug",
];

const NONE: Topology = Topology {
    name: "plain",
    shows: "a machine with a disk and nothing else",
    cpu: "max",
    iommu: false,
    devices: &[],
    drives: &[],
    others: &[],
    modules: &[],
};

const DRIVES: Topology =
    Topology { drives: &[sound("provider"), sound("reader"), FILES], modules: &["nvme"], ..NONE };

const SWITCH: &[&str] = &[
    "pcie-root-port,id=root,chassis=1,slot=1",
    "x3130-upstream,id=up,bus=root",
    "xio3130-downstream,id=left,bus=up,chassis=2,slot=0",
    "xio3130-downstream,id=right,bus=up,chassis=3,slot=1",
    "xio3130-downstream,id=third,bus=up,chassis=4,slot=2",
    "nvme,serial=provider,drive=provider,cmb_size_mb=128,bus=left",
    "nvme,serial=reader,drive=reader,bus=right",
    "nvme,serial=files,drive=files,bus=third",
];

const SWITCH_AND_MORE: &[&str] = &[
    SWITCH[0],
    SWITCH[1],
    SWITCH[2],
    SWITCH[3],
    SWITCH[4],
    SWITCH[5],
    SWITCH[6],
    SWITCH[7],
    "xio3130-downstream,id=fourth,bus=up,chassis=5,slot=3",
    "nvme,serial=flaky,drive=flaky,bus=fourth",
    "xio3130-downstream,id=fifth,bus=up,chassis=6,slot=4",
    "nvme,id=victim,serial=victim,drive=victim,bus=fifth",
    // A drive and a drive with peer memory, to be pulled out.
    "xio3130-downstream,id=sixth,bus=up,chassis=7,slot=5",
    "nvme,serial=pulled,drive=pulled,bus=sixth",
    "xio3130-downstream,id=seventh,bus=up,chassis=8,slot=6",
    "nvme,serial=lost,drive=lost,cmb_size_mb=64,bus=seventh",
    "xio3130-downstream,id=eighth,bus=up,chassis=9,slot=7",
    "nvme,serial=flaky-too,drive=flaky-too,bus=eighth",
];

const APART: &[&str] = &[
    "pcie-root-port,id=left,chassis=1,slot=1",
    "pcie-root-port,id=right,chassis=2,slot=2",
    "pcie-root-port,id=third,chassis=3,slot=3",
    "nvme,serial=provider,drive=provider,cmb_size_mb=128,bus=left",
    "nvme,serial=reader,drive=reader,bus=right",
    "nvme,serial=files,drive=files,bus=third",
];

/// Every machine, by name.
pub const TOPOLOGIES: &[Topology] = &[
    NONE,
    Topology {
        name: "switch",
        shows: "drives under one PCIe switch, one with peer memory, some to be taken away: peer-to-peer by bus address",
        devices: SWITCH_AND_MORE,
        drives: &[
            sound("provider"),
            sound("reader"),
            FILES,
            of_medium("flaky", Medium::FailingTwice),
            of_medium("flaky-too", Medium::FailingTwice),
            of_medium("victim", Medium::Slow),
            of_medium("pulled", Medium::Slow),
            sound("lost"),
        ],
        others: MONITOR,
        ..DRIVES
    },
    Topology {
        name: "apart",
        shows: "the same drives under two root ports that the kernel does not trust: refused",
        devices: APART,
        ..DRIVES
    },
    Topology {
        name: "zen",
        shows: "the same on a processor whose host bridge the kernel trusts: through the bridge",
        cpu: "EPYC",
        devices: APART,
        ..DRIVES
    },
    Topology {
        name: "zen-iommu",
        shows: "the same with an IOMMU: the peer memory gets an IOVA",
        cpu: "EPYC",
        iommu: true,
        devices: APART,
        ..DRIVES
    },
    Topology {
        name: "liar",
        shows: "an IOMMU and a switch that forwards nothing: success is reported, nothing arrives",
        cpu: "EPYC",
        iommu: true,
        devices: SWITCH,
        ..DRIVES
    },
    Topology {
        name: "redirect",
        shows: "an IOMMU, and two drives as functions of one device below a port that redirects: refused",
        iommu: true,
        devices: &[
            "pcie-root-port,id=root,chassis=1,slot=1",
            "nvme,serial=provider,drive=provider,cmb_size_mb=64,bus=root,addr=0.0,multifunction=on",
            "nvme,serial=reader,drive=reader,bus=root,addr=0.1",
        ],
        drives: &[sound("provider"), sound("reader")],
        ..DRIVES
    },
    Topology {
        name: "vfio",
        shows: "drives (sound, failing, slow with peer memory) and a device with memory in a BAR, for vfio-pci, each under its own root port, some to be taken away",
        cpu: "EPYC",
        iommu: true,
        devices: &[
            "pcie-root-port,id=left,chassis=1,slot=1",
            "pcie-root-port,id=right,chassis=2,slot=2",
            "pcie-root-port,id=third,chassis=3,slot=3",
            "pcie-root-port,id=fourth,chassis=4,slot=4",
            "pcie-root-port,id=fifth,chassis=5,slot=5",
            "ivshmem-plain,memdev=vram,bus=left",
            // It reads up to 4 MiB at a time: lists of PRPs of more than a page.
            "nvme,serial=reader,drive=reader,mdts=10,bus=right",
            "nvme,serial=failing,drive=failing,bus=third",
            "nvme,serial=slow,drive=slow,logical_block_size=4096,physical_block_size=4096,\
             cmb_size_mb=64,bus=fourth",
            "nvme,serial=files,drive=files,mdts=10,bus=fifth",
            // Two drives and a card to be taken away.
            "pcie-root-port,id=sixth,chassis=6,slot=6",
            "pcie-root-port,id=seventh,chassis=7,slot=7",
            "pcie-root-port,id=eighth,chassis=8,slot=8",
            "nvme,id=victim,serial=victim,drive=victim,bus=sixth",
            "nvme,serial=pulled,drive=pulled,bus=seventh",
            "ivshmem-plain,memdev=lost,bus=eighth",
        ],
        drives: &[
            sound("reader"),
            of_medium("failing", Medium::Failing),
            of_medium("slow", Medium::Slow),
            FILES,
            of_medium("victim", Medium::Slow),
            of_medium("pulled", Medium::Slow),
        ],
        others: &[
            "-object",
            "memory-backend-ram,id=vram,size=128M,share=on",
            "-object",
            "memory-backend-ram,id=lost,size=16M,share=on",
            MONITOR[0],
            MONITOR[1],
            MONITOR[2],
            MONITOR[3],
            MONITOR[4],
            MONITOR[5],
            MONITOR[6],
            MONITOR[7],
        ],
        modules: &["nvme", "vfio-pci", "vfio_iommu_type1"],
    },
    Topology {
        name: "faults",
        shows: "a drive that fails, a slow one, and two that the guest can unplug by QEMU's monitor",
        devices: &[
            "nvme,serial=failing,drive=failing",
            "nvme,serial=slow,drive=slow",
            "pcie-root-port,id=left,chassis=1,slot=1",
            "nvme,id=victim,serial=victim,drive=victim,bus=left",
            "pcie-root-port,id=right,chassis=2,slot=2",
            "nvme,id=victim-too,serial=victim-too,drive=victim-too,bus=right",
        ],
        drives: &[
            of_medium("failing", Medium::Failing),
            of_medium("slow", Medium::Slow),
            of_medium("victim", Medium::Slow),
            of_medium("victim-too", Medium::Slow),
        ],
        others: MONITOR,
        modules: &["nvme"],
        ..NONE
    },
    Topology {
        name: "gpu",
        shows: "virtio-gpu, bochs and vgem, udmabuf, dma-heap, Mesa's lavapipe with dma-bufs, screens that the guest sees by QEMU's monitor",
        devices: &["virtio-gpu-pci,id=virtio_gpu", "bochs-display,id=bochs-drm"],
        others: MONITOR,
        modules: &["vgem", "virtio-gpu", "bochs"],
        ..NONE
    },
    Topology {
        name: "rdma",
        shows: "RDMA in software (rxe) over a virtio network card",
        others: &["-nic", "user,model=virtio-net-pci"],
        modules: &["virtio_net", "rdma_rxe"],
        ..NONE
    },
];

/// A topology, and how its processor is emulated.
#[derive(Clone, Copy)]
pub struct Machine {
    pub topology: &'static Topology,
    /// One guest nanosecond is one guest instruction (QEMU's `-icount`), so that a cost is a count.
    pub counted: bool,
}

impl Machine {
    /// The machine of this name.
    pub fn named(name: &str, counted: bool) -> Result<Self, Error> {
        let topology = TOPOLOGIES.iter().find(|topology| topology.name == name);
        let topology = topology.ok_or_else(|| Error::Missing {
            what: format!("no machine is called {name}"),
            remedy: "see `cargo xtask vm --list`".to_owned(),
        })?;
        Ok(Self { topology, counted })
    }

    pub fn all() -> impl Iterator<Item = Self> {
        let both = |topology| [false, true].map(|counted| Self { topology, counted });
        TOPOLOGIES.iter().flat_map(both)
    }

    pub fn name(self) -> String {
        format!("{}{}", self.topology.name, if self.counted { "-counted" } else { "" })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_unique_and_drives_are_named_by_devices() {
        for (i, topology) in TOPOLOGIES.iter().enumerate() {
            assert!(TOPOLOGIES[..i].iter().all(|other| other.name != topology.name));
            for drive in topology.drives {
                let named = format!("drive={}", drive.name);
                assert!(
                    topology.devices.iter().any(|device| device.split(',').any(|p| p == named)),
                    "{}: {}",
                    topology.name,
                    drive.name
                );
            }
        }
    }
}
