//! A loader fills what is a program's own: ranges of buffers and regions of images of its Vulkan device, buffers and textures
//! of its wgpu device; read back by the program and compared with plain reads, under the validation layer where that is
//! installed.

#[path = "../exporters/tests/common/adopted.rs"]
#[allow(dead_code)]
mod adopted;
#[path = "../exporters/tests/common/mod.rs"]
#[allow(dead_code)]
mod common;
#[path = "../exporters/tests/common/program.rs"]
#[allow(dead_code)]
mod program;
mod support;
#[path = "../exporters/tests/common/texture.rs"]
#[allow(dead_code)]
mod texture;
#[cfg(feature = "wgpu")]
#[path = "../exporters/tests/common/wgpu_program.rs"]
#[allow(dead_code)]
mod wgpu_program;

use std::os::fd::AsFd;
use std::path::Path;
use std::process::ExitCode;
use std::sync::Arc;
use std::thread;
use std::time::{Duration, Instant};

use adopted::{COPIES, adopt, adopt_timeline, destroy, level, range, timeline};
use bufmap::engine::{
    Buffer, Completions, File, Landed, Loader, LoaderOptions, Outcome as Answer, Request,
};
use bufmap::transfer::{DataPath, Priority, TransferError};
use common::{Outcome, Stop, check, run, trial};
use exporters::vulkan::ash::vk;
use exporters::vulkan::{Device, Handover, VulkanError};
use exporters::{Destination, SyncFile};
use program::{ALL, BARE, Program, on, on_each};
use support::random::Random;
use support::{bytes_of, drop_cache, file_of, fill_cache};

const MIB: usize = 1 << 20;
const SHOWN: vk::ImageLayout = vk::ImageLayout::SHADER_READ_ONLY_OPTIMAL;

fn main() -> ExitCode {
    #[cfg(feature = "wgpu")]
    if wgpu_program::asked().is_some() {
        return wgpu_program::answer(by_wgpu::child());
    }
    let trials = vec![
        trial("levels_are_filled_by_any_path", || on_each(levels_are_filled_by_any_path)),
        trial("a_range_of_a_buffer_is_filled", || on_each(a_range_of_a_buffer_is_filled)),
        trial("ranges_end_with_a_block", || on(ALL, ranges_end_with_a_block)),
        trial("a_value_says_that_it_has_landed", || on(ALL, a_value_says_that_it_has_landed)),
        trial("what_failed_is_given_back_too", || on(ALL, what_failed_is_given_back_too)),
        trial("what_is_given_back_is_filled_no_more", || {
            on(ALL, what_is_given_back_is_filled_no_more)
        }),
        trial("a_loader_that_goes_gives_everything_back", || {
            on(ALL, a_loader_that_goes_gives_everything_back)
        }),
        trial("a_driver_gives_back_what_its_loader_left", || {
            on(ALL, a_driver_gives_back_what_its_loader_left)
        }),
        trial("a_fence_is_signalled_when_it_has_landed", || {
            on_each(a_fence_is_signalled_when_it_has_landed)
        }),
        trial("a_storm_into_any_destination", || on(ALL, a_storm_into_any_destination)),
        trial("what_was_not_enabled_is_a_step_down", || {
            on(BARE, what_was_not_enabled_is_a_step_down)
        }),
    ];
    #[cfg(feature = "wgpu")]
    let trials = trials.into_iter().chain(by_wgpu::trials()).collect();
    run(trials)
}

fn buffer_of(destination: impl Destination + 'static) -> Result<Buffer, Stop> {
    Ok(Buffer::new(Arc::new(destination))?)
}

/// A request for as many bytes of a file as fill a buffer.
fn whole(file: &File, offset: u64, buffer: &Buffer) -> Request {
    Request::new(file, offset..offset + buffer.len(), buffer, 0)
}

/// Loaders with many short reads in flight, and with few.
fn loaders() -> Result<[Loader; 2], Stop> {
    let options = LoaderOptions::default().block(65_536);
    Ok([Loader::with(options.depth(32))?, Loader::with(options.depth(2))?])
}

