//! Files loaded into what drivers export: dma-heaps, dumb buffers of real graphics drivers, udmabufs.

use std::fs::{self, File};
use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::{Command, ExitCode};
use std::sync::Arc;
use std::sync::atomic::AtomicBool;

use bufmap::engine::{Buffer, Loader, LoaderOptions, Request};
use bufmap::load::Load;
use bufmap::plan::Place;
use bufmap::storage::file::SourceFile;
use bufmap::transfer::{self, Around, DataPath, Options, Receipt, Verify};
use bufmap_bench::dma_buf::bytes;
use bufmap_bench::drive::pattern;
use bufmap_bench::leaks::{Holdings, dma_bufs, hold_no_more};
use bufmap_bench::{Outcome, check};
use exporters::dmabuf::CpuAccess;
use exporters::drm::{Card, Node};
use exporters::{Destination, DmaHeap, Export, Exporter, Intent, SystemMemory, Udmabuf};
use iomap::{BufMap, PageSize};
use libtest_mimic::Failed;

/// No whole number of blocks or pages.
const LEN: usize = (3 << 20) + 77;

fn main() -> ExitCode {
    bufmap_bench::run(
        "gpu",
        &[
            ("a_file_lands_in_what_every_driver_exports", every_driver),
            ("a_loader_fills_what_every_driver_exports", by_a_loader),
            ("loads_into_a_driver_s_memory_leave_nothing_behind", cycles),
            ("the_tool_loads_into_a_driver_s_memory", by_the_tool),
        ],
    )
}

/// An exporter, and where its buffers lie.
type Known = (Box<dyn Exporter>, Place);

/// The exporters of this machine.
fn exporters() -> Result<Vec<Known>, Failed> {
    let mut all: Vec<Known> = vec![
        (Box::new(SystemMemory::new(PageSize::Base)), Place::System),
        (Box::new(Udmabuf::open()?), Place::System),
        (Box::new(DmaHeap::open("system")?), Place::Cpu),
    ];
    for driver in ["vgem", "virtio_gpu", "bochs-drm"] {
        all.push((Box::new(Card::find(driver, Node::Primary)?), Place::Cpu));
    }
    Ok(all)
}

/// A file on a real file system.
fn source() -> Result<SourceFile, Failed> {
    let path = Path::new(env!("CARGO_TARGET_TMPDIR")).join("destinations");
    let mut file = File::create(&path)?;
    file.write_all(&pattern(LEN))?;
    file.sync_all()?;
    Ok(SourceFile::open(path)?)
}

fn load(
    file: &SourceFile,
    destination: &dyn Destination,
    require: Option<DataPath>,
) -> Result<Receipt, Failed> {
    let load = Load {
        files: std::slice::from_ref(file),
        requests: &[transfer::Request::new(0, 0, LEN as u64, 0)],
        around: Around::Untouched,
        destination,
        options: Options { require, verify: Verify::Full, ..Options::default() },
        stop: &AtomicBool::new(false),
    };
    Ok(load.run(&mut |_| {})?)
}

/// What lands is seen by whoever maps the dma-buf, and the receipt says by which path it came.
fn every_driver() -> Outcome {
    let file = source()?;
    for (exporter, place) in exporters()? {
        let name = exporter.name();
        let export = exporter.export(LEN)?;
        let found = Place::of(&export)?;
        check(found == place, format!("{name}: {found:?}, {:?}", export.pages()))?;
        let past_the_cache = match place {
            Place::System => DataPath::Direct,
            _ => DataPath::Bounce,
        };
        for require in [None, Some(past_the_cache), Some(DataPath::Buffered)] {
            if let Ok(view) = export.cpu() {
                let access = view.begin(Intent::Write)?;
                access.map().fill(0)?;
                access.finish()?;
            }
            let receipt = load(&file, &export, require)?;
            println!("{name}, {require:?}: {:?}, {:?}", receipt.paths, receipt.step_downs);
            check(receipt.checked.compared == LEN as u64, "not every byte was compared")?;
            if let Ok(dma_bufs) = export.dma_bufs() {
                check(bytes(&dma_bufs[0], LEN)? == pattern(LEN), format!("{name}: other bytes"))?;
            }
            if place == Place::Cpu && require.is_none() {
                let why = receipt.step_downs.iter().find(|step| step.path == DataPath::Direct);
                check(why.is_some_and(|why| why.bytes == LEN as u64), "no reason is told")?;
            }
        }
        if place == Place::Cpu {
            let refused = load(&file, &export, Some(DataPath::Direct)).err();
            let refused = refused.ok_or("a drive was given the memory")?;
            let words = refused.message().unwrap_or_default();
            check(words.contains("take `bounce`"), words)?;
        }
    }
    Ok(())
}

