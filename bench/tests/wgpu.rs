//! wgpu over dma-bufs of real drivers, on lavapipe and under Khronos' validation layer: whatever the
//! layer says, up to the end of the device, fails the test.

use std::process::ExitCode;
use std::sync::{Arc, Mutex, mpsc};
use std::thread;
use std::time::{Duration, Instant};

use bufmap_bench::dma_buf::{bytes, fill};
use bufmap_bench::leaks::Holdings;
use bufmap_bench::{Outcome, check};
use exporters::drm::{Card, Node};
use exporters::frame::{DrmFourcc, DrmModifier, Frame, FrameError, Picture};
use exporters::gbm::Usage;
use exporters::vulkan::{self, ValidationLog, VulkanError};
use exporters::wgpu::{Device, WgpuError, wgpu};
use exporters::{DmaBuf, DmaHeap, Intent, Udmabuf, gbm};
use iomap::{Memory, PageSize};
use libtest_mimic::Failed;
use wgpu::{BufferUsages, TextureUsages};

const LEN: usize = 64 << 10;

/// A picture whose rows need padding.
const WIDTH: u32 = 100;
const HEIGHT: u32 = 60;
const ROW: usize = WIDTH as usize * 4;

const COPIES: TextureUsages = TextureUsages::COPY_SRC.union(TextureUsages::COPY_DST);

fn main() -> ExitCode {
    bufmap_bench::run(
        "gpu",
        &[
            ("wgpu_a_device_is_opened_with_what_sharing_needs", || on_device(opened)),
            ("wgpu_validation_sees_mistakes", validation_sees_mistakes),
            ("wgpu_a_program_s_own_device_says_what_it_lacks", own_device),
            ("wgpu_a_shader_works_on_an_imported_buffer", || on_device(shader_on_buffer)),
            ("wgpu_an_imported_texture_is_read", || on_device(texture_is_read)),
            ("wgpu_an_imported_texture_is_drawn_into", || on_device(texture_is_drawn_into)),
            ("wgpu_turns_and_brackets_alternate", || on_device(turns_alternate)),
            ("wgpu_a_buffer_of_its_own_leaves", || on_device(buffer_leaves)),
            ("wgpu_a_texture_of_its_own_leaves", || on_device(texture_leaves)),
            ("wgpu_a_picture_of_two_planes_is_read", two_planes),
            ("wgpu_a_turn_waits_for_a_writer", || on_device(turn_waits)),
            ("wgpu_a_turn_ends_when_the_device_is_done", || on_device(turn_ends)),
            ("wgpu_a_handle_dies_with_its_turn", || on_device(handle_dies)),
            ("wgpu_a_handle_that_was_destroyed_is_told", || on_device(destroyed_in_turn)),
            ("wgpu_what_cannot_be_is_refused", || on_device(refusals)),
            ("wgpu_anything_may_be_dropped_first", dropped_in_any_order),
            ("wgpu_a_device_that_is_lost_is_told", lost),
            ("wgpu_threads_share_a_device", || on_device(threads)),
            ("wgpu_a_hundred_cycles_leave_nothing", || on_device(cycles)),
            ("wgpu_a_device_ends_after_all_that_was_made_from_it", the_end),
            // The last, because what it forgets is not closed before the process ends.
            ("wgpu_a_forgotten_turn_keeps_its_memory", forgotten),
        ],
    )
}

fn open(features: wgpu::Features) -> Result<Device, Failed> {
    let wishes = wgpu::DeviceDescriptor { required_features: features, ..Default::default() };
    Ok(Device::open_validated(None, &wishes)?)
}

/// Runs a test on a device, and then hears what the validation layer says. The next test has the same
/// device, because opening it takes longer than most of them.
fn on_device(test: fn(&Device) -> Outcome) -> Outcome {
    let device = match DEVICE.lock().map_err(|_| "a test fell over")?.take() {
        Some(device) => device,
        None => open(wgpu::Features::empty())?,
    };
    test(&device)?;
    is_silent(device.validation().cloned())?;
    *DEVICE.lock().map_err(|_| "a test fell over")? = Some(device);
    Ok(())
}

static DEVICE: Mutex<Option<Device>> = Mutex::new(None);

/// The layer says at a device's end what was not destroyed before it.
fn the_end() -> Outcome {
    on_device(|_| Ok(()))?;
    let device = DEVICE.lock().map_err(|_| "a test fell over")?.take().ok_or("no device")?;
    let log = device.validation().cloned();
    drop(device);
    is_silent(log)
}

fn is_silent(log: Option<ValidationLog>) -> Outcome {
    let messages = log.ok_or("there is no validation layer")?.messages();
    let said: Vec<_> = messages.into_iter().map(|message| message.text).collect();
    check(said.is_empty(), format!("{} messages\n{}", said.len(), said.join("\n")))
}

/// Bytes that no shader and no driver comes upon by itself.
fn noise(len: usize, seed: usize) -> Vec<u8> {
    (0..len).map(|i| (i * 7 + i / 251 * 31 + seed * 13 + 1) as u8).collect()
}

/// Draws rows of noise through the dma-buf.
fn draw(frame: &Frame, seed: usize) -> Outcome {
    let mapping = frame.planes[0].buffer.map()?;
    let access = mapping.begin_cpu_access(Intent::Write)?;
    let plane = frame.rows(0, access.map())?;
    for y in 0..plane.rows() {
        plane.row(y)?.copy_from_slice(0, &noise(plane.row_bytes(), seed + y))?;
    }
    Ok(access.finish()?)
}

/// The rows as they are drawn.
fn drawn(seed: usize) -> Vec<u8> {
    (0..HEIGHT as usize).flat_map(|y| noise(ROW, seed + y)).collect()
}