/// The texels of a level, which the program's shaders may read.
fn seen(
    program: &Program,
    texture: &texture::Texture,
    index: u32,
    len: usize,
    after: Option<(vk::Semaphore, u64)>,
) -> Result<Vec<u8>, Stop> {
    program.texels(texture, (index, vk::ImageAspectFlags::COLOR), SHOWN, len, after)
}

/// At offsets of the file that agree with no block, of the drive or the format.
fn levels_are_filled_by_any_path(program: &Program, device: &Device) -> Outcome {
    let file = file_of(4 * MIB);
    let bytes = bytes_of(4 * MIB);
    for loader in loaders()? {
        let open = loader.open(file.path())?;
        for (format, extent, layers) in [
            (vk::Format::R8G8B8A8_UNORM, [300, 217, 1], 3),
            (vk::Format::R8_UNORM, [701, 333, 1], 1),
            (vk::Format::R16G16B16A16_SFLOAT, [65, 33, 9], 1),
            (vk::Format::R32G32B32_SFLOAT, [100, 50, 1], 1),
            (vk::Format::BC1_RGBA_UNORM_BLOCK, [1000, 600, 1], 1),
            (vk::Format::BC7_UNORM_BLOCK, [517, 300, 1], 2),
        ] {
            let kind = [vk::ImageType::TYPE_2D, vk::ImageType::TYPE_3D][usize::from(extent[2] > 1)];
            if !program.has(format, kind) {
                println!("without {format:?} in {kind:?}");
                continue;
            }
            let texture = program.texture(format, extent, 3, layers)?;
            for index in 0..3 {
                let buffer = buffer_of(adopt(device, level(&texture, index))?)?;
                let (len, offset) = (buffer.len() as usize, 4097 + u64::from(index) * 333_333);
                match index {
                    1 => drop(fill_cache(file.path())),
                    _ => drop_cache(file.as_file()),
                }
                let landed = loader.load(whole(&open, offset, &buffer).fingerprints())?;
                let wanted = &bytes[offset as usize..offset as usize + len];
                check(landed.fingerprints == [crc32fast::hash(wanted)], "another fingerprint")?;
                let by_drive =
                    landed.paths.of(DataPath::Staged) + landed.paths.of(DataPath::Bounce);
                let expected = if index == 1 { 0 } else { len as u64 };
                if program.wishes.extensions.len() > 1 {
                    check(by_drive == expected, format!("level {index}: {:?}", landed.paths))?;
                }
                let texels = seen(program, &texture, index, len, None)?;
                check(texels == wanted, format!("level {index} of {format:?} is otherwise"))?;
            }
            program.free_texture(texture);
        }
    }
    Ok(())
}

fn a_range_of_a_buffer_is_filled(program: &Program, device: &Device) -> Outcome {
    let file = file_of(MIB);
    let bytes = bytes_of(MIB);
    let theirs = program.buffer(500_000, COPIES)?;
    for loader in loaders()? {
        let open = loader.open(file.path())?;
        drop_cache(file.as_file());
        let buffer = buffer_of(range(device, &theirs, (1003, 400_001), Handover::default())?)?;
        let parts = Request::new(&open, 7..200_007, &buffer, 200_001);
        let landed = loader.load(parts.and(300_000..500_001, 0).fingerprints())?;
        check(landed.bytes == 400_001, landed.bytes)?;
        let seen = program.read(&theirs)?;
        check(seen[1003..201_004] == bytes[300_000..500_001], "the first part is otherwise")?;
        check(seen[201_004..401_004] == bytes[7..200_007], "the second part is otherwise")?;
        let around = seen[..1003].iter().chain(&seen[401_004..]);
        check(around.copied().all(|byte| byte == 0), "its neighbours")?;
    }
    program.free(theirs);
    Ok(())
}

