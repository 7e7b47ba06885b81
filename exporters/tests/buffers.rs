//! System memory, dma-bufs, udmabuf and dma-heaps, on the kernel that runs here.

mod common;
#[path = "common/small_udmabufs.rs"]
mod small_udmabufs;

use std::fs::File;
use std::os::fd::{AsFd, OwnedFd};
use std::process::ExitCode;
use std::sync::Arc;

use common::{Outcome, Stop, check, need, noise, open_fds, run, trial};
use exporters::dma_heap::{DmaHeapError, heaps};
use exporters::udmabuf::UdmabufError;
use exporters::{DmaBuf, DmaBufError, DmaHeap, Exporter, Intent, Provider, SystemMemory, Udmabuf};
use iomap::{Access, Memory, PageSize};
use small_udmabufs::SmallUdmabufs;

fn main() -> ExitCode {
    run(vec![
        trial("other_files_are_no_dma_bufs", other_files_are_no_dma_bufs),
        trial("absent_devices_come_with_a_remedy", absent_devices_come_with_a_remedy),
        trial("system_memory_exports", system_memory_exports),
        trial("system_memory_has_phyrs", system_memory_has_phyrs),
        trial("a_missing_huge_page_is_an_error", a_missing_huge_page_is_an_error),
        trial("udmabuf_shows_the_memfd_s_bytes", udmabuf_shows_the_memfd_s_bytes),
        trial("udmabuf_splits_at_its_limit", udmabuf_splits_at_its_limit),
        trial("udmabuf_gathers_parts_in_order", udmabuf_gathers_parts_in_order),
        trial("udmabuf_refuses_what_it_cannot_take", udmabuf_refuses_what_it_cannot_take),
        trial("udmabuf_keeps_pages_past_their_memory", udmabuf_keeps_pages_past_their_memory),
        trial("dma_heap_gives_zeroed_buffers", dma_heap_gives_zeroed_buffers),
        trial("dma_heap_refuses_clearly", dma_heap_refuses_clearly),
        trial("brackets_open_and_close", brackets_open_and_close),
        trial("dma_bufs_are_named", dma_bufs_are_named),
        trial("sync_files_go_out_and_in", sync_files_go_out_and_in),
        trial("no_descriptor_leaks", no_descriptor_leaks),
    ])
}

/// A dma-buf from whichever source this kernel has.
fn any_dma_buf(len: usize) -> Result<DmaBuf, Stop> {
    if let Ok(udmabuf) = Udmabuf::open() {
        let memory = Memory::memfd("test", len, PageSize::Base)?;
        return Ok(udmabuf.create(&memory, 0..memory.len())?);
    }
    Ok(need(DmaHeap::open("system"))?.allocate(len)?)
}

fn other_files_are_no_dma_bufs() -> Outcome {
    let before = open_fds();
    let memory = Memory::memfd("test", 4096, PageSize::Base)?;
    let memfd = memory.fd().ok_or("a memfd has a descriptor")?.try_clone_to_owned()?;
    let null = OwnedFd::from(File::open("/dev/null")?);
    for (fd, is) in [(memfd, "memfd:test"), (null, "/dev/null")] {
        match DmaBuf::new(fd) {
            Err(e @ DmaBufError::NotADmaBuf { .. }) => {
                check(e.to_string().contains(is), format!("{e} does not name {is}"))?;
            }
            other => return Err(Stop::Failed(format!("{is}: {other:?}"))),
        }
    }
    drop(memory);
    check(open_fds() == before, "a refused descriptor was not closed")
}

fn absent_devices_come_with_a_remedy() -> Outcome {
    match Udmabuf::open() {
        Ok(_) => {}
        Err(UdmabufError::Unavailable(absent)) => {
            check(absent.why.contains("/dev/udmabuf") && !absent.fix.is_empty(), &absent)?;
        }
        Err(e) => return Err(e.into()),
    }
    // A name that is no name is refused as such, before any file is opened.
    for (name, why) in [
        ("no-such-heap", "cannot be opened"),
        ("../null", "no name of a heap"),
        ("..", "no name of a heap"),
        ("", "no name of a heap"),
    ] {
        match DmaHeap::open(name) {
            Err(DmaHeapError::Unavailable(absent)) => {
                check(absent.why.contains(why) && !absent.fix.is_empty(), &absent)?;
            }
            other => return Err(Stop::Failed(format!("heap {name:?}: {other:?}"))),
        }
    }
    Ok(())
}

fn system_memory_exports() -> Outcome {
    let export = SystemMemory::default().export(5000)?;
    check(export.len() == 8192, format!("5000 bytes became {}", export.len()))?;
    check(*export.provider() == Provider::System, export.provider())?;
    let bytes = noise(8192, 1);
    let cpu = export.cpu()?;
    let access = cpu.begin(Intent::Write)?;
    access.map().copy_from_slice(0, &bytes)?;
    access.finish()?;
    let access = cpu.begin(Intent::Read)?;
    let mut back = vec![0; 8192];
    access.map().copy_to_slice(0, &mut back)?;
    check(back == bytes, "the bytes came back changed")?;
    check(access.map().access() == Access::ReadOnly, "reading let itself be written")?;
    match export.dma_buf() {
        Err(absent) => check(absent.fix.contains("udmabuf"), absent),
        Ok(_) => Err(Stop::Failed("plain memory became a dma-buf".into())),
    }
}