/// By requests of odd lengths, all at once: pieces of one buffer, told of the CPU's accesses one after the other.
fn by_a_loader() -> Outcome {
    let file = source()?;
    let loader = Loader::with(LoaderOptions::default().block(64 << 10))?;
    let (open, all) = (loader.open(file.path())?, pattern(LEN));
    for (exporter, place) in exporters()? {
        let name = exporter.name();
        let export = Arc::new(exporter.export(LEN)?);
        let buffer = Buffer::new(Arc::clone(&export) as Arc<dyn Destination>)?;
        let past_the_cache = match place {
            Place::System => DataPath::Direct,
            _ => DataPath::Bounce,
        };
        for require in [past_the_cache, DataPath::Buffered] {
            let access = export.access(Intent::Write)?;
            map_of(&export)?.fill(0)?;
            access.map_or(Ok(()), CpuAccess::finish)?;
            let mut tickets = Vec::new();
            for at in (0..LEN).step_by(300_000) {
                let range = at as u64..LEN.min(at + 300_000) as u64;
                let request = Request::new(&open, range, &buffer, at as u64).fingerprints();
                tickets.push((at, loader.submit(request.require(require))?));
            }
            for (at, ticket) in tickets {
                let landed = ticket.wait()?;
                let expected = crc32fast::hash(&all[at..LEN.min(at + 300_000)]);
                check(landed.fingerprints == [expected], format!("{name}: another fingerprint"))?;
                check(landed.paths.of(require) == landed.bytes, format!("{name}: {landed:?}"))?;
            }
            if let Ok(dma_bufs) = export.dma_bufs() {
                check(bytes(&dma_bufs[0], LEN)? == all, format!("{name}: other bytes"))?;
            }
        }
        println!("{name}: {:?}", loader.counts().landed);
    }
    Ok(())
}

fn map_of(export: &Export) -> Result<BufMap<'_>, Failed> {
    Ok(export.cpu_map().map_err(|absent| absent.to_string())?)
}

fn cycles() -> Outcome {
    let file = source()?;
    let held = || Ok((Holdings::now()?, dma_bufs()?));
    for (exporter, _) in exporters()? {
        hold_no_more(held, 10..60, |_| load(&file, &exporter.export(LEN)?, None).map(drop))?;
    }
    Ok(())
}

fn by_the_tool() -> Outcome {
    let tool = PathBuf::from(std::env::var("BUFMAP_TOOL")?);
    let file = source()?;
    for (to, provider) in [
        ("dma-heap", "dma-heap system"),
        ("dumb:bochs-drm", "DRM driver bochs-drm"),
        ("dumb:virtio_gpu", "DRM driver virtio_gpu"),
        ("udmabuf", "system memory"),
    ] {
        for (command, more) in [("load", &["--verify", "full"][..]), ("explain", &[])] {
            let output = Command::new(&tool)
                .arg(command)
                .arg(file.path())
                .args(["--to", to])
                .args(more)
                .output()?;
            let (said, complained) =
                (String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
            println!("{said}{complained}");
            check(output.status.success(), format!("{command} --to {to}: {complained}"))?;
            check(command == "explain" || said.contains(provider), format!("no {provider}"))?;
        }
    }
    fs::remove_file(file.path())?;
    let output =
        Command::new(&tool).args(["load", "/etc/hostname", "--to", "dumb:nouveau"]).output()?;
    let words = String::from_utf8_lossy(&output.stderr);
    check(output.status.code() == Some(1) && words.contains("modprobe nouveau"), words)
}