/// What divides a texel is refused, and ranges that touch may divide one between them.
fn ranges_end_with_a_block(program: &Program, device: &Device) -> Outcome {
    let file = file_of(MIB);
    let texture = program.texture(vk::Format::R8G8B8A8_UNORM, [64, 64, 1], 1, 1)?;
    let loader = Loader::new()?;
    let open = loader.open(file.path())?;
    let buffer = buffer_of(adopt(device, level(&texture, 0))?)?;
    for (range, at, divided) in [(0..6, 0, 6), (0..8, 2, 2), (0..16_381, 3, 3)] {
        let refused = loader.load(Request::new(&open, range, &buffer, at));
        let told = matches!(
            refused,
            Err(TransferError::Granule { at, granule: 4 }) if at == divided
        );
        check(told, format!("{refused:?}"))?;
    }
    let parts = Request::new(&open, 1..3, &buffer, 0).and(3..16_385, 2);
    check(loader.load(parts)?.bytes == 16_384, "not all of it")?;
    let texels = seen(program, &texture, 0, 16_384, None)?;
    check(texels == bytes_of(MIB)[1..16_385], "other texels")?;
    drop((buffer, loader));
    program.free_texture(texture);
    Ok(())
}

/// A frame that waits for the value on the GPU sees the texels.
fn a_value_says_that_it_has_landed(program: &Program, device: &Device) -> Outcome {
    let (file, bytes) = (file_of(2 * MIB), bytes_of(2 * MIB));
    let semaphore = timeline(program)?;
    let adopted = adopt_timeline(device, semaphore)?;
    let texture = program.texture(vk::Format::R8G8B8A8_UNORM, [256, 256, 1], 1, 1)?;
    let loader = Loader::new()?;
    let open = loader.open(file.path())?;
    for round in 1..6u64 {
        let handover = Handover::default().signalling(&adopted, 10 * round);
        let buffer = buffer_of(adopt(device, level(&texture, 0).handover(handover))?)?;
        let offset = 100_003 * round;
        let ticket = loader.submit(whole(&open, offset, &buffer))?;
        drop(buffer);
        // The program's queue is free for others until the copies are there.
        let began = Instant::now();
        while adopted.value()? < 10 * round {
            check(began.elapsed() < Duration::from_secs(60), "the value is never reached")?;
            thread::sleep(Duration::from_micros(50));
        }
        let after = Some((semaphore, 10 * round));
        let texels = seen(program, &texture, 0, 256 * 1024, after)?;
        check(texels == bytes[offset as usize..][..256 * 1024], format!("frame {round}"))?;
        ticket.wait()?;
    }
    drop((loader, adopted));
    program.free_texture(texture);
    destroy(program, semaphore);
    Ok(())
}

/// A renderer that waits for the value does not wait in vain, and the level is in its last layout.
fn what_failed_is_given_back_too(program: &Program, device: &Device) -> Outcome {
    let semaphore = timeline(program)?;
    let adopted = adopt_timeline(device, semaphore)?;
    let texture = program.texture(vk::Format::R8G8B8A8_UNORM, [512, 512, 1], 1, 1)?;
    let mut value = 0;
    let mut into = |loader: &Loader, file: &File| -> Result<(Answer, u64), Stop> {
        value += 1;
        let handover = Handover::default().signalling(&adopted, value);
        let buffer = buffer_of(adopt(device, level(&texture, 0).handover(handover))?)?;
        Ok((loader.load(whole(file, 0, &buffer)), value))
    };
    // The file shrinks: some of it is copied, or none.
    for len in [0, MIB / 2 + 1] {
        let (file, loader) = (file_of(MIB), Loader::new()?);
        let open = loader.open(file.path())?;
        file.as_file().set_len(len as u64)?;
        let (answer, value) = into(&loader, &open)?;
        check(matches!(answer, Err(TransferError::Shrank { .. })), format!("{answer:?}"))?;
        check(adopted.value()? == value, "the value was not reached")?;
        seen(program, &texture, 0, MIB, Some((semaphore, value)))?;
    }
    // Cancelled at any moment.
    let file = file_of(MIB);
    for round in 0..20 {
        value += 1;
        drop_cache(file.as_file());
        let loader = Loader::with(LoaderOptions::default().depth(2).block(65_536))?;
        let open = loader.open(file.path())?;
        let handover = Handover::default().signalling(&adopted, value);
        let buffer = buffer_of(adopt(device, level(&texture, 0).handover(handover))?)?;
        let ticket = loader.submit(whole(&open, 0, &buffer))?;
        thread::sleep(Duration::from_micros(round * 100));
        ticket.cancel();
        match ticket.wait() {
            Ok(_) | Err(TransferError::Stopped { .. }) => {}
            Err(error) => return Err(error.into()),
        }
        check(adopted.value()? == value, "the value was not reached")?;
        seen(program, &texture, 0, MIB, Some((semaphore, value)))?;
    }
    drop(adopted);
    program.free_texture(texture);
    destroy(program, semaphore);
    Ok(())
}

