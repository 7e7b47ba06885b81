//! `bufmap explain`.

use bufmap::exporters::vulkan::{self, DeviceInfo};
use bufmap::load::{Around, Explain, Explanation, ExtentMap, Manifest, Options, Place};
use bufmap::storage::stack::Stack;
use bytesize::ByteSize;
use serde_json::json;

use crate::args::{ExplainArgs, To};
use crate::table::table;
use crate::{Failure, print};

pub fn run(args: &ExplainArgs) -> Result<(), Failure> {
    if let Some(map) = args.files.iter().find(|file| ExtentMap::is_named(file)) {
        return Err(Failure::Error(format!(
            "{}: is a map of extents; explain answers for files that the kernel has, and for this \
             bufmap load says which road it takes",
            map.display()
        )));
    }
    let manifest = Manifest::open(&args.files, args.format, &args.items)?;
    let (place, provider) = match &args.to {
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
        To::P2pmem(function) => (Place::Peer, Some(*function)),
        To::Vfio(function, _) => (Place::Bar, Some(*function)),
    };
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
    let stacks = stacks(&manifest);
    match args.json {
        true => print(&format!("{:#}", as_json(&manifest, &stacks, &explanation))),
        false => print(&as_text(&manifest, &stacks, &explanation)),
    }
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

/// What lies below each file, in words.
fn stacks(manifest: &Manifest) -> Vec<String> {
    manifest.files().iter().map(|file| Stack::below(file).to_string()).collect()
}

fn as_json(manifest: &Manifest, stacks: &[String], explanation: &Explanation) -> serde_json::Value {
    let files = manifest.files().iter().zip(stacks).map(
        |(file, stack)| json!({ "path": file.path().display().to_string(), "lies_on": stack }),
    );
    let mut report = json!(explanation);
    report["files"] = json!(files.collect::<Vec<_>>());
    report
}

fn as_text(manifest: &Manifest, stacks: &[String], explanation: &Explanation) -> String {
    let mut facts = table();
    for ((file, format), stack) in manifest.files().iter().zip(manifest.formats()).zip(stacks) {
        facts.add_row(["file", &format!("{} ({format})", file.path().display())]);
        facts.add_row(["lies on", stack]);
    }
    for share in &explanation.roads {
        facts.add_row(["road", &format!("{}: {}", share.road, size(share.bytes))]);
    }
    for step in &explanation.step_downs {
        let why = format!("{} for {}: {}", step.road, size(step.bytes), step.why);
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
    let is_forecast = explanation.proofs.is_empty()
        && explanation.roads.iter().any(|share| share.road == bufmap::load::Road::Peer);
    if is_forecast {
        let words = "none so far: a load moves some bytes first, and looks whether they arrive";
        facts.add_row(["proof", words]);
    }
    facts.trim_fmt()
}

fn size(bytes: u64) -> String {
    ByteSize::b(bytes).display().iec().to_string()
}
