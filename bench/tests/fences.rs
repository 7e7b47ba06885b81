//! Fences from end to end: a slow writer in a process of its own, and every way to wait for it.
//!
//! The writer stops in the middle of each frame until it is told to go on. Whoever waits for its fence
//! has not seen the frame by then, and sees it whole after; whoever does not wait sees half of it, and
//! the tests see that he does.

use std::fs;
use std::io::{self, Read, Write};
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::net::UnixStream;
use std::process::{Child, Command, ExitCode, Stdio};
use std::sync::Arc;
use std::thread::{self, ScopedJoinHandle};
use std::time::Duration;

use bufmap_bench::leaks::{Holdings, bufinfo, hold_no_more};
use bufmap_bench::sync_file::{is_done, is_done_within};
use bufmap_bench::{Outcome, check, validated};
use exporters::drm::{Card, DrmError, DumbBuffer, Node, Writing};
use exporters::vulkan::{Buffer, CopyRegion, Device, Transfer, VulkanError};
use exporters::{DmaBuf, DmaHeap, Intent};
use libtest_mimic::Failed;

/// Makes this program the writer.
const WRITER: &str = "BUFMAP_FENCES_WRITER";

/// Told to the writer in the middle of a frame; every other byte is the number of a frame.
const GO_ON: u8 = u8::MAX;

const ROWS: usize = 64;
const PITCH: usize = 256;
const LEN: usize = ROWS * PITCH;

/// How long nothing must happen for a test to believe that nothing does.
const SHORT: Duration = Duration::from_millis(200);
/// Less than the ten seconds after which the kernel signals a fence of vgem's itself.
const LONG: Duration = Duration::from_secs(8);

fn main() -> ExitCode {
    if std::env::var_os(WRITER).is_some() {
        return bufmap_bench::end("the writer", write_frames());
    }
    bufmap_bench::run(
        "gpu",
        &[
            ("fences_left_out_and_a_reader_sees_half_a_frame", torn),
            ("fences_are_waited_for_by_the_cpu_s_turn", cpu_s_turn),
            ("fences_are_waited_for_by_poll", polled),
            ("fences_are_waited_for_in_sync_objects_and_timelines", sync_objects),
            ("fences_are_waited_for_by_vulkan", || on_device(vulkan_waits)),
            ("fences_on_a_dma_buf_are_waited_for_by_vulkan", || on_device(vulkan_in_turn)),
            ("fences_of_readers_are_waited_for_by_a_writer", || on_device(writer_waits)),
            ("fences_of_vulkan_are_waited_for_by_readers", || on_device(vulkan_writes)),
            ("fences_of_a_writer_that_dies_are_signalled", dead_writer),
            ("fences_leave_nothing_behind", || on_device(leaks)),
        ],
    )
}

/// Runs a test on a device that has sync files.
fn on_device(test: fn(&Device) -> Outcome) -> Outcome {
    validated::on_device(|device| {
        device.sync_files()?;
        test(device)
    })
}

/// The bytes of frame `number`: each row has its own.
fn frame(number: u8) -> Vec<u8> {
    (0..LEN).map(|at| number.wrapping_mul(3).wrapping_add((at / PITCH) as u8)).collect()
}

/// Frame `number` over the upper half of the one before.
fn half(number: u8) -> Vec<u8> {
    let mut bytes = frame(number);
    bytes[LEN / 2..].copy_from_slice(&frame(number - 1)[LEN / 2..]);
    bytes
}

/// Writes what it is asked for into the dma-buf that is its standard output: the upper half of a frame,
/// and row by row the lower half, all under one fence.
fn write_frames() -> Outcome {
    let mut orders = UnixStream::from(io::stdin().as_fd().try_clone_to_owned()?);
    let dma_buf = DmaBuf::new(io::stdout().as_fd().try_clone_to_owned()?)?;
    let card = Card::find("vgem", Node::Primary)?;
    let gem = card.import(&dma_buf)?;
    let mapping = dma_buf.map()?;
    let mut order = [0];
    while orders.read(&mut order)? == 1 {
        let bytes = frame(order[0]);
        let turn = mapping.begin_cpu_access(Intent::Write)?;
        let writing = gem.begin_write()?;
        let (upper, lower) = bytes.split_at(LEN / 2);
        turn.map().copy_from_slice(0, upper)?;
        orders.write_all(b"h")?;
        orders.read_exact(&mut order)?;
        check(order[0] == GO_ON, "an order in the middle of a frame")?;
        for (row, bytes) in lower.chunks(PITCH).enumerate() {
            thread::sleep(Duration::from_millis(3));
            turn.map().copy_from_slice(LEN / 2 + row * PITCH, bytes)?;
        }
        turn.finish()?;
        writing.end()?;
        orders.write_all(b"d")?;
    }
    Ok(())
}