fn what_is_given_back_is_filled_no_more(program: &Program, device: &Device) -> Outcome {
    let file = file_of(MIB);
    let texture = program.texture(vk::Format::R8G8B8A8_UNORM, [64, 64, 1], 1, 1)?;
    let loader = Loader::new()?;
    let open = loader.open(file.path())?;
    let buffer = buffer_of(adopt(device, level(&texture, 0))?)?;
    loader.load(whole(&open, 0, &buffer))?;
    let again = loader.load(whole(&open, 5, &buffer));
    let told = match &again {
        Err(TransferError::Upload(error)) => {
            matches!(error.downcast_ref(), Some(VulkanError::GivenBack))
        }
        _ => false,
    };
    check(told, format!("{again:?}"))?;
    // What passes nowhere is filled as often as one likes.
    let theirs = program.buffer(4096, COPIES)?;
    let buffer = buffer_of(range(device, &theirs, (0, 4096), Handover::default())?)?;
    for offset in [5, 6, 7] {
        loader.load(whole(&open, offset, &buffer))?;
    }
    check(program.read(&theirs)? == bytes_of(MIB)[7..4103], "other bytes")?;
    drop((buffer, loader));
    program.free(theirs);
    program.free_texture(texture);
    Ok(())
}

/// At any moment; what was not begun is in its last layout too.
fn a_loader_that_goes_gives_everything_back(program: &Program, device: &Device) -> Outcome {
    let file = file_of(MIB);
    let texture = program.texture(vk::Format::R8G8B8A8_UNORM, [256, 256, 1], 4, 1)?;
    for round in 0..10 {
        drop_cache(file.as_file());
        let loader = Loader::with(LoaderOptions::default().depth(2).block(65_536))?;
        let open = loader.open(file.path())?;
        let submit = |index| {
            let region = adopt(device, level(&texture, index))?;
            let len = region.len();
            Ok::<_, Stop>((loader.submit(whole(&open, 3, &buffer_of(region)?))?, len))
        };
        let tickets = (0..4).map(submit).collect::<Result<Vec<_>, _>>()?;
        thread::sleep(Duration::from_micros(round * 150));
        drop((open, loader));
        for (index, (ticket, len)) in (0..).zip(tickets) {
            let answer = ticket.wait();
            let texels = seen(program, &texture, index, len, None)?;
            match answer {
                Ok(_) => check(texels == bytes_of(MIB)[3..3 + len], "other texels")?,
                Err(TransferError::Stopped { .. }) => {}
                Err(error) => return Err(error.into()),
            }
        }
    }
    program.free_texture(texture);
    Ok(())
}

fn a_driver_gives_back_what_its_loader_left(program: &Program, device: &Device) -> Outcome {
    let file = file_of(MIB);
    let texture = program.texture(vk::Format::R8G8B8A8_UNORM, [256, 256, 1], 1, 1)?;
    for steps in 0..6 {
        drop_cache(file.as_file());
        let options = LoaderOptions::default().depth(2).block(65_536);
        let (loader, mut driver) = Loader::driven(options)?;
        let open = loader.open(file.path())?;
        let buffer = buffer_of(adopt(device, level(&texture, 0))?)?;
        let ticket = loader.submit(whole(&open, 3, &buffer))?;
        (0..steps).for_each(|_| driver.poll());
        drop((open, loader));
        let answer = driver.wait(ticket);
        drop(driver);
        check(matches!(answer, Ok(_) | Err(TransferError::Stopped { .. })), format!("{answer:?}"))?;
        seen(program, &texture, 0, 256 * 1024, None)?;
    }
    // The whole of it, by the driver.
    let (loader, mut driver) = Loader::driven(LoaderOptions::default())?;
    let open = loader.open(file.path())?;
    let buffer = buffer_of(adopt(device, level(&texture, 0))?)?;
    driver.wait(loader.submit(whole(&open, 3, &buffer))?)?;
    let texels = seen(program, &texture, 0, 256 * 1024, None)?;
    check(texels == bytes_of(MIB)[3..3 + 256 * 1024], "other texels")?;
    drop((buffer, loader, driver));
    program.free_texture(texture);
    Ok(())
}

