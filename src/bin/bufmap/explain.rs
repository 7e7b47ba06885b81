//! `bufmap explain`.

use std::path::PathBuf;

use bufmap::exporters::outside::outside;
use bufmap::exporters::vulkan::{self, DeviceInfo};
use bufmap::format::Format;
use bufmap::format::{Drive, ExtentMap, Manifest};
use bufmap::iomap::PageSize;
use bufmap::pci::Address;
use bufmap::plan::{Explain, Explanation, Place};
use bufmap::storage::stack::Stack;
use bufmap::transfer::{Around, LeftOut, Options};
use bytesize::ByteSize;
use serde_json::json;

use crate::args::{ExplainArgs, To};
use crate::caveats::{add_left_out, add_notes};
use crate::exporter::exporter;
use crate::failure::Failure;
use crate::json;
use crate::output::print;
use crate::table::Rows;

pub fn run(args: &ExplainArgs) -> Result<(), Failure> {
    if let Some(map) = args.files.iter().find(|file| ExtentMap::is_named(file)) {
        let [map] = &args.files[..] else {
            let map = outside(map);
            return Err(Failure::Error(format!("{map}: ask about a map of extents by itself")));
        };
        return of_map(args, &ExtentMap::read(map)?);
    }
    let manifest = Manifest::open(&args.files, &args.selection.selection())?;
    let (place, provider) = place(args)?;
    let explanation = Explain {
        files: manifest.files(),
        requests: manifest.requests(),
        around: Around::Scratch,
        place,
        provider,
        buffer_len: manifest.buffer_len(),
        options: &Options::default(),
    }
    .answer()?;
    let files = manifest.files().iter().zip(manifest.formats());
    let files = files.zip(manifest.notes()).map(|((file, format), note)| Lying {
        path: file.path().to_owned(),
        format: *format,
        note: note.clone(),
        lies_on: Stack::below(file).to_string(),
    });
    report(args, &files.collect::<Vec<_>>(), manifest.left_out(), &explanation)
}

/// Of files on a drive that the kernel does not have.
fn of_map(args: &ExplainArgs, map: &ExtentMap) -> Result<(), Failure> {
    let taken = match args.to {
        To::Vfio(function, _) => vec![function],
        _ => Vec::new(),
    };
    let explanation = map.explain(&args.selection.items, place(args)?, &taken)?;
    let Drive { address, serial, namespace } = &map.drive;
    let lies_on = format!(
        "namespace {namespace} of drive {} ({}), by its extents",
        outside(serial),
        outside(address)
    );
    let files = map.files.iter().map(|file| Lying {
        path: file.path.clone(),
        format: file.format,
        note: file.note.clone(),
        lies_on: lies_on.clone(),
    });
    let left_out = map.left_out_of(&args.selection.items);
    report(args, &files.collect::<Vec<_>>(), left_out, &explanation)
}

/// A file and what it lies on, in words.
struct Lying {
    path: PathBuf,
    format: Format,
    note: Option<String>,
    lies_on: String,
}

/// Where the buffer would lie, and whose memory it would be.
fn place(args: &ExplainArgs) -> Result<(Place, Option<Address>), Failure> {
    Ok(match &args.to {
        To::Memory => (Place::System, None),
        To::Vulkan => match vulkan_device(args.device.as_deref())?.shares_system_memory {
            true => (Place::System, None),
            false => (Place::Gpu, None),
        },
        To::Vram => {
            let device = vulkan_device(args.device.as_deref())?;
            match device.shares_system_memory {
                true => (Place::System, None),
                false => (Place::Bar, device.pci_address.as_deref().map(str::parse).transpose()?),
            }
        }
        // How its driver maps a buffer is seen of any.
        To::Exported(source) => (Place::of(&exporter(source, PageSize::Base)?.export(1)?)?, None),
        To::P2pmem(function) => (Place::Peer, Some(*function)),
        To::Vfio(function, _) => (Place::Bar, Some(*function)),
    })
}

/// The Vulkan device that a load would open. Here none is opened, and nothing is imported.
fn vulkan_device(selector: Option<&str>) -> Result<DeviceInfo, Failure> {
    let devices = vulkan::devices()?;
    let chosen = |device: &&DeviceInfo| match selector {
        None => true,
        Some(text) => device.index.to_string() == text || device.name.contains(text),
    };
    devices.iter().find(chosen).cloned().ok_or_else(|| {
        Failure::Error("no Vulkan device is called that; bufmap probe lists them".into())
    })
}

fn report(
    args: &ExplainArgs,
    files: &[Lying],
    left_out: &[LeftOut],
    explanation: &Explanation,
) -> Result<(), Failure> {
    match args.json {
        true => json::print(&as_json(files, left_out, explanation)),
        false => print(&as_text(files, left_out, explanation)),
    }
}

fn as_json(files: &[Lying], left_out: &[LeftOut], explanation: &Explanation) -> serde_json::Value {
    let files = files.iter().map(|file| {
        json!({ "path": json::path(&file.path), "note": file.note, "lies_on": file.lies_on })
    });
    let mut report = json!(explanation);
    report["files"] = json!(files.collect::<Vec<_>>());
    report["left_out"] = json!(left_out);
    report
}

fn as_text(files: &[Lying], left_out: &[LeftOut], explanation: &Explanation) -> String {
    let mut facts = Rows::new();
    for Lying { path, format, note, lies_on } in files {
        facts.add_row(["file", &format!("{} ({format})", outside(path))]);
        add_notes(&mut facts, &[path], std::slice::from_ref(note));
        facts.add_row(["lies on", lies_on]);
    }
    let paths: Vec<_> = files.iter().map(|file| file.path.as_path()).collect();
    add_left_out(&mut facts, &paths, left_out);
    if explanation.paths.is_empty() {
        facts.add_row(["path", "none: there is nothing to load"]);
    }
    for share in &explanation.paths {
        facts.add_row(["path", &format!("{}: {}", share.path, size(share.bytes))]);
    }
    for step in &explanation.step_downs {
        let why = format!("{} for {}: {}", step.path, size(step.bytes), step.why);
        facts.add_row(["why not", &why]);
    }
    for proof in &explanation.proofs {
        let what = if proof.arrives { "arrives" } else { "does not arrive" };
        let words = format!(
            "what {} writes into the memory of {} {what}, by an earlier load",
            proof.drive, proof.provider
        );
        facts.add_row(["proof", &words]);
    }
    for need in &explanation.needs {
        facts.add_row(["not yet", need]);
    }
    let is_forecast = explanation.proofs.is_empty()
        && explanation.paths.iter().any(|share| share.path == bufmap::transfer::DataPath::Peer);
    if is_forecast {
        let words = "none so far: a load moves some bytes first, and looks whether they arrive";
        facts.add_row(["proof", words]);
    }
    facts.text()
}

fn size(bytes: u64) -> String {
    ByteSize::b(bytes).display().iec().to_string()
}