/// The writer, and the frame that it writes into.
struct Writer {
    process: Child,
    orders: UnixStream,
    picture: DumbBuffer,
}

impl Writer {
    /// Starts it and has it write frame 1.
    fn start() -> Result<Self, Failed> {
        let picture = Card::find("vgem", Node::Primary)?.dumb_buffer(PITCH as u32 / 4, 64, 32)?;
        check(picture.buffer().len() == LEN, picture.buffer().len())?;
        let (orders, theirs) = UnixStream::pair()?;
        let output = picture.buffer().dma_buf()?.as_fd().try_clone_to_owned()?;
        let process = Command::new(std::env::current_exe()?)
            .env(WRITER, "1")
            .stdin(Stdio::from(OwnedFd::from(theirs)))
            .stdout(Stdio::from(output))
            .spawn()?;
        orders.set_read_timeout(Some(LONG))?;
        let mut writer = Self { process, orders, picture };
        writer.begin(1)?;
        writer.go_on()?;
        writer.done()?;
        Ok(writer)
    }

    fn dma_buf(&self) -> Result<&DmaBuf, Failed> {
        Ok(self.picture.buffer().dma_buf()?)
    }

    /// Has it write a frame, and returns in the middle of it.
    fn begin(&mut self, number: u8) -> Outcome {
        self.orders.write_all(&[number])?;
        self.hear(b'h')
    }

    fn go_on(&mut self) -> Outcome {
        Ok(self.orders.write_all(&[GO_ON])?)
    }

    /// Returns once it is done: after its fence, which nobody may wait for in this way.
    fn done(&mut self) -> Outcome {
        self.hear(b'd')
    }

    fn hear(&mut self, word: u8) -> Outcome {
        let mut heard = [0];
        self.orders.read_exact(&mut heard)?;
        check(heard[0] == word, format!("the writer says {heard:?}"))
    }

    /// Has it write a frame while a reader in a thread of his own waits for it, and sees the bytes.
    fn waited_for(
        &mut self,
        number: u8,
        read: impl FnOnce() -> Result<Vec<u8>, String> + Send,
    ) -> Outcome {
        self.begin(number)?;
        thread::scope(|scope| {
            let reader = scope.spawn(read);
            thread::sleep(SHORT);
            let early = reader.is_finished();
            self.go_on()?;
            let bytes = joined(reader)?;
            self.done()?;
            check(!early, format!("he did not wait: {:?}", seen(&bytes)))?;
            check(bytes == frame(number), format!("{:?}", seen(&bytes)))
        })
    }
}

