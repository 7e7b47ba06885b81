//! Vulkan on the driver that is installed here, under the validation layer where that is installed
//! too: an error of the layer fails the trial.

mod common;
#[path = "common/small_udmabufs.rs"]
mod small_udmabufs;
#[path = "common/validated.rs"]
mod validated;

use std::os::fd::AsFd;
use std::process::{Command, ExitCode};
use std::sync::Arc;

use common::{Outcome, Stop, check, need, noise, open_fds, run, trial};
use exporters::frame::{DrmFourcc, Picture};
use exporters::vulkan::{
    Buffer, CopyRegion, Device, ImageUse, VulkanError, Way, When, ash, devices,
};
use exporters::{Exporter, Intent, Udmabuf};
use iomap::{Caching, Location, Memory, PageSize, PhyrKind, Pinned};
use small_udmabufs::SmallUdmabufs;
use validated::{on_device, open};

/// Set for a child of this test that only lists the devices.
const CHILD: &str = "BUFMAP_TEST_LIST_DEVICES";

fn main() -> ExitCode {
    if std::env::var_os(CHILD).is_some() {
        match devices() {
            Ok(devices) => println!("{} devices", devices.len()),
            Err(e) => println!("{e}"),
        }
        return ExitCode::SUCCESS;
    }
    if let Err(e @ VulkanError::Unavailable(_)) = Device::open_validated(None) {
        eprintln!("note: without validation: {e}");
    }
    run(vec![
        trial("devices_describe_themselves", devices_describe_themselves),
        trial("no_loader_and_no_driver_differ", no_loader_and_no_driver_differ),
        trial("selectors_choose", || on_device(selectors_choose)),
        trial("validation_sees_mistakes", validation_sees_mistakes),
        trial("pages_are_imported_without_a_copy", || on_device(pages_are_imported_without_a_copy)),
        trial("the_way_in_is_told", || on_device(the_way_in_is_told)),
        trial("regions_of_any_alignment_are_copied", || {
            on_device(regions_of_any_alignment_are_copied)
        }),
        trial("copies_take_effect_in_order", || on_device(copies_take_effect_in_order)),
        trial("copies_reach_the_cpu", || on_device(copies_reach_the_cpu)),
        trial("buffers_outlive_their_copies", || on_device(buffers_outlive_their_copies)),
        trial("bad_requests_are_refused", || on_device(bad_requests_are_refused)),
        trial("other_devices_are_kept_apart", || on_device(other_devices_are_kept_apart)),
        trial("threads_share_a_device", || on_device(threads_share_a_device)),
        trial("host_visible_memory_is_the_cpus_too", || {
            on_device(host_visible_memory_is_the_cpus_too)
        }),
        trial("what_can_be_pinned_is_known_to_stay", || {
            on_device(what_can_be_pinned_is_known_to_stay)
        }),
        trial("what_cannot_be_pinned_needs_the_opt_in", || {
            on_device(what_cannot_be_pinned_needs_the_opt_in)
        }),
        trial("dma_bufs_go_out_and_in", || on_device(dma_bufs_go_out_and_in)),
        trial("udmabufs_are_imported", || on_device(udmabufs_are_imported)),
        trial("heap_buffers_are_imported", || on_device(heap_buffers_are_imported)),
        trial("fences_come_and_go_as_sync_files", || on_device(fences_come_and_go_as_sync_files)),
        trial("images_go_out_and_in_as_frames", || on_device(images_go_out_and_in_as_frames)),
        trial("the_device_is_an_exporter", || on_device(the_device_is_an_exporter)),
        trial("no_descriptor_leaks", no_descriptor_leaks),
    ])
}

fn memory(bytes: &[u8]) -> Result<Arc<Memory>, Stop> {
    let memory = Memory::memfd("test", bytes.len(), PageSize::Base)?;
    memory.map().copy_from_slice(0, bytes)?;
    Ok(Arc::new(memory))
}