fn system_memory_has_phyrs() -> Outcome {
    let export = SystemMemory::default().export(1 << 20)?;
    let phyrs = need(export.phyrs())?;
    check(phyrs.list().total() == 1 << 20, format!("{:?}", phyrs.list()))
}

fn a_missing_huge_page_is_an_error() -> Outcome {
    match SystemMemory::new(PageSize::Huge1G).export(1) {
        Ok(_) => Err(Stop::Absent("this machine has 1 GiB pages to spare".into())),
        Err(e) => check(e.to_string().contains("pages"), e),
    }
}

fn udmabuf_shows_the_memfd_s_bytes() -> Outcome {
    let udmabuf = need(Udmabuf::open())?;
    let memory = Arc::new(Memory::memfd("test", 1 << 20, PageSize::Base)?);
    let shared = udmabuf.share(memory.clone())?;
    let [dma_buf] = shared.dma_bufs() else {
        return Err(Stop::Failed("1 MiB took more than one dma-buf".into()));
    };
    check(dma_buf.len() == 1 << 20, dma_buf.len())?;
    check(dma_buf.exporter() == "udmabuf", dma_buf.exporter())?;

    let (first, second) = (noise(1 << 20, 2), noise(1 << 20, 3));
    memory.map().copy_from_slice(0, &first)?;
    let mapping = dma_buf.map()?;
    let access = mapping.begin_cpu_access(Intent::ReadWrite)?;
    let mut back = vec![0; 1 << 20];
    access.map().copy_to_slice(0, &mut back)?;
    check(back == first, "the dma-buf does not show what the memfd got")?;
    access.map().copy_from_slice(0, &second)?;
    access.finish()?;
    memory.map().copy_to_slice(0, &mut back)?;
    check(back == second, "the memfd does not show what the dma-buf got")
}

fn udmabuf_splits_at_its_limit() -> Outcome {
    need(Udmabuf::open())?;
    let _small = SmallUdmabufs::begin()?;
    let udmabuf = Udmabuf::open()?;
    let len = udmabuf.limit() + (3 << 20);
    let export = udmabuf.export(len)?;
    let parts = export.dma_bufs()?;
    check(parts.len() == 2, format!("{len} bytes became {} dma-bufs", parts.len()))?;
    check(parts.iter().map(DmaBuf::len).sum::<usize>() == len, "the parts are not the whole")?;
    check(export.dma_buf().is_err(), "two dma-bufs passed as one")?;
    // The CPU's view crosses the seam, and each part shows its own side.
    let access = export.cpu()?.begin(Intent::Write)?;
    access.map().copy_from_slice(udmabuf.limit() - 4, b"seamless")?;
    access.finish()?;
    let mapping = parts[1].map()?;
    let access = mapping.begin_cpu_access(Intent::Read)?;
    let mut back = [0; 4];
    access.map().copy_to_slice(0, &mut back)?;
    check(&back == b"less", format!("{back:?}"))
}

fn udmabuf_gathers_parts_in_order() -> Outcome {
    let udmabuf = need(Udmabuf::open())?;
    let page = PageSize::Base.bytes();
    let one = Memory::memfd("one", 4 * page, PageSize::Base)?;
    let two = Memory::memfd("two", 4 * page, PageSize::Base)?;
    one.map().fill(1)?;
    two.map().fill(2)?;
    let dma_buf = udmabuf.gather(&[(&two, page..3 * page), (&one, 0..page)])?;
    check(dma_buf.len() == 3 * page, dma_buf.len())?;
    let mapping = dma_buf.map()?;
    let access = mapping.begin_cpu_access(Intent::Read)?;
    let mut back = vec![0; 3 * page];
    access.map().copy_to_slice(0, &mut back)?;
    check(back == [vec![2; 2 * page], vec![1; page]].concat(), "the parts are out of order")
}

fn udmabuf_refuses_what_it_cannot_take() -> Outcome {
    need(Udmabuf::open())?;
    let _small = SmallUdmabufs::begin()?;
    let udmabuf = Udmabuf::open()?;
    let page = PageSize::Base.bytes();
    let anonymous = Memory::anonymous(page, PageSize::Base)?;
    let refused = udmabuf.create(&anonymous, 0..page);
    check(matches!(refused, Err(UdmabufError::NoMemfd { .. })), format!("{refused:?}"))?;
    let memory = Memory::memfd("test", 4 * page, PageSize::Base)?;
    for range in [0..0, 1..page, 0..page + 1, 0..5 * page, page..0] {
        let refused = udmabuf.create(&memory, range);
        check(matches!(refused, Err(UdmabufError::Range { .. })), format!("{refused:?}"))?;
    }
    let large = Memory::memfd("test", udmabuf.limit() + page, PageSize::Base)?;
    let refused = udmabuf.create(&large, 0..large.len());
    check(matches!(refused, Err(UdmabufError::TooLarge { .. })), format!("{refused:?}"))
}