impl Drop for Writer {
    fn drop(&mut self) {
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}

/// The first byte of each row.
fn seen(bytes: &[u8]) -> Vec<u8> {
    bytes.chunks(PITCH).map(|row| row[0]).collect()
}

fn joined<T>(thread: ScopedJoinHandle<'_, Result<T, String>>) -> Result<T, Failed> {
    Ok(thread.join().map_err(|_| "a thread panicked")??)
}

fn text(error: impl ToString) -> String {
    error.to_string()
}

/// The frame as the CPU sees it, without a bracket's own wait: that was opened before the frame.
fn look(dma_buf: &DmaBuf, wait: impl FnOnce() -> Outcome) -> Result<Vec<u8>, Failed> {
    let mapping = dma_buf.map()?;
    let turn = mapping.begin_cpu_access(Intent::Read)?;
    wait()?;
    let mut bytes = vec![0; LEN];
    turn.map().copy_to_slice(0, &mut bytes)?;
    turn.finish()?;
    Ok(bytes)
}

fn poll_for_it(fence: &impl AsFd) -> Outcome {
    check(is_done_within(fence, LONG)?, "the fence is not signalled")
}

fn torn() -> Outcome {
    let mut writer = Writer::start()?;
    let dma_buf = writer.dma_buf()?.clone();
    let bytes = look(&dma_buf, || writer.begin(2))?;
    check(bytes == half(2), format!("the CPU sees {:?}", seen(&bytes)))?;
    writer.go_on()?;
    writer.done()?;

    let device = Device::open(None)?;
    let (picture, mut transfer) = (imported(&device, &dma_buf)?, device.transfer()?);
    writer.begin(3)?;
    let mut bytes = vec![0; LEN];
    transfer.read_back(&picture, 0, &mut bytes)?;
    check(bytes == half(3), format!("the device sees {:?}", seen(&bytes)))?;
    writer.go_on()?;
    writer.done()
}

fn cpu_s_turn() -> Outcome {
    let mut writer = Writer::start()?;
    let dma_buf = writer.dma_buf()?.clone();
    writer.waited_for(2, || {
        let mapping = dma_buf.map().map_err(text)?;
        let turn = mapping.begin_cpu_access(Intent::Read).map_err(text)?;
        let mut bytes = vec![0; LEN];
        turn.map().copy_to_slice(0, &mut bytes).map_err(text)?;
        Ok(bytes)
    })
}

/// Has a frame written, waited for by its sync file in some way of the CPU's.
fn waited_for_by(wait: impl FnOnce(OwnedFd) -> Outcome) -> Outcome {
    let mut writer = Writer::start()?;
    let dma_buf = writer.dma_buf()?.clone();
    let bytes = look(&dma_buf, || {
        writer.begin(2)?;
        let fence = dma_buf.export_sync_file(Intent::Read)?;
        check(!is_done(&fence)?, "the writer is in the middle of it")?;
        writer.go_on()?;
        wait(fence)
    })?;
    check(bytes == frame(2), format!("{:?}", seen(&bytes)))?;
    writer.done()
}

fn polled() -> Outcome {
    waited_for_by(|fence| poll_for_it(&fence))
}

fn sync_objects() -> Outcome {
    let card = Card::find("virtio_gpu", Node::Render)?;
    let not_yet = |answer| match answer {
        Err(DrmError::TimedOut { .. }) => Ok(()),
        answer => Err(Failed::from(format!("{answer:?}"))),
    };
    waited_for_by(|fence| {
        let written = card.syncobj()?;
        written.import_sync_file(fence.as_fd())?;
        not_yet(written.wait(Duration::ZERO))?;
        Ok(written.wait(LONG)?)
    })?;
    waited_for_by(|fence| {
        let frames = card.timeline()?;
        frames.import_sync_file(2, fence.as_fd())?;
        not_yet(frames.wait(2, Duration::ZERO))?;
        Ok(frames.wait(2, LONG)?)
    })
}

fn imported(device: &Device, dma_buf: &DmaBuf) -> Result<Arc<Buffer>, Failed> {
    Ok(Arc::new(device.import_dma_buf(dma_buf)?))
}

const ALL: [CopyRegion; 1] = [CopyRegion { src_offset: 0, dst_offset: 0, len: LEN }];

/// The bytes that a copy left, once it is done.
fn result(transfer: &mut Transfer, buffer: &Arc<Buffer>) -> Result<Vec<u8>, Failed> {
    let mut bytes = vec![0; LEN];
    transfer.read_back(buffer, 0, &mut bytes)?;
    Ok(bytes)
}

/// Explicit: by the sync file itself, and by what other boxes made of it.
fn vulkan_waits(device: &Device) -> Outcome {
    let mut writer = Writer::start()?;
    let dma_buf = writer.dma_buf()?.clone();
    let card = Card::find("virtio_gpu", Node::Render)?;
    let (frames, written) = (card.timeline()?, card.syncobj()?);
    let (src, dst) = (imported(device, &dma_buf)?, Arc::new(device.allocate(LEN, false)?));
    let mut transfer = device.transfer()?;
    for number in 2..5 {
        writer.begin(number)?;
        let fence = dma_buf.export_sync_file(Intent::Read)?;
        frames.import_sync_file(u64::from(number), fence.as_fd())?;
        written.import_sync_file(fence.as_fd())?;
        let others = [frames.export_sync_file(u64::from(number))?, written.export_sync_file()?];
        let waits = match number {
            2 => vec![fence.as_fd()],
            3 => vec![others[0].as_fd()],
            _ => others.iter().map(AsFd::as_fd).collect(),
        };
        let ticket = transfer.copy_after(&src, &dst, &ALL, &waits)?;
        thread::sleep(SHORT);
        check(!transfer.is_done(ticket)?, "it did not wait")?;
        writer.go_on()?;
        transfer.wait(ticket)?;
        let bytes = result(&mut transfer, &dst)?;
        check(bytes == frame(number), format!("{number}: {:?}", seen(&bytes)))?;
        writer.done()?;
    }
    // What is no fence is refused, and nothing is copied.
    let nothing = fs::File::open("/dev/null")?;
    let refused = transfer.copy_after(&src, &dst, &ALL, &[nothing.as_fd()]);
    check(matches!(refused, Err(VulkanError::SyncFile(_))), format!("{refused:?}"))
}

/// Implicit: nobody is told of a fence but the dma-buf.
fn vulkan_in_turn(device: &Device) -> Outcome {
    let mut writer = Writer::start()?;
    let (src, dst) = (imported(device, writer.dma_buf()?)?, Arc::new(device.allocate(LEN, false)?));
    let mut transfer = device.transfer()?;
    for number in 2..5 {
        // Software drivers give a sync file of their own only when what comes before it is done.
        writer.waited_for(number, || {
            let ticket = transfer.copy_synced(&src, &dst, &ALL).map_err(text)?;
            transfer.wait(ticket).map_err(text)?;
            result(&mut transfer, &dst).map_err(|e| e.message().unwrap_or_default().to_owned())
        })?;
    }
    Ok(())
}

/// A fence that the test signals, on a buffer of its own.
struct Gate {
    writing: Writing,
    file: OwnedFd,
}

impl Gate {
    fn new() -> Result<Self, Failed> {
        let card = Card::find("vgem", Node::Primary)?;
        let picture = card.dumb_buffer(64, 64, 32)?;
        let writing = picture.gem().begin_write()?;
        let file = picture.buffer().dma_buf()?.export_sync_file(Intent::Read)?;
        check(!is_done(&file)?, "a new fence is signalled")?;
        Ok(Self { writing, file })
    }