fn imported(device: &Device, bytes: &[u8]) -> Result<Arc<Buffer>, Stop> {
    Ok(Arc::new(need(device.import_memory(memory(bytes)?))?))
}

fn read(device: &Device, buffer: &Arc<Buffer>) -> Result<Vec<u8>, Stop> {
    let mut out = vec![0; buffer.len()];
    device.transfer()?.read_back(buffer, 0, &mut out)?;
    Ok(out)
}

fn whole(len: usize) -> [CopyRegion; 1] {
    [CopyRegion { src_offset: 0, dst_offset: 0, len }]
}

fn devices_describe_themselves() -> Outcome {
    for (index, info) in need(devices())?.into_iter().enumerate() {
        println!("{info:#?}");
        check(info.index == index && !info.name.is_empty(), &info.name)?;
        check(!info.driver.is_empty() && info.max_buffer > 0, &info.driver)?;
        check(info.extensions.len() == 6, info.extensions.len())?;
        let imports = info.extension("VK_EXT_external_memory_host").is_ok();
        check(imports == info.host_import_alignment.is_some(), "an alignment without an import")?;
    }
    Ok(())
}

fn no_loader_and_no_driver_differ() -> Outcome {
    need(devices())?;
    let child = |variable: &str, value: &std::path::Path| -> Result<String, Stop> {
        let output =
            Command::new(std::env::current_exe()?).env(CHILD, "1").env(variable, value).output()?;
        Ok(String::from_utf8_lossy(&output.stdout).into_owned())
    };
    // A file that is no library stands in the loader's place.
    let dir = std::env::temp_dir().join(format!("bufmap-no-loader-{}", std::process::id()));
    std::fs::create_dir_all(&dir)?;
    std::fs::write(dir.join("libvulkan.so.1"), "no library")?;
    let no_loader = child("LD_LIBRARY_PATH", &dir);
    std::fs::remove_dir_all(&dir)?;
    let no_loader = no_loader?;
    check(no_loader.contains("loader cannot be loaded"), no_loader)?;
    let no_driver = child("VK_DRIVER_FILES", "/nonexistent.json".as_ref())?;
    check(no_driver.contains("finds no device"), no_driver)
}

fn selectors_choose(device: &Device) -> Outcome {
    let info = device.info();
    let by_name = Device::open(Some(&info.name.to_uppercase()))?;
    check(by_name.info().name == info.name, &by_name.info().name)?;
    let by_index = Device::open(Some(&info.index.to_string()))?;
    check(by_index.info().index == info.index, by_index.info().index)?;
    for selector in ["99", "no such device"] {
        match Device::open(Some(selector)) {
            Err(e @ VulkanError::NoSuchDevice { .. }) => {
                check(e.to_string().contains(&info.name), e)?;
            }
            other => return Err(Stop::Failed(format!("{selector}: {other:?}"))),
        }
    }
    Ok(())
}

/// The other trials stand on the layer being awake.
fn validation_sees_mistakes() -> Outcome {
    need(devices())?;
    let device = need(Device::open_validated(None))?;
    let log = device.validation().ok_or("a validated device has a log")?.clone();
    check(log.errors().is_empty(), "errors before any mistake")?;
    let no_usage = ash::vk::BufferCreateInfo::default().size(16);
    // SAFETY: a mistake on purpose that every driver survives: the buffer is destroyed unused.
    #[allow(unsafe_code)]
    unsafe {
        let buffer = device.ash().create_buffer(&no_usage, None)?;
        device.ash().destroy_buffer(buffer, None);
    }
    check(!log.errors().is_empty(), "the layer overlooked a buffer without usage")
}

