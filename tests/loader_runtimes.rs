//! Tickets of a loader, awaited under two runtimes.

mod support;

use std::future::Future;
use std::sync::Arc;
use std::time::Duration;

use bufmap::engine::{Buffer, File, Loader, Request};
use bufmap::transfer::TransferError;
use iomap::Memory;
use support::*;

const LEN: usize = 1 << 20;
const TILE: u64 = 64 << 10;

struct Scene {
    loader: Loader,
    file: File,
    memory: Arc<Memory>,
    buffer: Buffer,
    _kept: tempfile::NamedTempFile,
}

fn scene() -> Scene {
    let kept = file_of(LEN);
    let loader = Loader::new().expect("a loader");
    let file = loader.open(kept.path()).expect("the file");
    let memory = Arc::new(memory_of(LEN));
    let buffer = Buffer::new(memory.clone()).expect("memory");
    Scene { loader, file, memory, buffer, _kept: kept }
}

impl Scene {
    /// A tile of the file, which is a future that any thread may run.
    fn tile(&self, tile: u64) -> impl Future<Output = u64> + Send + 'static {
        let range = tile * TILE..(tile + 1) * TILE;
        let request = Request::new(&self.file, range, &self.buffer, tile * TILE);
        let ticket = self.loader.submit(request).expect("a plan");
        async { ticket.await.expect("its bytes").bytes }
    }

    fn is_whole(&self) {
        assert_same(&contents(&self.memory), &bytes_of(LEN));
    }
}

#[test]
fn under_tokio() {
    let scene = scene();
    let runtime = tokio::runtime::Builder::new_current_thread().enable_time().build();
    runtime.expect("a runtime").block_on(async {
        let tiles: Vec<_> = (0..16).map(|tile| tokio::spawn(scene.tile(tile))).collect();
        for tile in tiles {
            assert_eq!(tile.await.expect("no panic"), TILE);
        }
        // A future that nobody waits for any more leaves its request under way.
        let late = tokio::time::timeout(Duration::ZERO, scene.tile(0)).await;
        assert!(late.is_err() || late == Ok(TILE));
    });
    scene.is_whole();
}

#[test]
fn under_smol() {
    let scene = scene();
    smol::block_on(async {
        let tiles: Vec<_> = (0..16).map(|tile| smol::spawn(scene.tile(tile))).collect();
        for tile in tiles {
            assert_eq!(tile.await, TILE);
        }
        // A ticket is cancelled by its tag while somebody awaits it.
        let all = Request::new(&scene.file, 0..LEN as u64, &scene.buffer, 0).tag(9);
        let ticket = scene.loader.submit(all).expect("a plan");
        scene.loader.cancel(9);
        match ticket.await {
            Ok(landed) => assert_eq!(landed.bytes, LEN as u64),
            Err(error) => assert!(matches!(error, TransferError::Stopped { .. }), "{error}"),
        }
    });
    scene.is_whole();
}