/// Where the device has sync files; elsewhere the outcome waits.
fn a_fence_is_signalled_when_it_has_landed(program: &Program, device: &Device) -> Outcome {
    if let Err(absent) = device.sync_files() {
        println!("without sync files: {absent}");
    }
    let (file, bytes) = (file_of(MIB), bytes_of(MIB));
    let loader = Loader::with(LoaderOptions::default().depth(2).block(65_536))?;
    let open = loader.open(file.path())?;
    let wait = |landed: &Landed| -> Outcome {
        let fenced = landed.fence.is_some();
        check(fenced == device.sync_files().is_ok(), format!("{:?}", landed.fence))?;
        let Some(fence) = &landed.fence else { return Ok(()) };
        let fence = SyncFile::new(fence.as_fd().try_clone_to_owned()?)?;
        Ok(fence.wait(Duration::from_secs(60))?)
    };
    let theirs = program.buffer(700_000, COPIES)?;
    let texture = program.texture(vk::Format::R8G8B8A8_UNORM, [256, 256, 1], 1, 1)?;
    for round in 0..4 {
        // Many reads through few slots, and from the page cache.
        match round % 2 {
            0 => drop_cache(file.as_file()),
            _ => drop(fill_cache(file.path())),
        }
        let buffer = buffer_of(range(device, &theirs, (1, 699_999), Handover::default())?)?;
        let landed = loader.load(whole(&open, 3 + round, &buffer).fenced())?;
        wait(&landed)?;
        let wanted = &bytes[3 + round as usize..][..699_999];
        check(program.read(&theirs)?[1..] == *wanted, "other bytes")?;
        let region = buffer_of(adopt(device, level(&texture, 0))?)?;
        let landed = loader.load(whole(&open, 7 + round, &region).fenced().fingerprints())?;
        wait(&landed)?;
        let wanted = &bytes[7 + round as usize..][..256 * 1024];
        check(landed.fingerprints == [crc32fast::hash(wanted)], "another fingerprint")?;
        check(seen(program, &texture, 0, 256 * 1024, None)? == wanted, "other texels")?;
    }
    // An error has no fence with it: nothing is under way any more, and the texture can go.
    let gone = program.texture(vk::Format::R8G8B8A8_UNORM, [256, 256, 1], 1, 1)?;
    let region = buffer_of(adopt(device, level(&gone, 0))?)?;
    let wrong = loader.load(whole(&open, 7, &region).crc32(1).fenced());
    check(matches!(wrong, Err(TransferError::Mismatch { .. })), format!("{wrong:?}"))?;
    drop(region);
    program.free_texture(gone);
    // What is in the host's memory has landed with the outcome.
    let memory = Arc::new(iomap::Memory::anonymous(4096, iomap::PageSize::Base)?);
    let landed = loader.load(whole(&open, 9, &Buffer::new(memory)?).fenced())?;
    check(landed.fence.is_none(), "a fence of no device")?;
    drop((open, loader));
    program.free_texture(texture);
    program.free(theirs);
    Ok(())
}

/// Threads submit and cancel requests into the host's memory, the program's buffers and its images, of any priority, by one
/// loader; each is answered once, and what has landed is right. `BUFMAP_STORM` says how many for each thread.
fn a_storm_into_any_destination(program: &Program, device: &Device) -> Outcome {
    let file = file_of(MIB);
    let expected = bytes_of(MIB);
    let options = LoaderOptions::default().depth(8).block(16_384).waiting(32);
    let loader = Loader::with(options)?;
    let asked = std::env::var("BUFMAP_STORM").ok().and_then(|count| count.parse().ok());
    let count: u64 = asked.unwrap_or(60);
    let outcomes = thread::scope(|scope| {
        let storms = (0..4).map(|own| {
            let (loader, path, expected) = (loader.clone(), file.path(), expected.as_slice());
            scope.spawn(move || {
                Storm { program, device, loader, expected, numbers: Random(own + 3) }.blow(
                    path,
                    own << 32,
                    count,
                )
            })
        });
        let storms: Vec<_> = storms.collect();
        storms.into_iter().map(|storm| storm.join().expect("no panic")).collect::<Vec<_>>()
    });
    outcomes.into_iter().collect::<Result<(), Stop>>()?;
    let counts = loader.counts();
    let all = (counts.submitted, counts.failed, counts.under_way()) == (4 * count, 0, 0);
    check(all && counts.stopped > 0 && counts.landed > counts.stopped, format!("{counts:?}"))
}