fn pages_are_imported_without_a_copy(device: &Device) -> Outcome {
    let page = PageSize::Base.bytes();
    let bytes = noise(9 << 20, 1);
    let memory = memory(&bytes)?;
    let buffer = Arc::new(need(device.import_memory(memory.clone()))?);
    check(buffer.len() == memory.len(), buffer.len())?;
    check(read(device, &buffer)? == bytes, "the device sees other bytes")?;

    // Written after the import: the device sees that too, so nothing was copied.
    let later = noise(page, 2);
    memory.map().copy_from_slice(3 * page + 5, &later)?;
    let mut back = vec![0; page];
    device.transfer()?.read_back(&buffer, 3 * page + 5, &mut back)?;
    check(back == later, "the device sees the bytes of the import")?;

    let anonymous = Memory::anonymous(page, PageSize::Base)?;
    anonymous.map().copy_from_slice(0, &later)?;
    let buffer = Arc::new(need(device.import_memory(Arc::new(anonymous)))?);
    check(read(device, &buffer)? == later, "anonymous memory reads otherwise")
}

fn the_way_in_is_told(device: &Device) -> Outcome {
    let small = imported(device, &noise(4096, 1))?;
    let takes = device.info().extension("VK_EXT_external_memory_dma_buf").and_then(|()| {
        Udmabuf::open().map(drop).map_err(|e| exporters::Absent::new(e.to_string(), ""))
    });
    match (takes, small.way()) {
        (Ok(()), Way::Udmabuf) => {}
        (Err(absent), Way::HostPages { no_udmabuf }) => {
            check(absent.why.contains(&*no_udmabuf.why), no_udmabuf)?;
            return Ok(());
        }
        (takes, way) => return Err(Stop::Failed(format!("{takes:?}, but {way}"))),
    }
    // Larger than one udmabuf: by address, and the buffer says why.
    let _small = SmallUdmabufs::begin()?;
    let len = Udmabuf::open()?.limit() + 4096;
    let memory = Arc::new(Memory::memfd("test", len, PageSize::Base)?);
    let large = need(device.import_memory(memory))?;
    match large.way() {
        Way::HostPages { no_udmabuf } => {
            check(no_udmabuf.why.contains("size_limit_mb"), no_udmabuf)
        }
        way => Err(Stop::Failed(format!("{len} bytes came by {way}"))),
    }
}

fn regions_of_any_alignment_are_copied(device: &Device) -> Outcome {
    const LEN: usize = 1 << 20;
    let bytes = noise(LEN, 3);
    let src = imported(device, &bytes)?;
    let dst = Arc::new(device.allocate(LEN, false)?);
    let mut transfer = device.transfer()?;
    let clear = imported(device, &vec![0; LEN])?;
    let _ = transfer.copy(&clear, &dst, &whole(LEN))?;

    let mut expected = vec![0; LEN];
    let mut regions = vec![CopyRegion { src_offset: LEN, dst_offset: 0, len: 0 }];
    let draws = noise(1000 * 3, 4);
    let mut dst_offset = 0;
    for draw in draws.chunks_exact(3) {
        let len = 1 + usize::from(draw[0]) * 3;
        let src_offset = usize::from(draw[1]) * 4001;
        let src_offset = src_offset.min(LEN - len);
        dst_offset += usize::from(draw[2] % 7);
        if dst_offset + len > LEN {
            break;
        }
        regions.push(CopyRegion { src_offset, dst_offset, len });
        expected[dst_offset..dst_offset + len]
            .copy_from_slice(&bytes[src_offset..src_offset + len]);
        dst_offset += len;
    }
    let ticket = transfer.copy(&src, &dst, &regions)?;
    transfer.wait(ticket)?;
    check(transfer.is_done(ticket)?, "waited for and not done")?;
    let mut back = vec![0; LEN];
    transfer.read_back(&dst, 0, &mut back)?;
    check(back == expected, "the regions are not where they belong")?;
    let (from, len) = (12_345, 54_321);
    let mut part = vec![0; len];
    transfer.read_back(&dst, from, &mut part)?;
    check(part == expected[from..from + len], "a part reads otherwise")
}