/// The rows as they are in the dma-buf.
fn rows(frame: &Frame) -> Result<Vec<u8>, Failed> {
    let mapping = frame.planes[0].buffer.map()?;
    let access = mapping.begin_cpu_access(Intent::Read)?;
    let plane = frame.rows(0, access.map())?;
    let mut all = vec![0; plane.row_bytes() * plane.rows()];
    for (y, row) in all.chunks_mut(plane.row_bytes()).enumerate() {
        plane.row(y)?.copy_to_slice(0, row)?;
    }
    access.finish()?;
    Ok(all)
}

/// Buffers of three drivers that are not wgpu's.
fn sources() -> Result<Vec<(&'static str, DmaBuf)>, Failed> {
    let memory = Arc::new(Memory::memfd("shared", LEN, PageSize::Base)?);
    let udmabuf = Udmabuf::open()?.share(memory)?.dma_bufs()[0].clone();
    let heap = DmaHeap::open("system")?.allocate(LEN)?;
    let picture = Card::find("vgem", Node::Primary)?.dumb_buffer(128, LEN as u32 / 512, 32)?;
    let vgem = picture.buffer().dma_buf()?.clone();
    Ok(vec![("udmabuf", udmabuf), ("dma-heap", heap), ("vgem", vgem)])
}

/// Pictures of four drivers that are not wgpu's.
fn frames() -> Result<Vec<(String, Frame)>, Failed> {
    let mut all = Vec::new();
    for (name, format) in [("XR24", DrmFourcc::Xrgb8888), ("AB24", DrmFourcc::Abgr8888)] {
        let layout = Picture::linear(WIDTH, HEIGHT, format).lay_out(64)?;
        for (source, dma_buf) in sources()? {
            all.push((format!("{name} of {source}"), layout.over(&dma_buf)?));
        }
    }
    for driver in ["virtio_gpu", "bochs-drm"] {
        let card = Card::find(driver, Node::Primary)?;
        let linear = [DrmModifier::Linear];
        let device = gbm::Device::open(card.path())?;
        let format = DrmFourcc::Xrgb8888;
        let bo = device.create_with(WIDTH, HEIGHT, format, &linear, Usage::empty())?;
        all.push((format!("XR24 of {driver} by gbm"), bo.export()?));
    }
    Ok(all)
}

/// A word that hears what wgpu has against something.
fn heard<T>(device: &Device, run: impl FnOnce() -> T) -> Result<Option<String>, Failed> {
    use std::future::Future as _;
    use std::task::{Context, Poll, Waker};
    let scope = device.device().push_error_scope(wgpu::ErrorFilter::Validation);
    run();
    let mut popped = std::pin::pin!(scope.pop());
    match popped.as_mut().poll(&mut Context::from_waker(Waker::noop())) {
        Poll::Ready(error) => Ok(error.map(|error| error.to_string())),
        Poll::Pending => Err("wgpu does not answer at once".into()),
    }
}

/// What a buffer holds, as the device sees it.
fn read_buffer(device: &Device, buffer: &wgpu::Buffer) -> Result<Vec<u8>, Failed> {
    let staging = staging(device, buffer.size());
    let mut encoder = device.device().create_command_encoder(&Default::default());
    encoder.copy_buffer_to_buffer(buffer, 0, &staging, 0, buffer.size());
    device.queue().submit([encoder.finish()]);
    mapped(device, &staging)
}

fn staging(device: &Device, size: u64) -> wgpu::Buffer {
    device.device().create_buffer(&wgpu::BufferDescriptor {
        label: None,
        size,
        usage: BufferUsages::COPY_DST | BufferUsages::MAP_READ,
        mapped_at_creation: false,
    })
}

fn mapped(device: &Device, staging: &wgpu::Buffer) -> Result<Vec<u8>, Failed> {
    staging.map_async(wgpu::MapMode::Read, .., |_| ());
    device.device().poll(wgpu::PollType::wait_indefinitely())?;
    let bytes = staging.get_mapped_range(..)?.to_vec();
    staging.unmap();
    Ok(bytes)
}

/// The rows of one plane of a texture, copied by the device.
fn copied(
    device: &Device,
    texture: &wgpu::Texture,
    aspect: wgpu::TextureAspect,
    row: usize,
    rows: u32,
    width: u32,
) -> Result<Vec<u8>, Failed> {
    let pitch = row.next_multiple_of(256);
    let staging = staging(device, pitch as u64 * u64::from(rows));
    let mut encoder = device.device().create_command_encoder(&Default::default());
    encoder.copy_texture_to_buffer(
        wgpu::TexelCopyTextureInfo { texture, mip_level: 0, origin: wgpu::Origin3d::ZERO, aspect },
        wgpu::TexelCopyBufferInfo {
            buffer: &staging,
            layout: wgpu::TexelCopyBufferLayout {
                offset: 0,
                bytes_per_row: Some(pitch as u32),
                rows_per_image: None,
            },
        },
        wgpu::Extent3d { width, height: rows, depth_or_array_layers: 1 },
    );
    device.queue().submit([encoder.finish()]);
    let bytes = mapped(device, &staging)?;
    Ok(bytes.chunks(pitch).flat_map(|padded| &padded[..row]).copied().collect())
}

fn read_texture(device: &Device, texture: &wgpu::Texture) -> Result<Vec<u8>, Failed> {
    copied(device, texture, wgpu::TextureAspect::All, ROW, HEIGHT, WIDTH)
}

