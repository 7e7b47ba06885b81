//! `bufmap save`.

use std::path::Path;
use std::sync::Arc;

use bufmap::exporters::outside::outside;
use bufmap::exporters::vfio::Container;
use bufmap::format::{Format, Manifest, Selection};
use bufmap::load::{Load, Target};
use bufmap::save::{Save, To as Onto};
use bufmap::transfer::{
    Around, Options, Receipt, Request, SaveError, StepDown, TransferError, Verify,
};
use serde_json::json;

use crate::account::{self, add_account, read_back};
use crate::args::{SaveArgs, To};
use crate::buffer::Wanted;
use crate::failure::Failure;
use crate::interrupt::Interrupts;
use crate::json;
use crate::output::print;
use crate::progress;
use crate::table::{Rows, size};

pub fn run(args: &SaveArgs) -> Result<(), Failure> {
    let interrupts = Interrupts::take();
    let source = source(args, &interrupts)?;
    let request = request(args, source.len)?;
    let requests = std::slice::from_ref(&request);
    let to = match args.in_place {
        true => Onto::InPlace(&args.file),
        false => Onto::NewFile(&args.file),
    };
    let save = Save {
        source: source.target.destination(),
        to,
        requests,
        options: Options {
            require: args.require,
            verify: args.verify.into(),
            depth: args.depth,
            block: args.block,
            ..Options::default()
        },
        stop: interrupts.stop(),
    };
    let files = vec![outside(&args.file).to_string()];
    let saved = progress::of_transfer(&interrupts, ("write", files), |progress| save.run(progress));
    let mut receipt = saved.map_err(|error| match error {
        SaveError::Stopped { left } => Failure::Stopped(format!("stopped; {left}")),
        error => error.into(),
    })?;
    receipt.step_downs.extend(source.step_down.clone());
    if args.json {
        return json::print(&as_json(args, &source, &request, &receipt));
    }
    print(&as_text(args, &source, &receipt))
}

/// A buffer that holds what is to be saved.
struct Source {
    target: Target,
    /// How many bytes it holds.
    len: u64,
    step_down: Option<StepDown>,
    /// How they got into it, if a file was loaded.
    loaded: Option<Receipt>,
}

fn source(args: &SaveArgs, interrupts: &Interrupts) -> Result<Source, Failure> {
    if let Some(from) = &args.from {
        return loaded(args, from, interrupts);
    }
    let len = |size: Option<bytesize::ByteSize>| size.map(|size| size.as_u64());
    match (&args.source, len(args.len)) {
        (To::Vfio(function, bar), _) => {
            let device = Arc::new(Container::new()?).open(&function.to_string())?;
            let len_of = |bar: &u32| device.region_len(*bar).unwrap_or(0);
            let bar = bar.or_else(|| (0..6).max_by_key(len_of)).unwrap_or(0);
            let region = device.map_region(bar)?;
            let len = device.region_len(bar)?;
            let target = Target::Bar(Arc::new(region));
            Ok(Source { target, len, step_down: None, loaded: None })
        }
        (To::P2pmem(function), Some(len)) => {
            let len = len.saturating_add(args.offset.as_u64());
            let target = Target::p2pmem(&function.to_string(), len)?;
            Ok(Source { target, len, step_down: None, loaded: None })
        }
        (To::P2pmem(_), None) => Err(Failure::Error(
            "how much of the peer memory is to be saved? say --len SIZE, or --from FILE to load a file into it first"
                .into(),
        )),
        _ => Err(Failure::Error(
            "a buffer that is made now holds nothing to save: say --from FILE to load a file into it first".into(),
        )),
    }
}