fn copies_take_effect_in_order(device: &Device) -> Outcome {
    const LEN: usize = 2 << 20;
    let buffers: Vec<_> =
        (0..4).map(|_| device.allocate(LEN, false).map(Arc::new)).collect::<Result<_, _>>()?;
    let mut transfer = device.transfer()?;
    for round in 0..8 {
        let bytes = noise(LEN, 100 + round);
        let src = imported(device, &bytes)?;
        let mut last = transfer.copy(&src, &buffers[0], &whole(LEN))?;
        for pair in buffers.windows(2) {
            last = transfer.copy(&pair[0], &pair[1], &whole(LEN))?;
        }
        transfer.wait(last)?;
        let mut back = vec![0; LEN];
        transfer.read_back(&buffers[3], 0, &mut back)?;
        check(back == bytes, format!("round {round} overtook itself"))?;
    }
    Ok(())
}

fn copies_reach_the_cpu(device: &Device) -> Outcome {
    let bytes = noise(1 << 20, 5);
    let src = imported(device, &bytes)?;
    let dst = imported(device, &vec![0; 1 << 20])?;
    let mut transfer = device.transfer()?;
    let ticket = transfer.copy(&src, &dst, &whole(1 << 20))?;
    transfer.wait(ticket)?;
    let mut back = vec![0; 1 << 20];
    dst.cpu().ok_or("imported pages are the CPU's too")?.copy_to_slice(0, &mut back)?;
    check(back == bytes, "the CPU sees other bytes than the device wrote")
}

fn buffers_outlive_their_copies(device: &Device) -> Outcome {
    const LEN: usize = 16 << 20;
    let dst = Arc::new(device.allocate(LEN, false)?);
    for round in 0..20 {
        let bytes = noise(LEN, 200 + round);
        let memory = memory(&bytes)?;
        let pages = Arc::downgrade(&memory);
        let src = Arc::new(need(device.import_memory(memory))?);
        let mut transfer = device.transfer()?;
        let ticket = transfer.copy(&src, &dst, &whole(LEN))?;
        drop(src);
        check(pages.upgrade().is_some(), "pages were freed under a copy")?;
        if round % 2 == 0 {
            transfer.wait(ticket)?;
            check(pages.upgrade().is_none(), "pages are kept past their copy")?;
        }
        drop(transfer);
        check(pages.upgrade().is_none(), "pages are kept past their transfer")?;
        check(read(device, &dst)? == bytes, "a copy was cut short by a drop")?;
    }
    // The device itself may go first.
    let memory = memory(&noise(4096, 1))?;
    let last = open()?;
    let buffer = last.import_memory(memory)?;
    drop(last);
    drop(buffer);
    Ok(())
}

fn bad_requests_are_refused(device: &Device) -> Outcome {
    for len in [0, device.info().max_buffer + 1, usize::MAX] {
        let refused = device.allocate(len, false);
        check(matches!(refused, Err(VulkanError::Length { .. })), format!("{len}: {refused:?}"))?;
    }
    let most = device.info().max_buffer & !4095;
    let mut hoard = Vec::new();
    let out = loop {
        match device.allocate(most, false) {
            Ok(buffer) if hoard.len() < 64 => hoard.push(buffer),
            Ok(_) => break None,
            Err(e) => break Some(e),
        }
    };
    match out {
        None => println!("this driver promises more memory than there can be"),
        Some(e @ VulkanError::OutOfMemory { .. }) => {
            check(e.to_string().contains("free at most"), e)?;
        }
        Some(e @ VulkanError::SystemMemory(_)) => {
            check(device.info().shares_system_memory, e)?;
        }
        Some(e) => return Err(Stop::Failed(format!("{most} bytes: {e}"))),
    }
    drop(hoard);

    let a = imported(device, &noise(8192, 1))?;
    let b = Arc::new(device.allocate(4096, false)?);
    let mut transfer = device.transfer()?;
    let mut refuse = |src, dst, src_offset, dst_offset, len| {
        let refused = transfer.copy(src, dst, &[CopyRegion { src_offset, dst_offset, len }]);
        check(
            matches!(refused, Err(VulkanError::OutOfBounds { .. } | VulkanError::Overlap)),
            format!("{src_offset} {dst_offset} {len}: {refused:?}"),
        )
    };
    refuse(&a, &b, 0, 0, 4097)?;
    refuse(&a, &b, 8192, 0, 1)?;
    refuse(&a, &b, usize::MAX, 0, 2)?;
    refuse(&a, &b, 0, usize::MAX, 2)?;
    refuse(&a, &b, 1, 1, usize::MAX)?;
    refuse(&a, &a, 0, 100, 101)?;
    let refused = transfer.read_back(&b, 1, &mut [0; 4096]);
    check(matches!(refused, Err(VulkanError::OutOfBounds { .. })), format!("{refused:?}"))?;
    let apart =
        transfer.copy(&a, &a, &[CopyRegion { src_offset: 0, dst_offset: 100, len: 100 }])?;
    transfer.wait(apart)?;
    let nothing = transfer.copy(&a, &b, &[])?;
    transfer.wait(nothing)?;
    check(b.export_dma_buf().is_err(), "a buffer left that was not made to")
}