/// A compute shader, run over its bindings.
fn compute(
    device: &Device,
    shader: &str,
    bindings: &[wgpu::BindingResource<'_>],
    groups: (u32, u32),
) {
    let module = device.device().create_shader_module(wgpu::ShaderModuleDescriptor {
        label: None,
        source: wgpu::ShaderSource::Wgsl(shader.into()),
    });
    let pipeline = device.device().create_compute_pipeline(&wgpu::ComputePipelineDescriptor {
        label: None,
        layout: None,
        module: &module,
        entry_point: None,
        compilation_options: Default::default(),
        cache: None,
    });
    let entries: Vec<_> = bindings
        .iter()
        .zip(0..)
        .map(|(resource, binding)| wgpu::BindGroupEntry { binding, resource: resource.clone() })
        .collect();
    let group = device.device().create_bind_group(&wgpu::BindGroupDescriptor {
        label: None,
        layout: &pipeline.get_bind_group_layout(0),
        entries: &entries,
    });
    let mut encoder = device.device().create_command_encoder(&Default::default());
    let mut pass = encoder.begin_compute_pass(&Default::default());
    pass.set_pipeline(&pipeline);
    pass.set_bind_group(0, &group, &[]);
    pass.dispatch_workgroups(groups.0, groups.1, 1);
    drop(pass);
    device.queue().submit([encoder.finish()]);
}

fn invert(device: &Device, buffer: &wgpu::Buffer) {
    let groups = (buffer.size() / 4).div_ceil(64) as u32;
    let shader = include_str!("../../shaders/invert.wgsl");
    compute(device, shader, &[buffer.as_entire_binding()], (groups, 1));
}

fn inverted(bytes: &[u8]) -> Vec<u8> {
    bytes.iter().map(|byte| !byte).collect()
}

/// Draws one colour into a rectangle of a texture, and leaves the rest.
fn paint(device: &Device, texture: &wgpu::Texture, [x, y, width, height]: [u32; 4]) {
    let module = device.device().create_shader_module(wgpu::ShaderModuleDescriptor {
        label: None,
        source: wgpu::ShaderSource::Wgsl(include_str!("../../shaders/paint.wgsl").into()),
    });
    let pipeline = device.device().create_render_pipeline(&wgpu::RenderPipelineDescriptor {
        label: None,
        layout: None,
        vertex: wgpu::VertexState {
            module: &module,
            entry_point: None,
            compilation_options: Default::default(),
            buffers: &[],
        },
        primitive: Default::default(),
        depth_stencil: None,
        multisample: Default::default(),
        fragment: Some(wgpu::FragmentState {
            module: &module,
            entry_point: None,
            compilation_options: Default::default(),
            targets: &[Some(texture.format().into())],
        }),
        multiview_mask: None,
        cache: None,
    });
    let view = texture.create_view(&Default::default());
    let mut encoder = device.device().create_command_encoder(&Default::default());
    let mut pass = encoder.begin_render_pass(&wgpu::RenderPassDescriptor {
        color_attachments: &[Some(wgpu::RenderPassColorAttachment {
            view: &view,
            depth_slice: None,
            resolve_target: None,
            ops: wgpu::Operations { load: wgpu::LoadOp::Load, store: wgpu::StoreOp::Store },
        })],
        ..Default::default()
    });
    pass.set_pipeline(&pipeline);
    pass.set_scissor_rect(x, y, width, height);
    pass.draw(0..3, 0..1);
    drop(pass);
    device.queue().submit([encoder.finish()]);
}

/// The same by the CPU. `paint.wgsl` has red 1, green 0.2, blue 0.4, alpha 0.6.
fn painted(mut rows: Vec<u8>, format: DrmFourcc, [x, y, width, height]: [u32; 4]) -> Vec<u8> {
    let pixel: [u8; 4] = match format {
        DrmFourcc::Abgr8888 => [255, 51, 102, 153],
        _ => [102, 51, 255, 153],
    };
    for row in rows.chunks_mut(ROW).skip(y as usize).take(height as usize) {
        row[x as usize * 4..][..width as usize * 4].copy_from_slice(&pixel.repeat(width as usize));
    }
    rows
}

fn opened(device: &Device) -> Outcome {
    let info = device.device().adapter_info();
    check(info.name.contains("llvmpipe"), format!("{info:?}"))?;
    Device::new(device.device().clone(), device.queue().clone())?;
    let nowhere = Device::open(Some("no such GPU"), &Default::default());
    let told = matches!(
        nowhere,
        Err(WgpuError::Vulkan(VulkanError::NoSuchDevice { ref have, .. })) if !have.is_empty()
    );
    check(told, format!("{nowhere:?}"))?;
    let limits = wgpu::Limits { max_texture_dimension_2d: 1 << 30, ..Default::default() };
    let wishes = wgpu::DeviceDescriptor { required_limits: limits, ..Default::default() };
    let greedy = Device::open(None, &wishes);
    check(matches!(greedy, Err(WgpuError::Unavailable(_))), format!("{greedy:?}"))
}

/// The other tests stand on the layer being awake on wgpu's device.
#[allow(unsafe_code)]
fn validation_sees_mistakes() -> Outcome {
    use exporters::vulkan::ash::vk;
    let device = open(wgpu::Features::empty())?;
    let log = device.validation().cloned().ok_or("there is no validation layer")?;
    check(log.messages().is_empty(), format!("{:?}", log.messages()))?;
    let nothing = vk::BufferCreateInfo::default().usage(vk::BufferUsageFlags::TRANSFER_SRC);
    // SAFETY: a buffer without a length is a mistake, which the layer hears and lavapipe survives.
    unsafe {
        let hal = device.device().as_hal::<wgpu::hal::api::Vulkan>().ok_or("not Vulkan")?;
        if let Ok(buffer) = hal.raw_device().create_buffer(&nothing, None) {
            hal.raw_device().destroy_buffer(buffer, None);
        }
    }
    let errors = log.errors();
    check(errors.iter().any(|error| error.contains("size")), format!("{errors:?}"))
}

fn own_device() -> Outcome {
    use std::future::Future;
    use std::task::{Context, Poll, Waker};
    fn at_once<T>(future: impl Future<Output = T>) -> Result<T, Failed> {
        match std::pin::pin!(future).poll(&mut Context::from_waker(Waker::noop())) {
            Poll::Ready(output) => Ok(output),
            Poll::Pending => Err("wgpu does not answer at once".into()),
        }
    }
    let instance = wgpu::Instance::new(wgpu::InstanceDescriptor {
        backends: wgpu::Backends::VULKAN,
        ..wgpu::InstanceDescriptor::new_without_display_handle()
    });
    let adapter = at_once(instance.request_adapter(&Default::default()))??;
    let (device, queue) = at_once(adapter.request_device(&Default::default()))??;
    let refusal = Device::new(device, queue).expect_err("wgpu does not ask for it").to_string();
    let told = refusal.contains("VK_EXT_queue_family_foreign") && refusal.contains("Device::open");
    check(told, refusal)?;

    let ours = open(wgpu::Features::empty())?;
    let other = open(wgpu::Features::empty())?;
    let refusal = Device::new(ours.device().clone(), other.queue().clone())
        .expect_err("the queue is the other's")
        .to_string();
    check(refusal.contains("another device"), refusal)
}

fn shader_on_buffer(device: &Device) -> Outcome {
    for (name, dma_buf) in sources()? {
        let before = noise(LEN, 3);
        fill(&dma_buf, &before)?;
        let usage = BufferUsages::STORAGE | BufferUsages::COPY_SRC;
        let mut shared = device.import_buffer(&dma_buf, usage)?;
        check(shared.len() == dma_buf.len() as u64, format!("{shared:?}"))?;
        let turn = shared.acquire(Intent::ReadWrite)?;
        check(read_buffer(device, &turn)?[..LEN] == before, format!("{name}: other bytes"))?;
        invert(device, &turn);
        turn.release()?;
        check(bytes(&dma_buf, LEN)? == inverted(&before), format!("{name}: not inverted"))?;
    }
    Ok(())
}

fn texture_is_read(device: &Device) -> Outcome {
    for (name, frame) in frames()? {
        draw(&frame, 5)?;
        let usage = TextureUsages::COPY_SRC | TextureUsages::TEXTURE_BINDING;
        let mut shared = device.import_texture(&frame, usage)?;
        let turn = shared.acquire(Intent::Read)?;
        check(read_texture(device, &turn)? == drawn(5), format!("{name}: copied otherwise"))?;

        let words = device.device().create_buffer(&wgpu::BufferDescriptor {
            label: None,
            size: u64::from(WIDTH * HEIGHT * 4),
            usage: BufferUsages::STORAGE | BufferUsages::COPY_SRC,
            mapped_at_creation: false,
        });
        let view = turn.create_view(&Default::default());
        let bindings = [wgpu::BindingResource::TextureView(&view), words.as_entire_binding()];
        let groups = (WIDTH.div_ceil(8), HEIGHT.div_ceil(8));
        let shader = include_str!("../../shaders/read_pixels.wgsl");
        compute(device, shader, &bindings, groups);
        let mut seen = read_buffer(device, &words)?;
        if frame.picture.format == DrmFourcc::Abgr8888 {
            seen.chunks_mut(4).for_each(|pixel| pixel.swap(0, 2));
        }
        check(seen == drawn(5), format!("{name}: a shader sees other pixels"))?;
        turn.release()?;
        check(rows(&frame)? == drawn(5), format!("{name}: reading changed it"))?;
    }
    Ok(())
}

fn texture_is_drawn_into(device: &Device) -> Outcome {
    let place = [10, 20, 70, 15];
    for (name, frame) in frames()? {
        draw(&frame, 9)?;
        let mut shared = device.import_texture(&frame, TextureUsages::RENDER_ATTACHMENT)?;
        let turn = shared.acquire(Intent::ReadWrite)?;
        paint(device, &turn, place);
        turn.release()?;
        let expected = painted(drawn(9), frame.picture.format, place);
        check(rows(&frame)? == expected, format!("{name}: another picture"))?;
    }
    Ok(())
}

fn turns_alternate(device: &Device) -> Outcome {
    let usages = [
        COPIES,
        TextureUsages::TEXTURE_BINDING | COPIES,
        TextureUsages::RENDER_ATTACHMENT | TextureUsages::COPY_SRC,
    ];
    let layout = Picture::linear(WIDTH, HEIGHT, DrmFourcc::Argb8888).lay_out(64)?;
    for (name, dma_buf) in sources()? {
        let frame = layout.over(&dma_buf)?;
        // Two imports of the same memory, which take turns as two programs would.
        let mut buffer = device.import_buffer(&dma_buf, BufferUsages::STORAGE)?;
        for usage in usages {
            let mut texture = device.import_texture(&frame, usage)?;
            for seed in 0..4 {
                draw(&frame, seed)?;
                let turn = buffer.acquire(Intent::ReadWrite)?;
                invert(device, &turn);
                turn.release()?;
                let turn = texture.acquire(Intent::Read)?;
                let seen = read_texture(device, &turn)?;
                check(seen == inverted(&drawn(seed)), format!("{name} {usage:?} {seed}"))?;
                turn.release()?;
            }
        }
    }
    Ok(())
}

fn buffer_leaves(device: &Device) -> Outcome {
    let usage = BufferUsages::STORAGE | BufferUsages::COPY_DST;
    let mut shared = device.create_buffer(LEN as u64, usage)?;
    let dma_buf = shared.dma_buf().clone();
    check(bytes(&dma_buf, LEN)? == vec![0; LEN], "it is not zero")?;
    let sent = noise(LEN, 11);
    let turn = shared.acquire(Intent::ReadWrite)?;
    device.queue().write_buffer(&turn, 0, &sent);
    turn.release()?;
    check(bytes(&dma_buf, LEN)? == sent, "the CPU sees other bytes")?;

    let gpu = vulkan::Device::open_validated(None)?;
    let there = Arc::new(gpu.import_dma_buf(&dma_buf)?);
    let mut seen = vec![0; LEN];
    gpu.transfer()?.read_back(&there, 0, &mut seen)?;
    check(seen == sent, "Vulkan sees other bytes")?;
    drop(there);
    is_silent(gpu.validation().cloned())?;

    // And what comes back is wgpu's to work on; the dma-buf outlives them all.
    fill(&dma_buf, &noise(LEN, 12))?;
    let turn = shared.acquire(Intent::ReadWrite)?;
    invert(device, &turn);
    turn.release()?;
    drop(shared);
    check(bytes(&dma_buf, LEN)? == inverted(&noise(LEN, 12)), "it is not what came back")
}

fn texture_leaves(device: &Device) -> Outcome {
    let format = DrmFourcc::Argb8888;
    let usage = COPIES | TextureUsages::RENDER_ATTACHMENT;
    let modifiers = device.modifiers(format, usage)?;
    check(modifiers.contains(&DrmModifier::Linear), format!("{modifiers:?}"))?;
    let other = open(wgpu::Features::empty())?;
    for modifier in modifiers {
        let mut shared = device.create_texture(WIDTH, HEIGHT, format, &[modifier], usage)?;
        let frame = shared.frame().clone();
        check(frame.picture.modifier == Some(modifier), format!("{frame}"))?;
        let zero = vec![0; ROW * HEIGHT as usize];
        check(rows(&frame)? == zero, format!("{frame} is not zero"))?;
        let turn = shared.acquire(Intent::ReadWrite)?;
        device.queue().write_texture(
            turn.as_image_copy(),
            &drawn(7),
            wgpu::TexelCopyBufferLayout {
                offset: 0,
                bytes_per_row: Some(ROW as u32),
                rows_per_image: None,
            },
            turn.size(),
        );
        paint(device, &turn, [0, 0, 3, 3]);
        turn.release()?;
        let expected = painted(drawn(7), format, [0, 0, 3, 3]);
        check(rows(&frame)? == expected, format!("{frame}: the CPU sees another picture"))?;

        let mut there = other.import_texture(&frame, TextureUsages::COPY_SRC)?;
        let turn = there.acquire(Intent::Read)?;
        check(read_texture(&other, &turn)? == expected, format!("{frame}: another picture"))?;
        turn.release()?;
    }
    let log = other.validation().cloned();
    drop(other);
    is_silent(log)
}

fn two_planes() -> Outcome {
    let device = open(wgpu::Features::TEXTURE_FORMAT_NV12)?;
    let layout = Picture::linear(64, 32, DrmFourcc::Nv12).lay_out(64)?;
    let dma_buf = DmaHeap::open("system")?.allocate(layout.len())?;
    let frame = layout.over(&dma_buf)?;
    fill(&dma_buf, &noise(layout.len(), 2))?;
    let mut shared = device.import_texture(&frame, TextureUsages::COPY_SRC)?;
    let turn = shared.acquire(Intent::Read)?;
    let luma = copied(&device, &turn, wgpu::TextureAspect::Plane0, 64, 32, 64)?;
    let chroma = copied(&device, &turn, wgpu::TextureAspect::Plane1, 64, 16, 32)?;
    turn.release()?;
    check([luma, chroma].concat() == noise(layout.len(), 2), "the planes are others")?;

    let without = open(wgpu::Features::empty())?;
    let refusal = without.import_texture(&frame, TextureUsages::COPY_SRC).map(drop);
    check(matches!(refusal, Err(WgpuError::Unavailable(_))), format!("{refusal:?}"))?;
    let log = device.validation().cloned();
    drop((shared, device));
    is_silent(log)
}

fn turn_waits(device: &Device) -> Outcome {
    let card = Card::find("vgem", Node::Primary)?;
    let picture = card.dumb_buffer(128, 64, 32)?;
    let dma_buf = picture.buffer().dma_buf()?;
    let mapping = dma_buf.map()?;
    let mut shared = device.import_buffer(dma_buf, BufferUsages::COPY_SRC)?;
    let slow = Duration::from_millis(400);
    for (intent, seed) in [(Intent::Read, 4), (Intent::Write, 5)] {
        thread::scope(|scope| -> Outcome {
            let (begins, begun) = mpsc::channel();
            let (picture, mapping) = (&picture, &mapping);
            let writer = scope.spawn(move || -> Outcome {
                // A bracket that is begun under the fence would wait for it itself.
                let access = mapping.begin_cpu_access(Intent::Write)?;
                let writing = picture.gem().begin_write()?;
                begins.send(Instant::now())?;
                thread::sleep(slow);
                access.map().copy_from_slice(0, &noise(LEN / 2, seed))?;
                access.finish()?;
                Ok(writing.end()?)
            });
            let began = begun.recv()?;
            let turn = shared.acquire(intent)?;
            check(began.elapsed() >= slow, "it did not wait")?;
            check(read_buffer(device, &turn)? == noise(LEN / 2, seed), "half a picture")?;
            turn.release()?;
            writer.join().map_err(|_| "the writer fell over")?
        })?;
    }
    Ok(())
}

/// Lavapipe does at once what need not wait, so the last submission is kept waiting by a semaphore.
#[allow(unsafe_code)]
fn turn_ends(device: &Device) -> Outcome {
    use exporters::vulkan::ash::vk;
    let dma_buf = DmaHeap::open("system")?.allocate(LEN)?;
    fill(&dma_buf, &noise(LEN, 1))?;
    let mut shared = device.import_buffer(&dma_buf, BufferUsages::STORAGE)?;
    let turn = shared.acquire(Intent::Write)?;
    let slow = Duration::from_millis(400);
    let mut timeline =
        vk::SemaphoreTypeCreateInfo::default().semaphore_type(vk::SemaphoreType::TIMELINE);
    let create = vk::SemaphoreCreateInfo::default().push_next(&mut timeline);
    // SAFETY: the semaphore is the device's, is waited for once and signalled once, and destroyed when
    // the device is done.
    unsafe {
        let hal = device.device().as_hal::<wgpu::hal::api::Vulkan>().ok_or("not Vulkan")?;
        let queue = device.queue().as_hal::<wgpu::hal::api::Vulkan>().ok_or("not Vulkan")?;
        let ash = hal.raw_device();
        let semaphore = ash.create_semaphore(&create, None)?;
        invert(device, &turn);
        queue.add_wait_semaphore(semaphore, Some(1), vk::PipelineStageFlags::ALL_COMMANDS);
        let began = Instant::now();
        thread::scope(|scope| -> Outcome {
            let signal = scope.spawn(move || {
                thread::sleep(slow);
                let signal = vk::SemaphoreSignalInfo::default().semaphore(semaphore).value(1);
                ash.signal_semaphore(&signal)
            });
            let ended = turn.release();
            let waited = began.elapsed();
            signal.join().map_err(|_| "the signal fell over")??;
            ended?;
            check(waited >= slow, "the turn ended before the device was done")
        })?;
        device.device().poll(wgpu::PollType::wait_indefinitely())?;
        ash.destroy_semaphore(semaphore, None);
    }
    check(bytes(&dma_buf, LEN)? == inverted(&noise(LEN, 1)), "it is not inverted")
}

fn handle_dies(device: &Device) -> Outcome {
    let dma_buf = DmaHeap::open("system")?.allocate(LEN)?;
    let usage = BufferUsages::STORAGE | BufferUsages::COPY_SRC | BufferUsages::COPY_DST;
    let mut shared = device.import_buffer(&dma_buf, usage)?;
    let turn = shared.acquire(Intent::ReadWrite)?;
    let kept = turn.clone();
    let mut encoder = device.device().create_command_encoder(&Default::default());
    encoder.clear_buffer(&kept, 0, None);
    let late = encoder.finish();
    fill(&dma_buf, &noise(LEN, 1))?;
    turn.release()?;
    let submitted = heard(device, || device.queue().submit([late]))?;
    let written = heard(device, || device.queue().write_buffer(&kept, 0, &[0; 16]))?;
    for told in [submitted, written] {
        let told = told.ok_or("wgpu used a buffer after its turn")?;
        check(told.contains("destroyed"), told)?;
    }

    let frame = Picture::linear(100, 60, DrmFourcc::Abgr8888).lay_out(64)?.over(&dma_buf)?;
    let mut shared = device.import_texture(&frame, COPIES | TextureUsages::TEXTURE_BINDING)?;
    let turn = shared.acquire(Intent::ReadWrite)?;
    let (kept, view) = (turn.clone(), turn.create_view(&Default::default()));
    drop(turn);
    let mut encoder = device.device().create_command_encoder(&Default::default());
    encoder.clear_texture(&kept, &Default::default());
    let told = heard(device, || device.queue().submit([encoder.finish()]))?;
    check(told.is_some(), "wgpu used a texture after its turn")?;
    drop(view);
    device.device().poll(wgpu::PollType::wait_indefinitely())?;
    check(bytes(&dma_buf, LEN)? == noise(LEN, 1), "it was written after its turn")
}

fn destroyed_in_turn(device: &Device) -> Outcome {
    let dma_buf = DmaHeap::open("system")?.allocate(LEN)?;
    let frame = Picture::linear(WIDTH, HEIGHT, DrmFourcc::Abgr8888).lay_out(64)?.over(&dma_buf)?;
    let mut shared = device.import_texture(&frame, COPIES)?;
    let turn = shared.acquire(Intent::ReadWrite)?;
    turn.destroy();
    let answer = turn.release();
    check(matches!(answer, Err(WgpuError::Wgpu { .. })), format!("{answer:?}"))?;
    // The next turn is as good as any.
    draw(&frame, 6)?;
    let turn = shared.acquire(Intent::Read)?;
    check(read_texture(device, &turn)? == drawn(6), "another picture")?;
    turn.release()?;
    let mut shared = device.import_buffer(&dma_buf, BufferUsages::COPY_SRC)?;
    let turn = shared.acquire(Intent::Read)?;
    turn.destroy();
    let answer = turn.release();
    check(matches!(answer, Err(WgpuError::Wgpu { .. })), format!("{answer:?}"))
}

fn refusals(device: &Device) -> Outcome {
    let dma_buf = DmaHeap::open("system")?.allocate(LEN)?;
    let sampled = TextureUsages::TEXTURE_BINDING;
    let good = Picture::linear(WIDTH, HEIGHT, DrmFourcc::Argb8888).lay_out(64)?.over(&dma_buf)?;
    device.import_texture(&good, sampled)?;
    let bent = |bend: &dyn Fn(&mut Frame)| {
        let mut frame = good.clone();
        bend(&mut frame);
        device.import_texture(&frame, sampled).map(drop)
    };

    let answer = bent(&|frame| frame.picture.height = 200);
    let told = matches!(answer, Err(WgpuError::Frame(FrameError::TooShort { .. })));
    check(told, format!("too high: {answer:?}"))?;
    let answer = bent(&|frame| frame.planes[0].pitch = 396);
    let told = matches!(answer, Err(WgpuError::Frame(FrameError::Pitch { .. })));
    check(told, format!("rows overlap: {answer:?}"))?;
    let answer = bent(&|frame| frame.planes[0].offset = 1 << 30);
    let told = matches!(answer, Err(WgpuError::Frame(FrameError::TooShort { .. })));
    check(told, format!("outside: {answer:?}"))?;
    let answer = bent(&|frame| frame.picture.modifier = None);
    check(matches!(answer, Err(WgpuError::Layout { .. })), format!("implicit: {answer:?}"))?;
    let answer = bent(&|frame| frame.picture.modifier = Some(DrmModifier::I915_x_tiled));
    check(matches!(answer, Err(WgpuError::Layout { .. })), format!("tiled: {answer:?}"))?;
    let answer = bent(&|frame| frame.picture.modifier = Some(DrmModifier::Invalid));
    let told = matches!(answer, Err(WgpuError::Frame(FrameError::Modifier)));
    check(told, format!("no modifier: {answer:?}"))?;
    let answer = bent(&|frame| frame.picture.format = DrmFourcc::Yuyv);
    check(matches!(answer, Err(WgpuError::Format { .. })), format!("YUYV: {answer:?}"))?;
    let answer =
        device.import_texture(&good, sampled | TextureUsages::TRANSIENT_ATTACHMENT).map(drop);
    check(matches!(answer, Err(WgpuError::Usage { .. })), format!("transient: {answer:?}"))?;
    let answer = device.import_texture(&good, TextureUsages::empty()).map(drop);
    check(matches!(answer, Err(WgpuError::Usage { .. })), format!("no usage: {answer:?}"))?;

    let wide = DmaHeap::open("system")?.allocate(20000 * 4)?;
    let wide = Picture::linear(20000, 1, DrmFourcc::Argb8888).lay_out(64)?.over(&wide)?;
    let answer = device.import_texture(&wide, sampled).map(drop);
    let told = answer.as_ref().is_err_and(|error| error.to_string().contains("at most"));
    check(told, format!("wide: {answer:?}"))?;

    // Two dma-bufs for one picture.
    let nv12 = open(wgpu::Features::TEXTURE_FORMAT_NV12)?;
    let layout = Picture::linear(64, 32, DrmFourcc::Nv12).lay_out(64)?;
    let mut apart = layout.over(&dma_buf)?;
    apart.planes[1].buffer = DmaHeap::open("system")?.allocate(LEN)?;
    let answer = nv12.import_texture(&apart, sampled).map(drop);
    let told = answer.as_ref().is_err_and(|error| error.to_string().contains("several dma-bufs"));
    check(told, format!("two dma-bufs: {answer:?}"))?;
    let answer = nv12.create_texture(64, 32, DrmFourcc::Nv12, &[DrmModifier::Linear], sampled);
    check(matches!(answer, Err(WgpuError::Layout { .. })), format!("new NV12: {answer:?}"))?;

    for usage in [BufferUsages::MAP_READ, BufferUsages::INDIRECT, BufferUsages::empty()] {
        let answer = device.import_buffer(&dma_buf, usage).map(drop);
        check(matches!(answer, Err(WgpuError::Usage { .. })), format!("{usage:?}: {answer:?}"))?;
    }
    for len in [0, 1 << 40, u64::MAX] {
        let answer = device.create_buffer(len, BufferUsages::STORAGE);
        let told = matches!(answer, Err(WgpuError::Vulkan(VulkanError::Length { .. })));
        check(told, format!("{len} bytes: {answer:?}"))?;
    }
    let odd = device.create_buffer(6, BufferUsages::STORAGE)?;
    check(odd.len() == 8, format!("{odd:?}"))?;
    let none = device.create_texture(64, 32, DrmFourcc::Argb8888, &[], sampled);
    check(matches!(none, Err(WgpuError::Layout { .. })), format!("{none:?}"))?;
    let flat = device.create_texture(64, 0, DrmFourcc::Argb8888, &[DrmModifier::Linear], sampled);
    check(matches!(flat, Err(WgpuError::Frame(FrameError::Side { .. }))), format!("{flat:?}"))
}

fn dropped_in_any_order() -> Outcome {
    let before = Holdings::now()?.fds;
    let orders = [[0, 1, 2], [0, 2, 1], [1, 0, 2], [1, 2, 0], [2, 0, 1], [2, 1, 0]];
    for order in orders {
        let device = open(wgpu::Features::empty())?;
        let log = device.validation().cloned();
        let dma_buf = DmaHeap::open("system")?.allocate(LEN)?;
        let frame =
            Picture::linear(WIDTH, HEIGHT, DrmFourcc::Abgr8888).lay_out(64)?.over(&dma_buf)?;
        let mut buffer = device.import_buffer(&dma_buf, BufferUsages::STORAGE)?;
        let sampled = TextureUsages::TEXTURE_BINDING;
        let mut texture = device.import_texture(&frame, sampled)?;
        let turn = buffer.acquire(Intent::ReadWrite)?;
        // In flight while the turn ends by a drop, and its handle is kept.
        for _ in 0..16 {
            invert(&device, &turn);
        }
        let kept = wgpu::Buffer::clone(&turn);
        drop(turn);
        let turn = texture.acquire(Intent::Read)?;
        let view = turn.create_view(&Default::default());
        drop(turn);
        let mut things: [Option<Box<dyn std::any::Any>>; 3] = [
            Some(Box::new(device)),
            Some(Box::new((buffer, texture))),
            Some(Box::new((kept, view))),
        ];
        for index in order {
            things[index] = None;
        }
        is_silent(log)?;
    }
    check(Holdings::now()?.fds == before, "descriptors are left")
}

/// A device that the program itself ends, in a turn and before one.
fn lost() -> Outcome {
    let device = open(wgpu::Features::empty())?;
    let dma_buf = DmaHeap::open("system")?.allocate(LEN)?;
    let mut shared = device.import_buffer(&dma_buf, BufferUsages::STORAGE)?;
    let turn = shared.acquire(Intent::Read)?;
    device.device().destroy();
    let answer = turn.release();
    check(answer.is_err(), "it was given back by a device that is lost")?;
    let answer = shared.acquire(Intent::Read).map(drop);
    check(answer.is_err(), "a device that is lost took it")?;
    let mut other = device.import_buffer(&dma_buf, BufferUsages::STORAGE)?;
    let answer = other.acquire(Intent::Read).map(drop);
    check(answer.is_err(), "a device that is lost took another")?;
    let log = device.validation().cloned();
    drop((shared, other, device));
    is_silent(log)
}

/// Safe code may forget a turn and go on with its handle.
fn forgotten() -> Outcome {
    let device = open(wgpu::Features::empty())?;
    let dma_buf = DmaHeap::open("system")?.allocate(LEN)?;
    fill(&dma_buf, &noise(LEN, 8))?;
    let frame = Picture::linear(WIDTH, HEIGHT, DrmFourcc::Abgr8888).lay_out(64)?.over(&dma_buf)?;
    let mut buffer = device.import_buffer(&dma_buf, BufferUsages::STORAGE)?;
    let mut texture = device.import_texture(&frame, COPIES)?;
    let turn = buffer.acquire(Intent::ReadWrite)?;
    let kept = wgpu::Buffer::clone(&turn);
    std::mem::forget(turn);
    let turn = texture.acquire(Intent::Read)?;
    let picture = wgpu::Texture::clone(&turn);
    std::mem::forget(turn);
    let again = buffer.acquire(Intent::Read).map(drop);
    check(matches!(again, Err(WgpuError::NeverGivenBack)), format!("{again:?}"))?;
    let again = texture.acquire(Intent::Read).map(drop);
    check(matches!(again, Err(WgpuError::NeverGivenBack)), format!("{again:?}"))?;
    drop((buffer, texture));
    invert(&device, &kept);
    read_texture(&device, &picture)?;
    check(bytes(&dma_buf, LEN)? == inverted(&noise(LEN, 8)), "the buffer is gone")?;
    is_silent(device.validation().cloned())
}

fn threads(device: &Device) -> Outcome {
    thread::scope(|scope| {
        let workers: Vec<_> = (0..4)
            .map(|seed| {
                scope.spawn(move || -> Outcome {
                    let dma_buf = DmaHeap::open("system")?.allocate(LEN)?;
                    let mut shared = device.import_buffer(&dma_buf, BufferUsages::STORAGE)?;
                    fill(&dma_buf, &noise(LEN, seed))?;
                    for _ in 0..9 {
                        let turn = shared.acquire(Intent::ReadWrite)?;
                        invert(device, &turn);
                        turn.release()?;
                    }
                    check(bytes(&dma_buf, LEN)? == inverted(&noise(LEN, seed)), "another's bytes")
                })
            })
            .collect();
        workers
            .into_iter()
            .try_for_each(|worker| worker.join().map_err(|_| "a worker fell over")?)
    })
}

fn cycles(device: &Device) -> Outcome {
    let heap = DmaHeap::open("system")?;
    let cycle = |number: usize| -> Outcome {
        let dma_buf = heap.allocate(LEN)?;
        let layout = Picture::linear(WIDTH, HEIGHT, DrmFourcc::Argb8888).lay_out(64)?;
        let frame = layout.over(&dma_buf)?;
        let mut buffer = device.import_buffer(&dma_buf, BufferUsages::COPY_DST)?;
        let mut texture = device.import_texture(&frame, COPIES)?;
        let turn = buffer.acquire(Intent::Write)?;
        device.queue().write_buffer(&turn, 0, &noise(LEN, number));
        turn.release()?;
        drop(texture.acquire(Intent::Read)?);
        check(bytes(&dma_buf, LEN)? == noise(LEN, number), "other bytes")?;
        let own = device.create_buffer(LEN as u64, BufferUsages::STORAGE)?;
        let linear = [DrmModifier::Linear];
        device.create_texture(WIDTH, HEIGHT, DrmFourcc::Argb8888, &linear, COPIES)?;
        device.import_buffer(own.dma_buf(), BufferUsages::STORAGE)?;
        let late = device.import_texture(&frame, TextureUsages::TRANSIENT_ATTACHMENT).map(drop);
        check(late.is_err(), "transient memory is shared")
    };
    cycle(0)?;
    let held = Holdings::now()?;
    for number in 1..=100 {
        cycle(number)?;
    }
    let now = Holdings::now()?;
    check(now.fds == held.fds, format!("{held:?} before, {now:?} now"))?;
    // The driver and wgpu keep some memory for the next; 100 cycles of two mappings each would show.
    check(now.maps < held.maps + 100, format!("{held:?} before, {now:?} now"))
}
