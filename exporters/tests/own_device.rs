//! A program's own Vulkan device: adopted, copied into by this crate, and left as it was.

mod common;
#[path = "common/program.rs"]
mod program;

use std::process::ExitCode;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use common::{Outcome, Stop, check, noise, open_fds, run, trial};
use exporters::vulkan::ash::vk;
use exporters::vulkan::{Buffer, CopyRegion, Device, Handles, VulkanError, Way};
use iomap::{Memory, PageSize};
use program::{ALL, BARE, Program, Wishes};

fn main() -> ExitCode {
    run(vec![
        trial("every_call_works_on_a_program_s_own_device", || {
            on_each(every_call_works_on_a_program_s_own_device)
        }),
        trial("an_extension_that_is_off_is_a_step_down", an_extension_that_is_off_is_a_step_down),
        trial("copies_are_counted_without_timelines", copies_are_counted_without_timelines),
        trial("the_program_s_lock_is_held_during_submissions", || {
            on_each(the_program_s_lock_is_held_during_submissions)
        }),
        trial("a_lock_that_calls_nothing_is_told", a_lock_that_calls_nothing_is_told),
        trial("what_cannot_be_adopted_is_refused", what_cannot_be_adopted_is_refused),
        trial("validation_sees_what_is_left_behind", validation_sees_what_is_left_behind),
        trial("no_descriptor_leaks", no_descriptor_leaks),
    ])
}

/// Without timeline semaphores, with all else.
const NO_TIMELINES: Wishes = Wishes { timelines: false, ..ALL };

/// Vulkan 1.1, with timeline semaphores by their extension.
const BY_EXTENSION: Wishes = Wishes {
    version: vk::API_VERSION_1_1,
    extensions: &[exporters::vulkan::ash::khr::timeline_semaphore::NAME],
    timelines: true,
};

/// Runs a trial on devices with all, with nothing and in between, each up to its end, where the layer counts what is
/// left.
fn on_each(run: fn(&Program, &Device) -> Outcome) -> Outcome {
    for wishes in [ALL, NO_TIMELINES, BY_EXTENSION, BARE] {
        on(wishes, run)?;
    }
    Ok(())
}

fn on(wishes: Wishes, run: fn(&Program, &Device) -> Outcome) -> Outcome {
    let program = Program::open(wishes)?;
    let outcome = program.adopt().and_then(|device| run(&program, &device));
    let end = program.end();
    outcome?;
    end
}

fn whole(len: usize) -> [CopyRegion; 1] {
    [CopyRegion { src_offset: 0, dst_offset: 0, len }]
}

/// A buffer of these bytes that the device copies from.
fn filled(device: &Device, bytes: &[u8]) -> Result<Arc<Buffer>, Stop> {
    let staging = device.staging(bytes.len())?;
    staging.buffer().cpu().ok_or("the CPU fills it")?.copy_from_slice(0, bytes)?;
    Ok(staging.buffer().clone())
}

fn read(device: &Device, buffer: &Arc<Buffer>) -> Result<Vec<u8>, Stop> {
    let mut out = vec![0; buffer.len()];
    device.transfer()?.read_back(buffer, 0, &mut out)?;
    Ok(out)
}

fn every_call_works_on_a_program_s_own_device(program: &Program, device: &Device) -> Outcome {
    let info = device.info();
    check(!info.name.is_empty() && info.index == 0, &info.name)?;
    check(device.queue_family() == program.family, device.queue_family())?;
    check(device.validation().is_none(), "the program's layer is the program's")?;
    let bytes = noise(5 << 20, 1);
    let src = filled(device, &bytes)?;
    let dst = Arc::new(device.allocate(bytes.len(), false)?);
    let mut transfer = device.transfer()?;
    for _ in 0..20 {
        let ticket = transfer.copy(&src, &dst, &whole(bytes.len()))?;
        transfer.wait(ticket)?;
        check(transfer.is_done(ticket)?, "waited for and not done")?;
    }
    check(read(device, &dst)? == bytes, "other bytes")?;
    // Several in flight, and dropped with them.
    for seed in 2..10 {
        let src = filled(device, &noise(1 << 20, seed))?;
        let _ = transfer.copy(&src, &dst, &whole(1 << 20))?;
    }
    drop(transfer);
    check(read(device, &dst)?[..1 << 20] == noise(1 << 20, 9), "a copy was cut short by a drop")?;
    match device.import_memory(Arc::new(Memory::memfd("own", 1 << 16, PageSize::Base)?)) {
        Ok(pages) => {
            check(program.wishes.extensions.len() > 1, "pages came without an extension")?;
            pages.cpu().ok_or("pages of the process")?.copy_from_slice(0, &bytes[..1 << 16])?;
            check(read(device, &Arc::new(pages))? == bytes[..1 << 16], "other pages")
        }
        Err(VulkanError::Unavailable(absent)) => {
            check(program.wishes.extensions.len() <= 1, &absent)?;
            check(absent.fix.contains("Device::adopt"), absent)
        }
        Err(error) => Err(error.into()),
    }
}

