//! `bufmap load`.

use std::sync::Arc;

use bufmap::exporters::outside::outside;
use bufmap::exporters::vfio::Container;
use bufmap::format::{ExtentMap, ExtentMapError, Manifest};
use bufmap::load::{Load, Target};
use bufmap::storage::nvme::{Controller, ControllerOptions, DriveFile, NvmeError};
use bufmap::transfer::{
    Around, Check, CheckShare, Checked, Options, Progress, Receipt, Source, StepDown,
    TransferError, Verify,
};
use serde_json::json;

use crate::account::{self, add_account};
use crate::args::LoadArgs;
use crate::buffer::Wanted;
use crate::caveats::{add_left_out, add_notes};
use crate::failure::Failure;
use crate::interrupt::Interrupts;
use crate::json;
use crate::output::print;
use crate::progress;
use crate::table::{Rows, size};

pub fn run(args: &LoadArgs) -> Result<(), Failure> {
    let interrupts = Interrupts::take();
    if let Some(map) = args.files.iter().find(|file| ExtentMap::is_named(file)) {
        let [map] = &args.files[..] else {
            let map = outside(map);
            return Err(Failure::Error(format!("{map}: load a map of extents by itself")));
        };
        let map = ExtentMap::read(map)?;
        let container = Arc::new(Container::new()?);
        interrupts.begin("read", vec![map.drive.address.clone()]);
        let manifest = on_its_drive(&map, args, &container, &interrupts);
        interrupts.end();
        let manifest = manifest.map_err(|error| match error {
            ExtentMapError::Transfer(TransferError::Nvme(NvmeError::Interrupted { .. })) => {
                Failure::Stopped(error.to_string())
            }
            error => error.into(),
        })?;
        let target = target(args, manifest.buffer_len(), Some(&container))?;
        return report(args, &manifest, target, &interrupts, |load, progress| load.run(progress));
    }
    let manifest = Manifest::open(&args.files, &args.selection.selection())?;
    let target = target(args, manifest.buffer_len(), None)?;
    report(args, &manifest, target, &interrupts, |load, progress| load.run(progress))
}

/// Opens the drive of a map, and what the map has on it.
fn on_its_drive(
    map: &ExtentMap,
    args: &LoadArgs,
    container: &Arc<Container>,
    interrupts: &Interrupts,
) -> Result<Manifest<DriveFile>, ExtentMapError> {
    let device = container.open(&map.drive.address).map_err(TransferError::from)?;
    let stop = Arc::clone(interrupts.stop());
    let options = ControllerOptions { stop, ..ControllerOptions::default() };
    let controller = Controller::open_with(device, options).map_err(TransferError::from)?;
    map.manifest(&controller, &args.selection.items)
}