fn udmabuf_keeps_pages_past_their_memory() -> Outcome {
    let udmabuf = need(Udmabuf::open())?;
    let memory = Memory::memfd("test", 1 << 16, PageSize::Base)?;
    memory.map().fill(0x5a)?;
    let dma_buf = udmabuf.create(&memory, 0..1 << 16)?;
    let mapping = dma_buf.map()?;
    drop((memory, dma_buf));
    let access = mapping.begin_cpu_access(Intent::Read)?;
    let mut back = vec![0; 1 << 16];
    access.map().copy_to_slice(0, &mut back)?;
    check(back.iter().all(|&byte| byte == 0x5a), "the pages went with their memory")
}

fn dma_heap_gives_zeroed_buffers() -> Outcome {
    let names = need(heaps())?;
    check(names.iter().any(|name| name == "system"), format!("{names:?}"))?;
    let heap = need(DmaHeap::open("system"))?;
    let export = heap.export(10_000)?;
    check(export.len() == 12_288, export.len())?;
    check(*export.provider() == Provider::DmaHeap("system".into()), export.provider())?;
    check(export.phyrs().is_err(), "a heap's addresses are the kernel's secret")?;
    let mut back = vec![1; 12_288];
    let access = export.cpu()?.begin(Intent::ReadWrite)?;
    access.map().copy_to_slice(0, &mut back)?;
    check(back.iter().all(|&byte| byte == 0), "the heap gave old bytes")?;
    access.map().copy_from_slice(1, b"heap")?;
    access.finish()?;
    let mapping = export.dma_buf()?.map()?;
    let access = mapping.begin_cpu_access(Intent::Read)?;
    access.map().copy_to_slice(0, &mut back)?;
    check(&back[..6] == b"\0heap\0", "another mapping shows other bytes")
}

fn dma_heap_refuses_clearly() -> Outcome {
    let heap = need(DmaHeap::open("system"))?;
    let empty = heap.allocate(0);
    check(matches!(empty, Err(DmaHeapError::Empty { .. })), format!("{empty:?}"))?;
    let huge = heap.allocate(1 << 45);
    check(matches!(huge, Err(DmaHeapError::OutOfMemory { .. })), format!("{huge:?}"))
}

fn brackets_open_and_close() -> Outcome {
    let dma_buf = any_dma_buf(8192)?;
    let mapping = dma_buf.map()?;
    check(mapping.access() == Access::ReadWrite, "the exporter maps read-only")?;
    for intent in [Intent::Read, Intent::Write, Intent::ReadWrite] {
        let access = mapping.begin_cpu_access(intent)?;
        let writes = access.map().fill(1).is_ok();
        check(writes == (intent != Intent::Read), format!("{intent:?} wrote: {writes}"))?;
        let overlapping = mapping.begin_cpu_access(Intent::Read)?;
        access.finish()?;
        drop(overlapping);
    }
    Ok(())
}

fn dma_bufs_are_named() -> Outcome {
    let dma_buf = any_dma_buf(4096)?;
    let name = "thirty-one bytes, no one byte m";
    check(name.len() == 31, name.len())?;
    dma_buf.set_name(name)?;
    check(dma_buf.name().as_deref() == Some(name), format!("{:?}", dma_buf.name()))?;
    for refused in ["thirty-two bytes, one too many!!", "a\0b"] {
        let result = dma_buf.set_name(refused);
        check(matches!(result, Err(DmaBufError::Name { .. })), format!("{result:?}"))?;
    }
    Ok(())
}

fn sync_files_go_out_and_in() -> Outcome {
    let dma_buf = any_dma_buf(4096)?;
    for intent in [Intent::Read, Intent::Write, Intent::ReadWrite] {
        let fences = match dma_buf.export_sync_file(intent) {
            Err(e @ DmaBufError::Unsupported { .. }) => return Err(Stop::Absent(e.to_string())),
            fences => fences?,
        };
        dma_buf.import_sync_file(fences.as_fd(), intent)?;
    }
    let refused = dma_buf.import_sync_file(File::open("/dev/null")?.as_fd(), Intent::Read);
    check(matches!(refused, Err(DmaBufError::Kernel { .. })), format!("{refused:?}"))
}

fn no_descriptor_leaks() -> Outcome {
    drop(any_dma_buf(4096)?);
    let before = open_fds();
    for _ in 0..1000 {
        let dma_buf = any_dma_buf(16 << 10)?;
        let mapping = dma_buf.clone().map()?;
        mapping.begin_cpu_access(Intent::Write)?.map().fill(3)?;
        let _ = dma_buf.export_sync_file(Intent::Write);
    }
    check(open_fds() == before, format!("{before} descriptors became {}", open_fds()))
}
