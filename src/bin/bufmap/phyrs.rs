//! `bufmap phyrs`.

use std::sync::Arc;

use bufmap::exporters::vulkan::{Device, SteadyBuffer, VulkanError};
use bufmap::exporters::{Absent, Export, Phyrs};
use bufmap::pci::{Placed, SystemRam, Tree, classify};
use bytesize::ByteSize;
use serde_json::{Value, json};

use crate::args::{PhyrsArgs, Source};
use crate::exporter::exporter;
use crate::failure::Failure;
use crate::json;
use crate::output::print;
use crate::table::{Rows, line};

pub fn run(args: &PhyrsArgs) -> Result<(), Failure> {
    let buffer = Buffer::make(args)?;
    let phyrs = match buffer.phyrs() {
        Ok(phyrs) => phyrs,
        Err(absent) => return absence(args, &buffer, &absent),
    };
    let placed = classify(phyrs.list(), &Tree::read()?, &SystemRam::read()?);
    if args.json {
        let mut report = buffer.as_json();
        report["ranges"] = placed.iter().map(range_as_json).collect();
        return json::print(&report);
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
    let count = phyrs.list().ranges().len();
    let plural = if count == 1 { "" } else { "s" };
    let pages = buffer.len() / rustix::param::page_size();
    let total = format!("{buffer} in {count} range{plural}, where a list of pages has {pages}");
    print(&format!("{}\n\n{}", rows.text(), line(&total)))
}

/// Says why there are no ranges.
fn absence(args: &PhyrsArgs, buffer: &Buffer, absent: &Absent) -> Result<(), Failure> {
    if args.json {
        let mut report = buffer.as_json();
        report["ranges"] = Value::Null;
        report["why"] = json!(absent.why);
        report["fix"] = json!(absent.fix);
        json::print(&report)?;
    }
    Err(Failure::Error(format!("{buffer}: no ranges can be told: {absent}")))
}

/// A buffer of the kind that was asked for.
enum Buffer {
    Exported(Export),
    /// A Vulkan device's, by its name; its ranges are those of what stays in its place.
    Vulkan {
        device: String,
        len: usize,
        steady: Result<SteadyBuffer, Absent>,
    },
}

impl Buffer {
    fn make(args: &PhyrsArgs) -> Result<Self, Failure> {
        let len = usize::try_from(args.size.as_u64()).map_err(|_| {
            Failure::Error(format!("{} is more than this machine addresses", args.size))
        })?;
        if args.of == Source::Vulkan {
            return Self::of_vulkan(len);
        }
        Ok(Self::Exported(exporter(&args.of, args.pages.into())?.export(len)?))
    }

    fn of_vulkan(len: usize) -> Result<Self, Failure> {
        let device = Device::open(None)?;
        let buffer = Arc::new(device.allocate_host_visible(len)?);
        let steady = match buffer.steady() {
            Ok(steady) => Ok(steady),
            Err(VulkanError::Unavailable(absent)) => Err(absent),
            Err(error @ VulkanError::MayMove { .. }) => Err(Absent::new(
                error.to_string(),
                "hand the buffer on as a dma-buf, which its driver maps for each device",
            )),
            Err(error) => return Err(error.into()),
        };
        Ok(Self::Vulkan { device: device.info().name.clone(), len: buffer.len(), steady })
    }

    fn len(&self) -> usize {
        match self {
            Self::Exported(export) => export.len(),
            Self::Vulkan { len, .. } => *len,
        }
    }

    fn provider(&self) -> String {
        match self {
            Self::Exported(export) => export.provider().to_string(),
            Self::Vulkan { device, .. } => format!("Vulkan device {device}"),
        }
    }

    fn phyrs(&self) -> Result<Phyrs<'_>, Absent> {
        match self {
            Self::Exported(export) => export.phyrs(),
            Self::Vulkan { steady, .. } => steady.as_ref().map_err(Clone::clone)?.phyrs(),
        }
    }

    fn as_json(&self) -> Value {
        json!({ "of": self.provider(), "len": self.len() })
    }
}

impl std::fmt::Display for Buffer {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let len = ByteSize::b(self.len() as u64).display().iec();
        write!(f, "{len} of {}", self.provider())
    }
}

fn range_as_json(part: &Placed) -> Value {
    json!({
        "addr": part.range.addr().get(),
        "len": part.range.len(),
        "kind": part.range.kind().to_string(),
        "place": part.place.to_string(),
        "as_claimed": part.is_as_claimed(),
    })
}
