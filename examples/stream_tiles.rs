//! Streams tiles of a file while the whole file is loaded in the background, by one loader.
//!
//! Run it with `cargo run --release --example stream_tiles -- textures.pack`. It is what a game does at its start: the
//! level is loaded with priority `Low`, and what the camera sees comes first.

use std::error::Error;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::{Duration, Instant};

use bufmap::engine::{Buffer, Completions, Loader, Request};
use bufmap::transfer::Priority;
use iomap::{Memory, PageSize};

/// The length of a tile in bytes.
const TILE: u64 = 64 << 10;

/// The tag of the load in the background.
const LEVEL: u64 = u64::MAX;

fn main() -> Result<(), Box<dyn Error>> {
    let path = PathBuf::from(std::env::args_os().nth(1).ok_or("name a file of 64 KiB or more")?);
    let loader = Loader::new()?;
    let file = loader.open(&path)?;
    let tiles = file.len() / TILE;
    if tiles == 0 {
        return Err("the file has less than 64 KiB".into());
    }
    let level = Arc::new(Memory::anonymous(file.len() as usize, PageSize::Base)?);
    let screen = Arc::new(Memory::anonymous(16 * TILE as usize, PageSize::Base)?);
    let (into_level, into_screen) = (Buffer::new(level)?, Buffer::new(screen)?);

    let completions = Completions::new();
    let whole = Request::new(&file, 0..file.len(), &into_level, 0).priority(Priority::Low);
    loader.submit_to(whole.tag(LEVEL), &completions)?;

    let started = Instant::now();
    let mut frame = 0;
    let loaded = loop {
        // Sixteen tiles from all over the file, each to its place on the screen.
        let seen = (0..16).map(|place| {
            let tile = (frame * 16 + place) * 7919 % tiles;
            let range = tile * TILE..(tile + 1) * TILE;
            Request::new(&file, range, &into_screen, place * TILE)
                .priority(Priority::Realtime)
                .tag(place)
        });
        let asked = Instant::now();
        loader.submit_all(seen, &completions)?;
        let mut level = None;
        let mut left = 16;
        while left > 0 {
            let completed = completions.wait();
            match completed.tag {
                LEVEL => level = Some(completed.outcome?),
                _ => {
                    completed.outcome?;
                    left -= 1;
                }
            }
        }
        println!("frame {frame}: 16 tiles after {:.2?}", asked.elapsed());
        frame += 1;
        if let Some(loaded) = level {
            break loaded;
        }
        std::thread::sleep(Duration::from_millis(16).saturating_sub(asked.elapsed()));
    };

    let seconds = started.elapsed().as_secs_f64();
    println!("the level, {} bytes, after {seconds:.2} s and {frame} frames", loaded.bytes);
    let counts = loader.counts();
    for share in counts.paths.iter() {
        println!("{:>12} bytes took the path {}", share.bytes, share.path);
    }
    for (micros, requests) in counts.latencies.iter() {
        println!("{requests:>12} requests took less than {micros} us");
    }
    Ok(())
}
