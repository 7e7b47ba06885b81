//! `bufmap phyrs`.

use std::sync::Arc;

use bufmap::exporters::vfio::{Bar, Container};
use bufmap::exporters::{Export, Exporter, P2pmem, SystemMemory, Udmabuf};
use bufmap::pci::{Placed, SystemRam, Tree, classify};
use bytesize::ByteSize;
use serde_json::json;

use crate::args::{PhyrsArgs, Source};
use crate::json;
use crate::table::{Rows, line};
use crate::{Failure, print};

pub fn run(args: &PhyrsArgs) -> Result<(), Failure> {
    let buffer = export(args)?;
    let phyrs = buffer.phyrs()?;
    let placed = classify(phyrs.list(), &Tree::read()?, &SystemRam::read()?);
    if args.json {
        return json::print(&as_json(&buffer, &placed));
    }
    let mut rows = Rows::new();
    rows.add_row(["begins at", "bytes", "is", "lies in"]);
    for part in &placed {
        rows.add_row([
            part.range.addr().to_string(),
            part.range.len().to_string(),
            part.range.kind().to_string(),
            part.place.to_string()
                + if part.is_as_claimed() { "" } else { " (it claims otherwise)" },
        ]);
    }
    let total = ByteSize::b(buffer.len() as u64).display().iec();
    let count = phyrs.list().ranges().len();
    let plural = if count == 1 { "" } else { "s" };
    let pages = buffer.len() / rustix::param::page_size();
    let total = format!(
        "{total} of {} in {count} range{plural}, where a list of pages has {pages}",
        buffer.provider()
    );
    print(&format!("{}\n\n{}", rows.text(), line(&total)))
}

fn export(args: &PhyrsArgs) -> Result<Export, Failure> {
    let len = usize::try_from(args.size.as_u64()).map_err(|_| {
        Failure::Error(format!("{} is more than this machine addresses", args.size))
    })?;
    let export = match &args.of {
        Source::Memory => SystemMemory::new(args.pages.into()).export(len),
        Source::Udmabuf => Udmabuf::open()?.export(len),
        Source::P2pmem(function) => P2pmem::open(&function.to_string())?.export(len),
        Source::Bar(function, index) => {
            let device = Arc::new(Container::new()?).open(&function.to_string())?;
            Bar::new(&device, *index)?.export(len)
        }
    };
    Ok(export?)
}

fn as_json(buffer: &Export, placed: &[Placed]) -> serde_json::Value {
    let ranges: Vec<_> = placed
        .iter()
        .map(|part| {
            json!({
                "addr": part.range.addr().get(),
                "len": part.range.len(),
                "kind": part.range.kind().to_string(),
                "place": part.place.to_string(),
                "as_claimed": part.is_as_claimed(),
            })
        })
        .collect();
    json!({ "of": buffer.provider().to_string(), "len": buffer.len(), "ranges": ranges })
}