/// One thread of a storm.
struct Storm<'s> {
    program: &'s Program,
    device: &'s Device,
    loader: Loader,
    expected: &'s [u8],
    numbers: Random,
}

impl Storm<'_> {
    fn blow(mut self, path: &Path, tags: u64, count: u64) -> Outcome {
        let open = self.loader.open(path)?;
        let theirs = self.program.buffer(50_000, COPIES)?;
        let texture = self.program.texture(vk::Format::R8G8B8A8_UNORM, [100, 61, 1], 2, 1)?;
        for i in 0..count {
            let memory = Arc::new(iomap::Memory::anonymous(50_000, iomap::PageSize::Base)?);
            let (kind, index) = (self.numbers.below(4), self.numbers.below(2) as u32);
            let buffer = match kind {
                0 => buffer_of(range(self.device, &theirs, (3, 49_001), Handover::default())?)?,
                1 => Buffer::new(memory.clone())?,
                _ => buffer_of(adopt(self.device, level(&texture, index))?)?,
            };
            let len = buffer.len();
            let offset = self.numbers.below(self.expected.len() as u64 - len);
            let mut request = whole(&open, offset, &buffer)
                .priority(Priority::ALL[self.numbers.below(4) as usize])
                .tag(tags | i);
            drop(buffer);
            match self.numbers.below(4) {
                0 => request = request.fingerprints(),
                1 => request = request.fenced(),
                _ => {}
            }
            let answer = match self.numbers.below(4) {
                0 => self.loader.load(request),
                1 => {
                    let completions = Completions::new();
                    self.loader.submit_to(request, &completions)?;
                    self.loader.cancel(tags | i);
                    completions.wait().outcome
                }
                cancelled => {
                    let ticket = self.loader.submit(request)?;
                    if cancelled == 2 {
                        thread::sleep(Duration::from_micros(self.numbers.below(300)));
                        ticket.cancel();
                    }
                    ticket.wait()
                }
            };
            if let Ok(Landed { fence: Some(fence), .. }) = &answer {
                let fence = SyncFile::new(fence.as_fd().try_clone_to_owned()?)?;
                fence.wait(Duration::from_secs(60))?;
            }
            let wanted = &self.expected[offset as usize..(offset + len) as usize];
            // What is given back can be used, whatever came of it.
            let found = match kind {
                0 => self.program.read(&theirs)?[3..49_004].to_vec(),
                1 => support::contents(&memory),
                _ => seen(self.program, &texture, index, len as usize, None)?,
            };
            match answer {
                Ok(_) => check(found[..wanted.len()] == *wanted, format!("{i}: other bytes"))?,
                Err(TransferError::Stopped { .. }) => {}
                Err(error) => return Err(error.into()),
            }
        }
        self.program.free_texture(texture);
        self.program.free(theirs);
        Ok(())
    }
}

/// Without the import of pages and without timelines: what a drive may not be given goes through the page cache, and the
/// outcome says why.
fn what_was_not_enabled_is_a_step_down(program: &Program, device: &Device) -> Outcome {
    let file = file_of(MIB);
    let loader = Loader::new()?;
    let open = loader.open(file.path())?;
    let theirs = program.buffer(MIB, COPIES)?;
    let buffer = buffer_of(range(device, &theirs, (0, MIB), Handover::default())?)?;
    drop_cache(file.as_file());
    let landed = loader.load(whole(&open, 0, &buffer))?;
    for missing in ["VK_EXT_external_memory_host", "timelineSemaphore"] {
        let told = landed.step_downs.iter().any(|step| {
            step.path == DataPath::Staged && step.bytes == MIB as u64 && step.why.contains(missing)
        });
        check(told, format!("{missing}: {:?}", landed.step_downs))?;
    }
    check(program.read(&theirs)? == bytes_of(MIB), "other bytes")?;
    drop((buffer, loader));
    program.free(theirs);
    Ok(())
}