fn other_devices_are_kept_apart(device: &Device) -> Outcome {
    let other = open()?;
    let ours = imported(device, &noise(4096, 1))?;
    let theirs = imported(&other, &noise(4096, 2))?;
    let (mut transfer, mut elsewhere) = (device.transfer()?, other.transfer()?);
    let refused = transfer.copy(&ours, &theirs, &whole(4096));
    check(matches!(refused, Err(VulkanError::OtherDevice)), format!("{refused:?}"))?;
    let second = imported(device, &noise(4096, 3))?;
    let ticket = transfer.copy(&ours, &second, &whole(4096))?;
    // Both have made one copy, so only the ticket's origin tells them apart.
    let fourth = imported(&other, &noise(4096, 4))?;
    let own = elsewhere.copy(&theirs, &fourth, &whole(4096))?;
    elsewhere.wait(own)?;
    let refused = elsewhere.wait(ticket);
    check(matches!(refused, Err(VulkanError::OtherTransfer)), format!("{refused:?}"))?;
    transfer.wait(ticket)?;
    Ok(())
}

fn threads_share_a_device(device: &Device) -> Outcome {
    let work = |seed: u64| -> Result<bool, VulkanError> {
        let bytes = noise(1 << 20, seed);
        let memory = Memory::memfd("test", bytes.len(), PageSize::Base).expect("1 MiB");
        memory.map().copy_from_slice(0, &bytes).expect("in bounds");
        let src = Arc::new(device.import_memory(Arc::new(memory))?);
        let dst = Arc::new(device.allocate(bytes.len(), false)?);
        let mut transfer = device.transfer()?;
        for _ in 0..50 {
            let _ = transfer.copy(&src, &dst, &whole(bytes.len()))?;
        }
        let mut back = vec![0; bytes.len()];
        transfer.read_back(&dst, 0, &mut back)?;
        Ok(back == bytes)
    };
    let results = std::thread::scope(|scope| {
        let threads: Vec<_> = (0..4).map(|seed| scope.spawn(move || work(300 + seed))).collect();
        threads.into_iter().map(|t| t.join().expect("no panic")).collect::<Result<Vec<_>, _>>()
    });
    check(need(results)?.into_iter().all(|same| same), "one thread's bytes are another's")
}

fn host_visible(device: &Device, len: usize) -> Result<Arc<Buffer>, Stop> {
    match device.allocate_host_visible(len) {
        Err(VulkanError::Unavailable(absent)) => Err(Stop::Absent(absent.to_string())),
        buffer => Ok(Arc::new(buffer?)),
    }
}