/// Loads and reports.
fn report<S: Source>(
    args: &LoadArgs,
    manifest: &Manifest<S>,
    (target, step_down): (Target, Option<StepDown>),
    interrupts: &Interrupts,
    run: impl FnOnce(&Load<'_, S>, &mut dyn FnMut(Progress)) -> Result<Receipt, TransferError>,
) -> Result<(), Failure> {
    let load = Load {
        files: manifest.files(),
        requests: manifest.requests(),
        around: Around::Scratch,
        destination: target.destination(),
        options: Options {
            require: args.require,
            verify: args.verify.into(),
            depth: args.depth,
            block: args.block,
            ..Options::default()
        },
        stop: interrupts.stop(),
    };
    let files = load.files.iter().map(|file| outside(file.path()).to_string()).collect();
    let loaded =
        progress::of_transfer(interrupts, ("read", files), |progress| run(&load, progress));
    let mut receipt = match loaded {
        Ok(receipt) => manifest.complete(receipt),
        Err(TransferError::Stopped { valid }) => {
            return Err(Failure::Stopped(format!("stopped; {valid}")));
        }
        Err(error) => return Err(error.into()),
    };
    receipt.step_downs.extend(step_down);
    if args.json {
        return json::print(&as_json(manifest, &target, &receipt));
    }
    print(&as_text(manifest, &target, &receipt))
}

/// Makes the buffer, in a drive's container if there is one.
fn target(
    args: &LoadArgs,
    needed: u64,
    container: Option<&Arc<Container>>,
) -> Result<(Target, Option<StepDown>), Failure> {
    let wanted = Wanted {
        to: &args.to,
        device: args.device.as_deref(),
        assume_vram_stays: args.assume_vram_stays,
        require: args.require,
        len: args.buffer.map_or(needed, |size| size.as_u64()),
    };
    wanted.make(container)
}

fn as_json<S: Source>(
    manifest: &Manifest<S>,
    target: &Target,
    receipt: &Receipt,
) -> serde_json::Value {
    let fingerprint =
        |i: usize| (*receipt.checked.fingerprints.get(i)?).map(|crc| format!("{crc:08x}"));
    let items = manifest.items().enumerate().map(|(i, item)| {
        json!({
            "name": item.name,
            "file": json::path(manifest.files()[item.request.file].path()),
            "offset": item.request.offset,
            "len": item.request.len,
            "buffer_offset": item.request.buffer_offset,
            "crc32": fingerprint(i),
            "description": item.description,
        })
    });
    json!({
        "to": target.to_string(),
        "no_udmabuf": target.no_udmabuf(),
        "notes": manifest.notes(),
        "buffer_len": target.destination().len(),
        "items": items.collect::<Vec<_>>(),
        "receipt": account::as_json(receipt),
    })
}

fn as_text<S: Source>(manifest: &Manifest<S>, target: &Target, receipt: &Receipt) -> String {
    let mut facts = Rows::new();
    for (file, format) in manifest.files().iter().zip(manifest.formats()) {
        facts.add_row(["loaded", &format!("{} ({format})", outside(file.path()))]);
    }
    let items = manifest.items().len();
    let plural = if items == 1 { "" } else { "s" };
    facts.add_row(["", &format!("{items} item{plural}, {}", size(receipt.bytes))]);
    let files: Vec<_> = manifest.files().iter().map(Source::path).collect();
    add_notes(&mut facts, &files, manifest.notes());
    add_left_out(&mut facts, &files, &receipt.left_out);
    facts.add_row(["to", &target.to_string()]);
    if let Some(why) = target.no_udmabuf() {
        facts.add_row(["why not", &format!("udmabuf import: {why}")]);
    }
    add_account(&mut facts, receipt, "read");
    for (i, check) in checks(&receipt.checked).iter().enumerate() {
        facts.add_row([if i == 0 { "check" } else { "" }, check]);
    }
    facts.text()
}

/// What was checked and how, and what was not.
fn checks(checked: &Checked) -> Vec<String> {
    if checked.verify == Verify::None {
        return vec!["none".to_owned()];
    }
    let mut said: Vec<_> = checked.checks.iter().map(|share| how(share, checked)).collect();
    said.extend(checked.step_downs.iter().map(|step| {
        let how = match step.check {
            Check::FingerprintByGpu => "by the GPU".to_owned(),
            other => format!("{other:?}"),
        };
        format!("not {how} for {}: {}", size(step.bytes), step.why)
    }));
    said.push(match (checked.format_checksums, checked.format_checksums_left) {
        (0, 0) => "the format records no checksums".to_owned(),
        (met, 0) => format!("{met} checksums of the format met"),
        (met, left) => format!(
            "{met} checksums of the format met, {left} not compared: not all of those items was looked at"
        ),
    });
    if checked.read_back > 0 {
        said.push(format!("the CPU read {} out of the device for it", size(checked.read_back)));
    }
    said
}

fn how(share: &CheckShare, checked: &Checked) -> String {
    let bytes = size(share.bytes);
    match share.check {
        Check::Compared => format!("{bytes} equal to a second read of the file"),
        Check::FingerprintByGpu => {
            format!("{bytes} fingerprinted by the GPU in its memory, and by the CPU before")
        }
        Check::FingerprintInBuffer => format!("{bytes} fingerprinted in the buffer by the CPU"),
        Check::FingerprintInSlot => {
            format!("{bytes} fingerprinted by the CPU in the slots that they were copied out of")
        }
        Check::Sample => format!(
            "a sample of {bytes}: {} equal to a second read of the file, the rest not looked at",
            size(checked.compared)
        ),
        other => format!("{bytes}: {other:?}"),
    }
}