fn an_extension_that_is_off_is_a_step_down() -> Outcome {
    on(ALL, |_, device| {
        let staging = device.staging(1 << 20)?;
        match device.info().extension("VK_EXT_external_memory_host") {
            Err(absent) => Err(Stop::Absent(absent.to_string())),
            Ok(()) => {
                check(staging.pages().is_ok(), "imported pages are pages")?;
                check(*staging.buffer().way() != Way::Allocated, staging.buffer().way())
            }
        }
    })?;
    on(BARE, |_, device| {
        for (name, there) in &device.info().extensions {
            let absent = there.clone().expect_err("nothing is on");
            check(absent.why.contains(name), &absent)?;
        }
        check(device.info().host_import_alignment.is_none(), "an alignment without an import")?;
        check(device.sync_files().is_err(), "sync files without an extension")?;
        let refused = device.allocate(4096, true).map(drop);
        check(matches!(refused, Err(VulkanError::Unavailable(_))), format!("{refused:?}"))?;
        let staging = device.staging(1 << 20)?;
        check(*staging.buffer().way() == Way::Allocated, staging.buffer().way())?;
        // Of a software driver the memory is pages all the same, and the kernel is asked.
        let pages = iomap::Pinned::new(staging.buffer().cpu().ok_or("mapped")?).map(drop);
        check(pages.is_ok() == staging.pages().is_ok(), format!("{:?}", staging.pages()))?;
        let why = staging.not_imported().ok_or("a reason")?;
        check(why.why.contains("created without VK_EXT_external_memory_host"), why)
    })
}

fn copies_are_counted_without_timelines() -> Outcome {
    for (wishes, counts) in
        [(ALL, true), (BY_EXTENSION, true), (NO_TIMELINES, false), (BARE, false)]
    {
        let program = Program::open(wishes)?;
        let device = program.adopt()?;
        match device.timelines() {
            Ok(()) => check(counts, "a timeline without the feature")?,
            Err(absent) => {
                check(!counts, &absent)?;
                check(absent.why.contains("timelineSemaphore"), absent)?;
            }
        }
        let (src, dst) = (filled(&device, &noise(1 << 20, 3))?, device.allocate(1 << 20, false)?);
        let dst = Arc::new(dst);
        let mut transfer = device.transfer()?;
        let tickets = (0..50)
            .map(|_| transfer.copy(&src, &dst, &whole(1 << 20)))
            .collect::<Result<Vec<_>, _>>()?;
        // The last is done after all others.
        transfer.wait(tickets[49])?;
        for ticket in tickets {
            check(transfer.is_done(ticket)?, "done out of order")?;
        }
        let mut other = device.transfer()?;
        let ticket = other.copy(&src, &dst, &whole(1))?;
        let refused = transfer.wait(ticket);
        check(matches!(refused, Err(VulkanError::OtherTransfer)), format!("{refused:?}"))?;
        other.wait(ticket)?;
        drop((src, dst, transfer, other, device));
        program.end()?;
    }
    Ok(())
}