fn host_visible_memory_is_the_cpus_too(device: &Device) -> Outcome {
    const LEN: usize = (1 << 20) - 100;
    let buffer = host_visible(device, LEN)?;
    check(buffer.len() == 1 << 20 && *buffer.way() == Way::Allocated, buffer.len())?;
    let map = buffer.cpu().ok_or("the CPU does not reach it")?;
    check(map.len() == 1 << 20 && map.as_ptr().addr().is_multiple_of(4096), format!("{map:?}"))?;
    let location = if device.info().shares_system_memory { Location::System } else { Location::Io };
    check(map.location() == location && map.caching() != Caching::Uncached, format!("{map:?}"))?;

    // What the CPU writes the device sees, and the other way round.
    let bytes = noise(1 << 20, 11);
    map.copy_from_slice(0, &bytes)?;
    check(read(device, &buffer)? == bytes, "the device sees other bytes")?;
    let later = noise(1 << 20, 12);
    let src = imported(device, &later)?;
    let mut transfer = device.transfer()?;
    let ticket = transfer.copy(&src, &buffer, &whole(1 << 20))?;
    transfer.wait(ticket)?;
    let mut back = vec![0; 1 << 20];
    map.copy_to_slice(0, &mut back)?;
    check(back == later, "the CPU sees other bytes than the device wrote")?;

    for len in [0, device.info().max_buffer + 1, usize::MAX] {
        let refused = device.allocate_host_visible(len);
        check(matches!(refused, Err(VulkanError::Length { .. })), format!("{len}: {refused:?}"))?;
    }
    Ok(())
}

/// Whether pages can be pinned on this machine at all.
fn need_pins() -> Outcome {
    let memory = Memory::anonymous(PageSize::Base.bytes(), PageSize::Base)?;
    need(Pinned::new(memory.map())).map(drop)
}

fn what_can_be_pinned_is_known_to_stay(device: &Device) -> Outcome {
    need_pins()?;
    let pages = imported(device, &noise(8192, 13))?;
    check(pages.steady()?.map().len() == 8192, "another length")?;

    let buffer = host_visible(device, 3 * 4096)?;
    let steady = match buffer.steady() {
        Err(VulkanError::MayMove { device: name }) if !device.info().shares_system_memory => {
            return check(name == device.info().name, name);
        }
        steady => steady?,
    };
    check(Arc::ptr_eq(steady.buffer(), &buffer), "another buffer")?;
    check(steady.map() == buffer.cpu().ok_or("no bytes")?, "another map")?;
    let phyrs = need(steady.phyrs())?;
    check(phyrs.list().total() == 3 * 4096, format!("{phyrs:?}"))?;
    let system = phyrs.list().iter().all(|range| range.kind() == PhyrKind::System);
    check(system, format!("{phyrs:?}"))
}

/// Pages that cannot be written cannot be pinned for writing, as those of a BAR cannot be at all.
fn what_cannot_be_pinned_needs_the_opt_in(device: &Device) -> Outcome {
    need_pins()?;
    let buffer = host_visible(device, 8192)?;
    let map = buffer.cpu().ok_or("no bytes")?;
    let protect = |protection| {
        // SAFETY: nobody writes the buffer's pages while they are read-only.
        #[allow(unsafe_code)]
        let done = unsafe { libc::mprotect(map.as_ptr().cast(), map.len(), protection) };
        if done == 0 { Ok(()) } else { Err(std::io::Error::last_os_error()) }
    };
    protect(libc::PROT_READ)?;
    let refused = buffer.steady().map(drop);
    // SAFETY: nothing is mapped for a device, and lavapipe moves nothing.
    #[allow(unsafe_code)]
    let promised = unsafe { buffer.assume_it_stays() };
    let phyrs = promised.as_ref().map(|promised| promised.phyrs().map(drop));
    protect(libc::PROT_READ | libc::PROT_WRITE)?;

    let refusal = refused.expect_err("it cannot be pinned");
    check(matches!(refusal, VulkanError::MayMove { .. }), &refusal)?;
    for word in [&device.info().name, "type1 is never told", "Buffer::assume_it_stays"] {
        check(refusal.to_string().contains(word), &refusal)?;
    }
    let absent = phyrs.map_err(ToString::to_string)?.expect_err("it cannot be pinned");
    check(absent.why.contains("cannot be pinned"), absent)?;
    check(promised?.map() == map, "another map")
}

