//! `bufmap load`.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use bufmap::exporters::vulkan::Device;
use bufmap::load::{
    Around, Load, LoadError, Manifest, Options, Proof, Receipt, StepDown, Target, Verify,
};
use bytesize::ByteSize;
use indicatif::{ProgressBar, ProgressStyle};
use serde_json::json;

use crate::args::{LoadArgs, To};
use crate::table::table;
use crate::{Failure, print};

pub fn run(args: &LoadArgs) -> Result<(), Failure> {
    let stop = stop_on_ctrl_c()?;
    let manifest = Manifest::open(&args.files, args.format, &args.items)?;
    let (target, step_down) = target(args, &manifest)?;
    let options = Options {
        require: args.require,
        verify: args.verify.into(),
        depth: args.depth,
        block: args.block,
    };
    let load = Load {
        files: manifest.files(),
        requests: manifest.requests(),
        around: Around::Scratch,
        destination: target.destination(),
        options,
        stop: &stop,
    };
    let bar = bar();
    let loaded = load.run(&mut |progress| {
        bar.set_length(progress.total);
        bar.set_position(progress.done);
    });
    bar.finish_and_clear();
    let mut receipt = match loaded {
        Ok(receipt) => receipt,
        Err(LoadError::Stopped { valid }) => {
            return Err(Failure::Stopped(format!("stopped; {valid}")));
        }
        Err(error) => return Err(error.into()),
    };
    receipt.step_downs.extend(step_down);
    if args.json {
        return print(&format!("{:#}", as_json(&manifest, &target, &receipt)));
    }
    print(&as_text(&manifest, &target, &receipt))
}

/// A flag that Ctrl-C sets. The load then ends in order; a second Ctrl-C ends it at once.
fn stop_on_ctrl_c() -> Result<Arc<AtomicBool>, Failure> {
    let stop = Arc::new(AtomicBool::new(false));
    let flag = Arc::clone(&stop);
    ctrlc::set_handler(move || {
        if flag.swap(true, Ordering::Relaxed) {
            std::process::exit(crate::INTERRUPTED.into());
        }
    })?;
    Ok(stop)
}

fn target(args: &LoadArgs, manifest: &Manifest) -> Result<(Target, Option<StepDown>), Failure> {
    let len = args.buffer.map_or(manifest.buffer_len(), |size| size.as_u64());
    match &args.to {
        To::Memory => Ok((Target::memory(len)?, None)),
        To::P2pmem(function) => Ok((Target::p2pmem(&function.to_string(), len)?, None)),
        To::Vulkan => {
            let device = Device::open(args.device.as_deref())?;
            Ok(Target::vulkan(&device, len, args.require)?)
        }
    }
}

/// A progress bar on standard error if that is a terminal, and nothing otherwise.
fn bar() -> ProgressBar {
    let style = "{bar:30} {bytes:>11} of {total_bytes:11} {bytes_per_sec:>12} {eta:>4} left";
    let bar = ProgressBar::new(0);
    if let Ok(style) = ProgressStyle::with_template(style) {
        bar.set_style(style);
    }
    bar
}

fn as_json(manifest: &Manifest, target: &Target, receipt: &Receipt) -> serde_json::Value {
    let fingerprint =
        |i: usize| receipt.checked.fingerprints.get(i).map(|crc| format!("{crc:08x}"));
    let items = manifest.items().enumerate().map(|(i, item)| {
        json!({
            "name": item.name,
            "file": manifest.files()[item.request.file].path().display().to_string(),
            "offset": item.request.offset,
            "len": item.request.len,
            "buffer_offset": item.request.buffer_offset,
            "crc32": fingerprint(i),
        })
    });
    let mut receipt_json = json!(receipt);
    receipt_json["gib_per_s"] = json!(receipt.gib_per_second());
    receipt_json["cpu_s_per_gib"] = json!(receipt.cpu_seconds_per_gib());
    if let Some(checked) = receipt_json["checked"].as_object_mut() {
        checked.remove("fingerprints");
    }
    json!({
        "to": target.to_string(),
        "no_udmabuf": target.no_udmabuf(),
        "buffer_len": target.destination().len(),
        "items": items.collect::<Vec<_>>(),
        "receipt": receipt_json,
    })
}

fn as_text(manifest: &Manifest, target: &Target, receipt: &Receipt) -> String {
    let mut facts = table();
    for (file, format) in manifest.files().iter().zip(manifest.formats()) {
        facts.add_row(["loaded", &format!("{} ({format})", file.path().display())]);
    }
    let items = manifest.items().len();
    let plural = if items == 1 { "" } else { "s" };
    facts.add_row(["", &format!("{items} item{plural}, {}", size(receipt.bytes))]);
    facts.add_row(["to", &target.to_string()]);
    if let Some(why) = target.no_udmabuf() {
        facts.add_row(["why not", &format!("udmabuf import: {why}")]);
    }
    for share in &receipt.roads {
        facts.add_row(["road", &format!("{}: {}", share.road, size(share.bytes))]);
    }
    for step in &receipt.step_downs {
        let why = format!("{} for {}: {}", step.road, size(step.bytes), step.why);
        facts.add_row(["why not", &why]);
    }
    for proof in &receipt.proofs {
        facts.add_row(["proof", &proved(proof)]);
    }
    facts.add_row(["by", &format!("{}, {} reads", receipt.engine, receipt.reads)]);
    facts.add_row(["speed", &format!("{:.2} GiB/s", receipt.gib_per_second())]);
    let cpu = format!("{:.3} CPU seconds per GiB", receipt.cpu_seconds_per_gib());
    facts.add_row(["cost", &cpu]);
    facts.add_row(["copied", &copied(receipt)]);
    facts.add_row(["check", &check(receipt)]);
    facts.trim_fmt()
}

fn proved(proof: &Proof) -> String {
    let Proof { provider, drive, arrives, bytes } = proof;
    let what = if *arrives { "arrives" } else { "does not arrive" };
    let when = match bytes {
        0 => "found out since the machine booted".to_owned(),
        _ => format!("found out by {}", size(*bytes)),
    };
    format!("what {drive} writes into the memory of {provider} {what}, {when}")
}

fn copied(receipt: &Receipt) -> String {
    let by_cpu = format!("{} by the CPU", size(receipt.cpu_copied));
    match receipt.gpu_copied {
        0 => by_cpu,
        bytes => format!("{by_cpu}, {} by the GPU", size(bytes)),
    }
}

fn check(receipt: &Receipt) -> String {
    let checked = &receipt.checked;
    let read_back = match checked.read_back {
        0 => String::new(),
        bytes => format!("; the CPU read {} out of the device for it", size(bytes)),
    };
    let formats = match checked.format_checksums {
        0 => "the format records no checksums".to_owned(),
        n => format!("{n} checksums of the format met"),
    };
    match checked.verify {
        Verify::None => "none".to_owned(),
        Verify::Hash => format!("fingerprinted; {formats}{read_back}"),
        Verify::Full => {
            let compared = size(checked.compared);
            format!("{compared} equal to a second read of the file; {formats}{read_back}")
        }
    }
}

/// A size as people write it, with the exact bytes behind it.
fn size(bytes: u64) -> String {
    match bytes {
        0..1024 => format!("{bytes} B"),
        _ => format!("{} ({bytes} B)", ByteSize::b(bytes).display().iec()),
    }
}