/// One thread of the program submits frames meanwhile, and nobody meets anybody in the queue.
fn the_program_s_lock_is_held_during_submissions(program: &Program, device: &Device) -> Outcome {
    let (src, dst) = (filled(device, &noise(1 << 16, 3))?, device.allocate(1 << 16, false)?);
    let dst = Arc::new(dst);
    let mut transfer = device.transfer()?;
    let before = program.lock.taken();
    for _ in 0..10 {
        let _ = transfer.copy(&src, &dst, &whole(1 << 16))?;
    }
    check(program.lock.taken() == before + 10, "a submission without the lock")?;
    check(!program.lock.is_held(), "it was not given back")?;

    let (lock, over) = (&program.lock, AtomicBool::new(false));
    let blocked = std::thread::scope(|scope| -> Result<bool, Stop> {
        let copies = lock.with(|| {
            let copies = scope.spawn(|| {
                let ticket = transfer.copy(&src, &dst, &whole(1 << 16));
                over.store(true, Ordering::Release);
                ticket.and_then(|ticket| transfer.wait(ticket))
            });
            std::thread::sleep(std::time::Duration::from_millis(50));
            (copies, over.load(Ordering::Acquire))
        });
        copies.0.join().map_err(|_| "a panic")??;
        Ok(!copies.1)
    })?;
    check(blocked, "a copy was submitted while the program had the lock")
}

fn a_lock_that_calls_nothing_is_told() -> Outcome {
    let program = Program::open(ALL)?;
    let handles = Handles::new(&program.instance, program.physical, &program.device, ALL.version)
        .timeline_semaphores()
        .queue(program.family, program.queue, |_: &mut dyn FnMut()| ());
    // SAFETY: as the program was opened; nothing is submitted.
    #[allow(unsafe_code)]
    let device = unsafe { Device::adopt(handles) }?;
    let (src, dst) = (filled(&device, &noise(4096, 3))?, Arc::new(device.allocate(4096, false)?));
    let refused = device.transfer()?.copy(&src, &dst, &whole(4096));
    check(matches!(refused, Err(VulkanError::NotSubmitted)), format!("{refused:?}"))?;
    drop((src, dst, device));
    program.end()
}

fn what_cannot_be_adopted_is_refused() -> Outcome {
    let program = Program::open(ALL)?;
    let handles =
        |version| Handles::new(&program.instance, program.physical, &program.device, version);
    let lock = || std::sync::Mutex::new(());
    // SAFETY: as the program was opened; what is said less is true too.
    #[allow(unsafe_code)]
    let (old, idle, ours) = unsafe {
        (
            Device::adopt(handles(vk::API_VERSION_1_0).queue(
                program.family,
                program.queue,
                lock(),
            )),
            Device::adopt(handles(ALL.version)),
            Device::adopt(handles(ALL.version).queue(program.family, program.queue, lock())),
        )
    };
    check(matches!(old, Err(VulkanError::Unsupported { .. })), format!("{old:?}"))?;
    check(matches!(idle, Err(VulkanError::Unavailable(_))), format!("{idle:?}"))?;
    // A mutex is a lock too.
    let ours = ours?;
    let src = filled(&ours, &noise(4096, 3))?;
    check(read(&ours, &src)? == noise(4096, 3), "other bytes")?;
    drop((src, ours));
    program.end()
}

/// The other trials stand on the layer counting what is left.
fn validation_sees_what_is_left_behind() -> Outcome {
    let program = Program::open(ALL)?;
    if program.said().is_none() {
        program.end()?;
        return Err(Stop::Absent("the validation layer is not installed".into()));
    }
    let device = program.adopt()?;
    let buffer = device.allocate(4096, false)?;
    std::mem::forget((device, buffer));
    match program.end() {
        Err(Stop::Failed(said)) => check(said.contains("VkBuffer"), said),
        _ => Err(Stop::Failed("the layer overlooked a buffer that is left".into())),
    }
}

fn no_descriptor_leaks() -> Outcome {
    let cycle = || {
        on(ALL, |_, device| {
            let src = filled(device, &noise(1 << 16, 9))?;
            let dst = Arc::new(device.allocate(1 << 16, false)?);
            let _ = device.transfer()?.copy(&src, &dst, &whole(1 << 16))?;
            Ok(())
        })
    };
    cycle()?;
    let before = open_fds();
    for _ in 0..10 {
        cycle()?;
    }
    check(open_fds() == before, format!("{before} descriptors became {}", open_fds()))
}