fn dma_bufs_go_out_and_in(device: &Device) -> Outcome {
    const LEN: usize = (1 << 20) + 1;
    let out = Arc::new(need(device.allocate(LEN, true))?);
    let dma_buf = out.export_dma_buf()?;
    println!("{} bytes by {:?}", dma_buf.len(), dma_buf.exporter());
    check(dma_buf.len() >= LEN, dma_buf.len())?;
    let back = Arc::new(device.import_dma_buf(&dma_buf)?);
    check(*back.way() == Way::DmaBuf, back.way())?;
    let unreached = back.steady().expect_err("an import is not mapped").to_string();
    check(unreached.contains("by Device::allocate_host_visible"), unreached)?;

    let bytes = noise(LEN, 6);
    let src = imported(device, &bytes)?;
    let mut transfer = device.transfer()?;
    let ticket = transfer.copy(&src, &out, &whole(LEN))?;
    transfer.wait(ticket)?;
    drop(out);
    let mut seen = vec![0; LEN];
    transfer.read_back(&back, 0, &mut seen)?;
    check(seen == bytes, "the import shows other bytes than the export")
}

fn udmabufs_are_imported(device: &Device) -> Outcome {
    let udmabuf = need(Udmabuf::open())?;
    need(device.info().extension("VK_EXT_external_memory_dma_buf"))?;
    let bytes = noise(4 << 20, 7);
    let shared = udmabuf.share(memory(&bytes)?)?;
    let fds = open_fds();
    let buffer = Arc::new(device.import_dma_buf(&shared.dma_bufs()[0])?);
    check(read(device, &buffer)? == bytes, "the device sees other bytes")?;
    shared.memory().map().fill(9)?;
    check(read(device, &buffer)?.iter().all(|&byte| byte == 9), "later bytes are not seen")?;
    drop(buffer);
    check(open_fds() == fds, format!("{fds} descriptors became {}", open_fds()))
}

fn heap_buffers_are_imported(device: &Device) -> Outcome {
    let heap = need(exporters::DmaHeap::open("system"))?;
    need(device.info().extension("VK_EXT_external_memory_dma_buf"))?;
    let bytes = noise(4 << 20, 8);
    let export = heap.export(bytes.len())?;
    let access = export.cpu()?.begin(Intent::Write)?;
    access.map().copy_from_slice(0, &bytes)?;
    access.finish()?;
    let buffer = Arc::new(device.import_dma_buf(export.dma_buf()?)?);
    check(read(device, &buffer)? == bytes, "the device sees other bytes")
}

fn fences_come_and_go_as_sync_files(device: &Device) -> Outcome {
    let bytes = noise(1 << 20, 14);
    let src = imported(device, &bytes)?;
    let [between, dst] = [0, 0].map(|_| device.allocate(1 << 20, false).map(Arc::new));
    let (between, dst) = (between?, dst?);
    let (mut first, mut second) = (device.transfer()?, device.transfer()?);
    let nothing = std::fs::File::open("/dev/null")?;
    let refused = first.copy_after(&src, &dst, &whole(1 << 20), &[nothing.as_fd()]);
    check(matches!(refused, Err(VulkanError::SyncFile(_))), format!("{refused:?}"))?;

    let _ = first.copy_synced(&src, &between, &whole(1 << 20))?;
    let done = match (device.sync_files(), first.sync_file()) {
        (Ok(()), file) => file?.ok_or("a driver without fences of its own")?,
        (Err(absent), Err(VulkanError::Unavailable(why))) => {
            check(absent == why && !absent.fix.is_empty(), why)?;
            return Err(Stop::Absent(absent.to_string()));
        }
        (_, file) => return Err(Stop::Failed(format!("{file:?}"))),
    };
    let ticket = second.copy_after(&between, &dst, &whole(1 << 20), &[done.as_fd()])?;
    second.wait(ticket)?;
    check(read(device, &dst)? == bytes, "it did not wait for the other transfer")
}