#[cfg(feature = "wgpu")]
mod by_wgpu {
    use exporters::wgpu::{OwnDevice, wgpu};
    use libtest_mimic::Trial;
    use wgpu::{BufferUsages, TextureDimension, TextureFormat, TextureUsages};

    use super::wgpu_program::{asked, buffer, open, read, texels, texture, validated};
    use super::*;

    pub fn trials() -> Vec<Trial> {
        vec![trial("wgpu_s_buffers_and_textures_are_filled", || validated("loaded"))]
    }

    /// What the parent asked for.
    pub fn child() -> Outcome {
        check(asked().as_deref() == Some("loaded"), "another trial")?;
        let (device, queue) = open()?;
        let (both, own) = ((&device, &queue), OwnDevice::new(&device, &queue));
        let (file, bytes) = (file_of(2 * MIB), bytes_of(2 * MIB));
        for loader in loaders()? {
            let open = loader.open(file.path())?;
            drop_cache(file.as_file());
            let usage = BufferUsages::COPY_DST | BufferUsages::COPY_SRC;
            let vertices = buffer(&device, 500_000, usage);
            let range = buffer_of(own.buffer(&vertices, 404..400_404)?)?;
            let landed = loader.load(whole(&open, 4099, &range).fingerprints())?;
            check(landed.fingerprints == [crc32fast::hash(&bytes[4099..404_099])], "another")?;
            check(landed.paths.of(DataPath::Bounce) == 400_000, format!("{:?}", landed.paths))?;
            let steps: Vec<_> =
                landed.step_downs.iter().map(|step| (step.path, step.bytes)).collect();
            check(steps == [(DataPath::Staged, 400_000)], format!("{:?}", landed.step_downs))?;
            let all = |encoder: &mut wgpu::CommandEncoder, back: &wgpu::Buffer| {
                encoder.copy_buffer_to_buffer(&vertices, 0, back, 0, 500_000);
            };
            let seen = read(both, all, 500_000)?;
            check(seen[404..400_404] == bytes[4099..404_099], "other bytes")?;
            let around = seen[..404].iter().chain(&seen[400_404..]);
            check(around.copied().all(|byte| byte == 0), "its neighbours")?;
            let staged = loader.load(whole(&open, 0, &range).require(DataPath::Staged));
            check(matches!(staged, Err(TransferError::DataPath { .. })), format!("{staged:?}"))?;

            let kinds = [
                ((300, 217, 3), (TextureDimension::D2, TextureFormat::Rgba8Unorm)),
                ((65, 33, 9), (TextureDimension::D3, TextureFormat::Rgba16Float)),
                ((400, 300, 1), (TextureDimension::D2, TextureFormat::Bc7RgbaUnorm)),
            ];
            let compressed = device.features().contains(wgpu::Features::TEXTURE_COMPRESSION_BC);
            let has = |format: TextureFormat| compressed || !format.is_compressed();
            for (sides, kind) in kinds.into_iter().filter(|(_, kind)| has(kind.1)) {
                let usage = TextureUsages::COPY_DST | TextureUsages::COPY_SRC;
                let texture = texture(&device, sides, kind, usage);
                for index in 0..3 {
                    match index {
                        1 => drop(fill_cache(file.path())),
                        _ => drop_cache(file.as_file()),
                    }
                    let target = buffer_of(own.level(&texture, index)?)?;
                    let offset = 333_331 * u64::from(index) + 5;
                    loader.load(whole(&open, offset, &target))?;
                    let wanted = &bytes[offset as usize..][..target.len() as usize];
                    let seen = texels(both, &texture, index)?;
                    check(seen == wanted, format!("level {index} of {kind:?} is otherwise"))?;
                }
            }
        }
        Ok(())
    }
}
