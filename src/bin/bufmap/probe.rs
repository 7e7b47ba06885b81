//! `bufmap probe`.

use std::fs::{self, File};
use std::io;

use bufmap::exporters::vfio::{Container, VfioError};
use bufmap::exporters::vulkan::{self, DeviceInfo};
use bufmap::exporters::{Absent, Udmabuf, dma_heap};
use bufmap::remedy::{Call, remedy};
use bufmap::storage::file::{cache, ring::Ring};
use bytesize::ByteSize;
use rustix::process::{Resource, getrlimit};
use serde_json::json;

use crate::args::ProbeArgs;
use crate::failure::Failure;
use crate::json;
use crate::output::print;
use crate::peers::Peers;
use crate::table::{Rows, line};

/// Something that loading can use, and what was found of it.
struct Finding {
    what: String,
    found: Result<String, Absent>,
}

pub fn run(args: &ProbeArgs) -> Result<(), Failure> {
    let findings = findings();
    let peers = Peers::find();
    if args.json {
        let offers: Vec<_> = findings.iter().map(as_json).collect();
        let peers = match &peers {
            Ok(peers) => json!(peers),
            Err(error) => json!({ "why": error.to_string() }),
        };
        return json::print(&json!({ "offers": offers, "peers": peers }));
    }
    let mut rows = Rows::new();
    for Finding { what, found } in &findings {
        match found {
            Ok(detail) => rows.add_row([what.as_str(), "yes", detail]),
            Err(absent) => rows.add_row([what.as_str(), "no", &absent.to_string()]),
        };
    }
    let peers = peers.map_or_else(|error| line(&error.to_string()), |peers| peers.as_text());
    print(&format!("{}\n\n{peers}", rows.text()))
}

fn as_json(finding: &Finding) -> serde_json::Value {
    match &finding.found {
        Ok(detail) => json!({ "what": finding.what, "present": true, "detail": detail }),
        Err(Absent { why, fix }) => {
            json!({ "what": finding.what, "present": false, "why": why, "fix": fix })
        }
    }
}

fn findings() -> Vec<Finding> {
    let mut findings = vulkan_devices();
    let mut add = |what: &str, found| findings.push(Finding { what: what.to_owned(), found });
    add("udmabuf", udmabuf());
    add("dma-heap", dma_heaps());
    add("VFIO type1", vfio(Container::type1()));
    add("iommufd", vfio(Container::iommufd()));
    add("io_uring", io_uring());
    add("locked memory", locked_memory());
    add("cachestat", cachestat());
    add("huge pages", huge_pages());
    add("transparent huge pages", transparent_huge_pages());
    findings
}

fn vulkan_devices() -> Vec<Finding> {
    match vulkan::devices() {
        Ok(devices) => devices.iter().flat_map(vulkan_device).collect(),
        Err(error) => {
            let absent = Absent::new(
                error.to_string(),
                "without it, load --to memory; Mesa's mesa-vulkan-drivers has a software driver",
            );
            vec![Finding { what: "Vulkan".into(), found: Err(absent) }]
        }
    }
}

fn vulkan_device(info: &DeviceInfo) -> Vec<Finding> {
    let memory = match info.shares_system_memory {
        true => "shares the system's memory",
        false => "has memory of its own",
    };
    let detail = format!(
        "{} ({}, {}), Vulkan {}, {memory}, buffers to {}",
        info.name,
        info.kind,
        info.driver,
        info.api_version,
        iec(info.max_buffer as u64)
    );
    let device = Finding { what: format!("Vulkan device {}", info.index), found: Ok(detail) };
    let extensions = info.extensions.iter().map(|(name, there)| Finding {
        what: format!("  {name}"),
        found: there.clone().map(|()| match (*name, info.host_import_alignment) {
            ("VK_EXT_external_memory_host", Some(bytes)) => {
                format!("pages aligned to {}", iec(bytes as u64))
            }
            _ => String::new(),
        }),
    });
    std::iter::once(device).chain(extensions).collect()
}

fn udmabuf() -> Result<String, Absent> {
    let driver = Udmabuf::open()
        .map_err(|error| Absent::new(error.to_string(), "pages are imported by address instead"))?;
    Ok(format!("dma-bufs to {}", iec(driver.limit() as u64)))
}

fn dma_heaps() -> Result<String, Absent> {
    dma_heap::heaps()
        .map(|heaps| heaps.join(", "))
        .map_err(|error| Absent::new(error.to_string(), "memfd and udmabuf serve as well"))
}

fn vfio(container: Result<Container, VfioError>) -> Result<String, Absent> {
    match container {
        Ok(_) => Ok("memory and BARs mapped for the devices that vfio-pci has".into()),
        Err(VfioError::Unavailable(absent)) => Err(absent),
        Err(error) => Err(Absent::new(error.to_string(), "see the kernel's log (dmesg)")),
    }
}

fn io_uring() -> Result<String, Absent> {
    match Ring::new(32) {
        Ok(_) => Ok("many reads in flight on one thread".into()),
        Err(error) => Err(Absent::new(
            format!("it cannot be set up: {error}"),
            format!("{}; threads with pread stand in", remedy(Call::Ring, &error)),
        )),
    }
}

fn locked_memory() -> Result<String, Absent> {
    match getrlimit(Resource::Memlock).current {
        None => Ok("without limit".into()),
        Some(bytes) => {
            Ok(format!("{}, for buffers registered with io_uring (`ulimit -l`)", iec(bytes)))
        }
    }
}

fn cachestat() -> Result<String, Absent> {
    let asked = File::open("/proc/self/exe").and_then(|own| cache::resident(&own, 0..1));
    asked.map(|_| "the kernel tells what its page cache holds".into()).map_err(|error| {
        Absent::new(
            format!("the kernel does not tell what its page cache holds: {error}"),
            "it is there since Linux 6.5; files are read past the cache instead",
        )
    })
}

fn huge_pages() -> Result<String, Absent> {
    let reserved = number("/proc/sys/vm/nr_hugepages")
        .map_err(|error| Absent::new(error.to_string(), "this kernel has no hugetlb pages"))?;
    match reserved {
        0 => Err(Absent::new(
            "none are reserved",
            "reserve some: sysctl vm.nr_hugepages=512 (2 MiB each)",
        )),
        pages => Ok(format!("{pages} reserved")),
    }
}

fn transparent_huge_pages() -> Result<String, Absent> {
    const SHARED: &str = "/sys/kernel/mm/transparent_hugepage/shmem_enabled";
    let absent =
        |why: String| Absent::new(why, format!("allow them for memfds: echo advise > {SHARED}"));
    let setting = fs::read_to_string(SHARED).map_err(|error| absent(error.to_string()))?;
    let chosen = setting.split(['[', ']']).nth(1).unwrap_or_default();
    match chosen {
        "always" | "advise" | "within_size" | "force" => Ok(format!("memfds get them ({chosen})")),
        _ => Err(absent(format!("memfds do not get them ({chosen})"))),
    }
}

fn number(path: &str) -> io::Result<u64> {
    fs::read_to_string(path)?.trim().parse().map_err(io::Error::other)
}

fn iec(bytes: u64) -> String {
    ByteSize::b(bytes).display().iec().to_string()
}