fn images_go_out_and_in_as_frames(device: &Device) -> Outcome {
    let picture = Picture::linear(100, 60, DrmFourcc::Xrgb8888);
    let implicit = Picture { modifier: None, ..picture };
    if let Err(absent) = device.info().extension("VK_EXT_image_drm_format_modifier") {
        for refused in [
            device.image_layouts().map(drop),
            device.image(picture, &[], ImageUse::COPIES).map(drop),
        ] {
            let same = matches!(&refused, Err(VulkanError::Unavailable(why)) if *why == absent);
            check(same, format!("{refused:?}"))?;
        }
        return Err(Stop::Absent(absent.to_string()));
    }
    let layouts = device.image_layouts()?;
    let known = layouts.into_iter().filter(|layout| layout.format == picture.format);
    let modifiers: Vec<_> = known.filter(|l| l.exports).map(|layout| layout.modifier).collect();
    let image = Arc::new(device.image(implicit, &modifiers, ImageUse::COPIES)?);
    println!("{} of {modifiers:?}", image.picture());

    let layout = picture.lay_out(16)?;
    let bytes = noise(layout.len(), 15);
    let src = imported(device, &bytes)?;
    let mut transfer = device.transfer()?;
    let ticket = transfer.copy_to_image(&src, &layout, &image, When::InTurn)?;
    transfer.wait(ticket)?;
    let frame = image.export()?;
    drop(image);
    let back = Arc::new(device.import_image(&frame, ImageUse::COPIES)?);
    let mut seen = vec![0; layout.len()];
    transfer.read_image(&back, &layout, &mut seen)?;
    let rows = |bytes: &[u8]| -> Vec<u8> {
        let pitch = layout.planes[0].pitch as usize;
        bytes.chunks(pitch).flat_map(|row| row[..400].to_vec()).collect()
    };
    check(rows(&seen) == rows(&bytes), "the import shows another picture than the export")
}

fn the_device_is_an_exporter(device: &Device) -> Outcome {
    let export = device.export(10_000)?;
    check(export.len() == 10_000, export.len())?;
    check(export.provider().to_string().contains(&device.info().name), export.provider())?;
    check(export.phyrs().is_err(), "a driver's addresses are its secret")?;
    let access = need(export.cpu())?.begin(Intent::Write)?;
    access.map().copy_from_slice(9_996, b"last")?;
    check(access.map().copy_from_slice(9_997, b"past").is_err(), "past the end")?;
    access.finish()?;
    match export.dma_buf() {
        Ok(dma_buf) => check(dma_buf.len() >= 10_000, dma_buf.len()),
        Err(absent) => check(absent.why.contains("dma_buf"), absent),
    }
}

fn no_descriptor_leaks() -> Outcome {
    let cycle = |device: &Device| -> Outcome {
        let src = imported(device, &noise(1 << 16, 9))?;
        let exportable = device.allocate(1 << 16, true);
        let exported = exportable.as_ref().map(Buffer::export_dma_buf);
        if let Ok(dma_buf) = exported {
            device.import_dma_buf(&dma_buf?)?;
        }
        let dst = Arc::new(device.allocate(1 << 16, false)?);
        let mut transfer = device.transfer()?;
        let _ = transfer.copy(&src, &dst, &whole(1 << 16))?;
        Ok(())
    };
    on_device(|_| Ok(()))?;
    let before = open_fds();
    {
        let device = need(Device::open(None))?;
        cycle(&device)?;
        let during = open_fds();
        for _ in 0..300 {
            cycle(&device)?;
        }
        check(open_fds() == during, format!("{during} descriptors became {}", open_fds()))?;
    }
    for _ in 0..10 {
        let device = need(Device::open(None))?;
        cycle(&device)?;
    }
    check(open_fds() == before, format!("{before} descriptors became {}", open_fds()))
}