/// Makes the buffer, and loads a file into it as it is.
fn loaded(args: &SaveArgs, from: &Path, interrupts: &Interrupts) -> Result<Source, Failure> {
    let selection = Selection { format: Some(Format::Raw), ..Selection::default() };
    let manifest = Manifest::open(&[from.to_owned()], &selection)?;
    let wanted = Wanted {
        to: &args.source,
        device: args.device.as_deref(),
        assume_vram_stays: args.assume_vram_stays,
        require: args.require,
        len: manifest.buffer_len(),
    };
    let (target, step_down) = wanted.make(None)?;
    let len = manifest.requests().iter().map(|request| request.buffer().end).max().unwrap_or(0);
    let load = Load {
        files: manifest.files(),
        requests: manifest.requests(),
        around: Around::Scratch,
        destination: target.destination(),
        options: Options {
            verify: Verify::None,
            depth: args.depth,
            block: args.block,
            ..Options::default()
        },
        stop: interrupts.stop(),
    };
    let files = vec![outside(from).to_string()];
    let loaded = progress::of_transfer(interrupts, ("read", files), |progress| load.run(progress));
    let loaded = loaded.map_err(|error| match error {
        TransferError::Stopped { .. } => {
            Failure::Stopped("stopped; the file is as it was, nothing was saved yet".into())
        }
        error => error.into(),
    })?;
    Ok(Source { target, len, step_down, loaded: Some(loaded) })
}

/// The bytes of the buffer that are saved, and where in the file.
fn request(args: &SaveArgs, held: u64) -> Result<Request, Failure> {
    let (offset, at) = (args.offset.as_u64(), args.at.map_or(0, |at| at.as_u64()));
    let rest = held.checked_sub(offset).ok_or_else(|| {
        Failure::Error(format!(
            "--offset {offset} lies past the end of the buffer, which holds {held} bytes"
        ))
    })?;
    let len = args.len.map_or(rest, |len| len.as_u64());
    if len > rest {
        return Err(Failure::Error(format!(
            "--len {len} is more than the {rest} bytes that the buffer holds from {offset} on"
        )));
    }
    Ok(Request::new(0, at, len, offset))
}

fn as_json(
    args: &SaveArgs,
    source: &Source,
    request: &Request,
    receipt: &Receipt,
) -> serde_json::Value {
    let crc = print_of(receipt).map(|crc| format!("{crc:08x}"));
    let mut account = account::as_json(receipt);
    if let Some(fields) = account.as_object_mut()
        && let Some(writes) = fields.remove("reads")
    {
        fields.insert("writes".into(), writes);
        fields.remove("left_out");
    }
    json!({
        "from": source.target.to_string(),
        "loaded": source.loaded.as_ref().map(account::as_json),
        "file": json::path(&args.file),
        "in_place": args.in_place,
        "offset": request.offset,
        "len": request.len,
        "buffer_offset": request.buffer_offset,
        "crc32": crc,
        "receipt": account,
    })
}

fn as_text(args: &SaveArgs, source: &Source, receipt: &Receipt) -> String {
    let mut facts = Rows::new();
    let how = if args.in_place { "in place" } else { "a new file" };
    facts.add_row(["saved", &format!("{} ({how})", outside(&args.file))]);
    facts.add_row(["", &size(receipt.bytes)]);
    facts.add_row(["from", &source.target.to_string()]);
    if let (Some(loaded), Some(from)) = (&source.loaded, &args.from) {
        let paths =
            loaded.paths.iter().map(|share| format!("{}: {}", share.path, size(share.bytes)));
        let paths: Vec<_> = paths.collect();
        let speed = loaded.gib_per_second();
        let words = format!("{} by {}, {speed:.2} GiB/s", outside(from), paths.join(", "));
        facts.add_row(["loaded", &words]);
    }
    add_account(&mut facts, receipt, "write");
    facts.add_row(["check", &check(receipt)]);
    facts.text()
}

/// The fingerprint of what was saved.
fn print_of(receipt: &Receipt) -> Option<u32> {
    receipt.checked.fingerprints.first().copied().flatten()
}

fn check(receipt: &Receipt) -> String {
    let print = print_of(receipt);
    let print = print.map(|crc| format!("CRC-32 {crc:08x}")).unwrap_or_default();
    let read_back = read_back(receipt);
    match receipt.checked.verify {
        Verify::None => "none".to_owned(),
        Verify::Auto | Verify::Hash => format!("{print}{read_back}"),
        Verify::Full => {
            let compared = size(receipt.checked.compared);
            format!("{print}; {compared} read back from the drive have the same{read_back}")
        }
    }
}
