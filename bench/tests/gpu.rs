//! Render nodes, udmabuf, dma-heaps, and a Vulkan driver that imports dma-bufs.

use std::fs::File;
use std::io::Write;
use std::path::Path;
use std::process::{Command, ExitCode};
use std::sync::Arc;
use std::sync::atomic::AtomicBool;

use bufmap::format::{Manifest, Selection};
use bufmap::load::{Load, Target};
use bufmap::storage::file::{SourceFile, pread};
use bufmap::transfer::{DataPath, Options, Verify};
use bufmap_bench::dma_buf::bytes;
use bufmap_bench::drive::pattern;
use bufmap_bench::{Outcome, check};
use exporters::vulkan::{Device, Way};
use exporters::{DmaBuf, DmaHeap, Intent, Udmabuf};
use iomap::{Memory, PageSize, PagemapError, pagemap};
use libtest_mimic::Failed;

const LEN: usize = 1 << 20;

fn main() -> ExitCode {
    bufmap_bench::run(
        "gpu",
        &[
            ("the_nodes_are_there", nodes_are_there),
            ("a_memfd_under_a_udmabuf_takes_direct_reads", memfd_takes_direct_reads),
            ("a_mapping_of_a_udmabuf_takes_none", || takes_no_direct_reads(&udmabuf()?)),
            ("a_mapping_of_a_heap_s_buffer_takes_none", || {
                takes_no_direct_reads(&DmaHeap::open("system")?.allocate(LEN)?)
            }),
            ("a_load_lands_in_a_udmabuf_that_vulkan_imports", load_lands_in_a_udmabuf),
            ("the_tool_tells_a_buffer_s_ranges_or_why_it_cannot", ranges_or_reasons),
        ],
    )
}

fn nodes_are_there() -> Outcome {
    let count = |prefix: &str| -> Result<usize, Failed> {
        let entries = std::fs::read_dir("/dev/dri")?.flatten();
        let names = entries.filter_map(|entry| entry.file_name().into_string().ok());
        Ok(names.filter(|name| name.starts_with(prefix)).count())
    };
    let (cards, renderers) = (count("card")?, count("renderD")?);
    check((cards, renderers) == (3, 2), format!("{cards} cards, {renderers} renderers"))?;
    for node in ["/dev/udmabuf", "/dev/dma_heap/system"] {
        check(Path::new(node).exists(), node)?;
    }
    Ok(())
}

/// A file on a real file system, with a known pattern.
fn source() -> Result<SourceFile, Failed> {
    let path = Path::new(env!("CARGO_TARGET_TMPDIR")).join("pattern");
    let mut file = File::create(&path)?;
    file.write_all(&pattern(LEN))?;
    file.sync_all()?;
    Ok(SourceFile::open(path)?)
}

fn udmabuf() -> Result<DmaBuf, Failed> {
    let memory = Arc::new(Memory::memfd("test", LEN, PageSize::Base)?);
    let shared = Udmabuf::open()?.share(memory)?;
    shared.dma_bufs().first().cloned().ok_or_else(|| "no dma-buf".into())
}

fn memfd_takes_direct_reads() -> Outcome {
    let source = source()?;
    let memory = Arc::new(Memory::memfd("test", LEN, PageSize::Base)?);
    let shared = Udmabuf::open()?.share(Arc::clone(&memory))?;
    let direct = source.open_direct()?;
    let answer = pread::read_at(&*direct, 0, &memory.map());
    check(matches!(answer, Ok(LEN)), format!("{answer:?}"))?;

    check(
        bytes(&shared.dma_bufs()[0], LEN)? == pattern(LEN),
        "the udmabuf shows other bytes than the memfd was given",
    )
}

fn takes_no_direct_reads(dma_buf: &DmaBuf) -> Outcome {
    let source = source()?;
    let mapping = dma_buf.map()?;
    let access = mapping.begin_cpu_access(Intent::ReadWrite)?;
    access.map().fill(1)?;
    let told = pagemap::peer_phyrs(access.map());
    check(matches!(told, Err(PagemapError::Absent { offset: 0 })), format!("{told:?}"))?;
    let direct = source.open_direct()?;
    let answer = pread::read_at(&*direct, 0, &access.map());
    let refused = answer.as_ref().is_err_and(|e| e.raw_os_error() == Some(libc::EFAULT));
    check(refused, format!("{answer:?}"))
}

fn load_lands_in_a_udmabuf() -> Outcome {
    let path = source()?.path().to_owned();
    let manifest = Manifest::open(&[path], &Selection::default())?;
    let device = Device::open(None)?;
    let (target, _) = Target::vulkan(&device, manifest.buffer_len(), Some(DataPath::Direct))?;
    let Target::Imported(buffer) = &target else { return Err("not imported".into()) };
    check(*buffer.way() == Way::Udmabuf, buffer.way())?;
    let receipt = Load {
        files: manifest.files(),
        requests: manifest.requests(),
        around: bufmap::transfer::Around::Scratch,
        destination: target.destination(),
        options: Options {
            require: Some(DataPath::Direct),
            verify: Verify::Full,
            ..Options::default()
        },
        stop: &AtomicBool::new(false),
    }
    .run(&mut |_| {})?;
    check(receipt.checked.compared == LEN as u64, "not every byte was compared")?;
    check(receipt.cpu_copied == 0, format!("the CPU copied {} bytes", receipt.cpu_copied))
}

/// `bufmap phyrs` of every source of this machine: the ranges of what is pages, and of what a driver keeps
/// to itself the reason.
fn ranges_or_reasons() -> Outcome {
    let told = |of: &str| -> Result<(Option<i32>, String, serde_json::Value), Failed> {
        let tool = std::env::var("BUFMAP_TOOL")?;
        let size = LEN.to_string();
        let output =
            Command::new(tool).args(["phyrs", "--of", of, "--size", &size, "--json"]).output()?;
        let said = String::from_utf8_lossy(&output.stderr).into_owned();
        Ok((output.status.code(), said, serde_json::from_slice(&output.stdout)?))
    };
    for of in ["memory", "vulkan"] {
        let (status, said, report) = told(of)?;
        check(status == Some(0), format!("{of}: {said}"))?;
        let ranges = report["ranges"].as_array().ok_or("no ranges")?;
        let total: u64 = ranges.iter().filter_map(|range| range["len"].as_u64()).sum();
        check(total == LEN as u64, format!("{of}: {report}"))?;
        let in_memory = |range: &serde_json::Value| {
            range["place"] == "system memory" && range["as_claimed"] == true
        };
        check(ranges.iter().all(in_memory), format!("{of}: {report}"))?;
    }
    for of in ["dma-heap", "dma-heap:system", "dumb:bochs-drm", "dumb:vgem", "dumb:virtio_gpu"] {
        let (status, said, report) = told(of)?;
        let text = |key: &str| report[key].as_str().unwrap_or_default().to_owned();
        let reason = text("why");
        check(status == Some(1) && said.contains(&reason), format!("{of}: {said}"))?;
        check(report["ranges"].is_null() && report["len"] == LEN, format!("{of}: {report}"))?;
        check(reason.contains("to itself") && !text("fix").is_empty(), format!("{of}: {report}"))?;
    }
    Ok(())
}
