//! Loads every tensor of a safetensors file into a Vulkan buffer and lists where each one lies.
//!
//! Run it with `cargo run --release --example load_to_vulkan -- model.safetensors`.

use std::error::Error;
use std::path::PathBuf;
use std::sync::atomic::AtomicBool;

use bufmap::exporters::outside::outside;
use bufmap::exporters::vulkan::Device;
use bufmap::format::{Manifest, Selection};
use bufmap::load::{Load, Target};
use bufmap::transfer::{Around, Options};

fn main() -> Result<(), Box<dyn Error>> {
    let path = PathBuf::from(std::env::args_os().nth(1).ok_or("name a file")?);

    // What the file holds, and where each item goes: offsets keep their alignment, so that the
    // drive writes straight into the buffer.
    let manifest = Manifest::open(&[path], &Selection::default())?;

    // On a GPU that shares the system's memory the buffer is made of pages that the drive fills; on
    // one with memory of its own, the GPU copies from a small ring of such pages.
    let device = Device::open(None)?;
    let (target, step_down) = Target::vulkan(&device, manifest.buffer_len(), None)?;

    let receipt = Load {
        files: manifest.files(),
        requests: manifest.requests(),
        around: Around::Scratch,
        destination: target.destination(),
        options: Options::default(),
        stop: &AtomicBool::new(false),
    }
    .run(&mut |progress| eprint!("\r{} of {} bytes", progress.done, progress.total))?;
    eprintln!();

    for item in manifest.items() {
        println!(
            "{:>12} +{:<12} {}",
            item.request.buffer_offset,
            item.request.len,
            outside(&item.name)
        );
    }
    println!("into {target}: {:.2} GiB/s", receipt.gib_per_second());
    println!("{} bytes copied by the CPU", receipt.cpu_copied);
    for step in receipt.step_downs.iter().chain(&step_down) {
        println!("not {} for {} bytes: {}", step.path, step.bytes, step.why);
    }
    Ok(())
}