    fn open(self) -> Outcome {
        Ok(self.writing.end()?)
    }
}

fn filled(name: &str, byte: u8) -> Result<DmaBuf, Failed> {
    let dma_buf = DmaHeap::open("system")?.allocate(LEN)?;
    dma_buf.set_name(name)?;
    let mapping = dma_buf.map()?;
    let turn = mapping.begin_cpu_access(Intent::Write)?;
    turn.map().fill(byte)?;
    turn.finish()?;
    Ok(dma_buf)
}

/// What is on a dma-buf by its name, as the kernel lists it: `write fence`, `read fence`.
fn fences_on(name: &str) -> Result<Vec<String>, Failed> {
    let list = bufinfo()?;
    let own = list.lines().skip_while(|line| line.split_whitespace().last() != Some(name)).skip(1);
    let fences = own.take_while(|line| line.starts_with('\t') && !line.contains("Attached"));
    Ok(fences.filter_map(|line| Some(line.trim().split_once(':')?.0.to_owned())).collect())
}

/// A frame is replaced only when its readers are done; and whoever copies is a reader here and a writer
/// there.
fn writer_waits(device: &Device) -> Outcome {
    let (here, there) = (filled("from-here", 7)?, filled("to-there", 1)?);
    let (src, dst) = (imported(device, &here)?, imported(device, &there)?);
    let mut transfer = device.transfer()?;
    let gate = Gate::new()?;
    there.import_sync_file(gate.file.as_fd(), Intent::Read)?;
    check(fences_on("to-there")? == ["read fence"], format!("{:?}", fences_on("to-there")?))?;
    thread::scope(|scope| -> Outcome {
        let writer = scope.spawn(|| {
            let ticket = transfer.copy_synced(&src, &dst, &ALL).map_err(text)?;
            transfer.wait(ticket).map_err(text)
        });
        thread::sleep(SHORT);
        // A reader waits for no other reader.
        let bytes = look(&there, || Ok(()))?;
        let early = writer.is_finished();
        gate.open()?;
        joined(writer)?;
        check(!early && bytes == [1; LEN], "it was written under a reader")
    })?;
    check(look(&there, || Ok(()))? == [7; LEN], "it was not written")?;
    let fences = [fences_on("from-here")?, fences_on("to-there")?];
    let wrote = fences[1].iter().any(|fence| fence == "write fence");
    check(fences[0] == ["read fence"] && wrote, format!("{fences:?}"))
}

/// A frame that Vulkan writes in two halves, of which the second comes late.
fn vulkan_writes(device: &Device) -> Outcome {
    let (new, shown) = (filled("new", 7)?, filled("shown", 1)?);
    let (src, dst) = (imported(device, &new)?, imported(device, &shown)?);
    let [upper, lower] = [0, LEN / 2]
        .map(|offset| [CopyRegion { src_offset: offset, dst_offset: offset, len: LEN / 2 }]);
    let mut transfer = device.transfer()?;
    let gate = Gate::new()?;
    let first = transfer.copy(&src, &dst, &upper)?;
    transfer.wait(first)?;
    let second = transfer.copy_after(&src, &dst, &lower, &[gate.file.as_fd()])?;

    thread::scope(|scope| -> Outcome {
        let writer = scope.spawn(|| {
            let done = transfer.sync_file().map_err(text)?.ok_or("it has no fence")?;
            shown.import_sync_file(done.as_fd(), Intent::Write).map_err(text)?;
            Ok(done)
        });
        thread::sleep(SHORT);
        // A GPU has given the fence by now, and a reader in his turn would wait for it. A software driver
        // keeps its caller until all is done: there is nothing to wait for then.
        let bytes = match writer.is_finished() {
            false => look(&shown, || Ok(()))?,
            true => [[7; LEN / 2], [1; LEN / 2]].concat(),
        };
        let torn = bytes == [[7; LEN / 2], [1; LEN / 2]].concat();
        gate.open()?;
        let done = joined(writer)?;
        check(torn, format!("without a fence one sees {:?}", seen(&bytes)))?;
        poll_for_it(&done)?;
        poll_for_it(&shown.export_sync_file(Intent::Read)?)
    })?;
    check(look(&shown, || Ok(()))? == [7; LEN], "the frame is not whole")?;
    check(transfer.is_done(second)?, "its fence was signalled before it was done")?;
    check(fences_on("shown")? == ["write fence"], format!("{:?}", fences_on("shown")?))
}

/// The kernel sees to it that nobody waits for ever.
fn dead_writer() -> Outcome {
    let mut writer = Writer::start()?;
    let dma_buf = writer.dma_buf()?.clone();
    writer.begin(2)?;
    let fence = dma_buf.export_sync_file(Intent::Read)?;
    check(!is_done(&fence)?, "the writer is in the middle of it")?;
    drop(writer);
    poll_for_it(&fence)?;
    check(look(&dma_buf, || Ok(()))? == half(2), "nobody finished the frame")
}

fn leaks(device: &Device) -> Outcome {
    let (here, there) = (filled("here", 1)?, filled("there", 2)?);
    let (src, dst) = (imported(device, &here)?, imported(device, &there)?);
    let mut transfer = device.transfer()?;
    let mut cycle = || -> Outcome {
        let fence = here.export_sync_file(Intent::Write)?;
        let _ = transfer.copy_after(&src, &dst, &ALL, &[fence.as_fd(), fence.as_fd()])?;
        let ticket = transfer.copy_synced(&dst, &src, &ALL)?;
        transfer.wait(ticket)?;
        Ok(())
    };
    hold_no_more(|| Ok(Holdings::now()?.fds), 20..320, |_| cycle())
}
