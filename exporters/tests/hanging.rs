//! Peers that send files of a file system that never answers: no wait is longer than it says.

// No trial here looks at bytes.
#[allow(dead_code)]
mod common;
#[path = "common/fuse.rs"]
mod fuse;

use std::io::IoSlice;
use std::mem::MaybeUninit;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::process::ExitCode;
use std::time::{Duration, Instant};

use common::{Outcome, Stop, check, need, open_fds, run, trial};
use exporters::frame::{DrmFourcc, FramePlane, Picture};
use exporters::socket::{Link, MAX_FDS, MAX_LEN, Sink, SocketError, Source, Text};
use exporters::{DmaBuf, DmaBufError, DmaHeap, SyncFile, SyncFileError, Udmabuf};
use fuse::{Hanging, opcode};
use iomap::{Memory, PageSize};
use rustix::net::{
    AddressFamily, SendAncillaryBuffer, SendAncillaryMessage, SendFlags, SocketFlags, SocketType,
};

fn main() -> ExitCode {
    run(vec![
        trial("a_file_system_hangs_as_it_should", a_file_system_hangs_as_it_should),
        trial("files_that_hang_are_neither_dma_bufs_nor_fences", neither_dma_bufs_nor_fences),
        trial("pools_of_files_that_hang_are_refused", pools_are_refused),
        trial("fences_that_hang_are_refused", fences_are_refused),
        trial("messages_whose_files_hang_are_refused", messages_are_refused),
        trial("a_link_is_left_with_files_under_way", a_link_is_left_with_files_under_way),
        trial("threads_that_hang_are_bounded", threads_that_hang_are_bounded),
    ])
}

const LIMIT: Duration = Duration::from_secs(5);
const PICTURE: Picture = Picture::linear(64, 16, DrmFourcc::Xrgb8888);

/// Does what must not wait.
fn at_once<T>(work: impl FnOnce() -> T) -> Result<T, Stop> {
    let begun = Instant::now();
    let done = work();
    let took = begun.elapsed();
    check(took < Duration::from_secs(2), format!("it took {took:?}"))?;
    Ok(done)
}

fn pair() -> Result<(OwnedFd, OwnedFd), Stop> {
    let (family, kind) = (AddressFamily::UNIX, SocketType::SEQPACKET);
    Ok(rustix::net::socketpair(family, kind, SocketFlags::CLOEXEC, None)?)
}

fn send(socket: &OwnedFd, bytes: &[u8], fds: &[BorrowedFd<'_>]) -> Outcome {
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(253))];
    let mut control = SendAncillaryBuffer::new(&mut space);
    check(control.push(SendAncillaryMessage::ScmRights(fds)), "no room")?;
    let flags = SendFlags::NOSIGNAL | SendFlags::DONTWAIT;
    rustix::net::sendmsg(socket, &[IoSlice::new(bytes)], &mut control, flags)?;
    Ok(())
}

/// A message that offers a page-sized frame in each of so many buffers.
fn pool_of(count: usize) -> Vec<u8> {
    let planes = |buffer| vec![FramePlane { buffer, offset: 0, pitch: 256 }];
    let frames = (0..count as u32).map(planes).collect();
    Text::Pool { picture: PICTURE, frames, fds: count }.encode()
}

fn dma_buf() -> Result<DmaBuf, Stop> {
    if let Ok(udmabuf) = Udmabuf::open() {
        let memory = Memory::memfd("test", 4096, PageSize::Base)?;
        return Ok(udmabuf.create(&memory, 0..memory.len())?);
    }
    Ok(need(DmaHeap::open("system"))?.allocate(4096)?)
}

/// The other trials rely on it: what is asked of this file waits.
fn a_file_system_hangs_as_it_should() -> Outcome {
    let hanging = Hanging::mount()?;
    let file = hanging.open_kept()?;
    std::thread::scope(|scope| -> Outcome {
        let asks = scope.spawn(|| rustix::fs::fstatfs(&file).map(drop));
        hanging.is_asked(opcode::STATFS)?;
        std::thread::sleep(Duration::from_millis(300));
        check(!asks.is_finished(), "it was answered")?;
        drop(hanging);
        check(asks.join().is_ok_and(|answer| answer.is_err()), "no error")
    })
}

fn neither_dma_bufs_nor_fences() -> Outcome {
    let hanging = Hanging::mount()?;
    let file = hanging.open()?;
    let error = at_once(|| DmaBuf::new(file))?.err().ok_or("a dma-buf")?;
    check(matches!(error, DmaBufError::NotADmaBuf { .. }), &error)?;
    let file = hanging.open()?;
    let error = at_once(|| SyncFile::new(file))?.err().ok_or("a sync file")?;
    check(matches!(error, SyncFileError::NotASyncFile { .. }), &error)?;
    hanging.was_only_flushed()
}

fn pools_are_refused() -> Outcome {
    for count in [1, 2, 16] {
        let hanging = Hanging::mount()?;
        let (ours, theirs) = pair()?;
        let file = hanging.open_kept()?;
        send(&theirs, &pool_of(count), &vec![file.as_fd(); count])?;
        let error = at_once(|| Sink::accept(Link::new(ours), LIMIT))?.err().ok_or("accepted")?;
        let refused = matches!(
            error,
            SocketError::Buffer { index: 0, source: DmaBufError::NotADmaBuf { .. } }
        );
        check(refused, &error)?;
        hanging.was_only_flushed()?;
    }
    // One that follows a good one.
    let (hanging, good) = (Hanging::mount()?, dma_buf()?);
    let (ours, theirs) = pair()?;
    let file = hanging.open_kept()?;
    send(&theirs, &pool_of(2), &[good.as_fd(), file.as_fd()])?;
    let error = at_once(|| Sink::accept(Link::new(ours), LIMIT))?.err().ok_or("accepted")?;
    check(matches!(error, SocketError::Buffer { index: 1, .. }), &error)?;
    hanging.was_only_flushed()
}

fn fences_are_refused() -> Outcome {
    let good = dma_buf()?;
    let no_fence = |error: &SocketError| {
        matches!(error, SocketError::Fence(SyncFileError::NotASyncFile { .. }))
    };
    let hanging = Hanging::mount()?;
    let (ours, theirs) = pair()?;
    send(&theirs, &pool_of(1), &[good.as_fd()])?;
    let mut sink = Sink::accept(Link::new(ours), LIMIT)?;
    let ready = Text::Ready { slot: 0, number: 0, fence: true }.encode();
    let file = hanging.open_kept()?;
    send(&theirs, &ready, &[file.as_fd()])?;
    let error = at_once(|| sink.next(LIMIT))?.err().ok_or("accepted")?;
    check(no_fence(&error), &error)?;
    hanging.was_only_flushed()?;

    let hanging = Hanging::mount()?;
    let (ours, theirs) = pair()?;
    let frames = [PICTURE.lay_out(64)?.over(&good)?];
    let mut source = Source::offer(Link::new(ours), &frames, LIMIT)?;
    let free = source.free(LIMIT)?;
    source.ready(free, None, LIMIT)?;
    let file = hanging.open_kept()?;
    send(&theirs, &Text::Released { slot: 0, fence: true }.encode(), &[file.as_fd()])?;
    let error = at_once(|| source.free(LIMIT))?.err().ok_or("accepted")?;
    check(no_fence(&error), &error)?;
    hanging.was_only_flushed()
}

/// Files that come with a message which is refused before they are looked at.
fn messages_are_refused() -> Outcome {
    type Case = (Vec<u8>, usize, fn(&SocketError) -> bool);
    let cases: [Case; 5] = [
        (pool_of(1), 2, |e| matches!(e, SocketError::FdCount { told: 1, found: 2 })),
        (pool_of(1), MAX_FDS + 1, |e| matches!(e, SocketError::TooManyFds { .. })),
        (pool_of(1), 253, |e| matches!(e, SocketError::TooManyFds { .. })),
        (vec![0; MAX_LEN + 1], 1, |e| matches!(e, SocketError::TooLong { .. })),
        (b"GETTHEFRAMES".to_vec(), 1, |e| matches!(e, SocketError::Wire(_))),
    ];
    for (bytes, count, wanted) in cases {
        let hanging = Hanging::mount()?;
        let (ours, theirs) = pair()?;
        let file = hanging.open_kept()?;
        send(&theirs, &bytes, &vec![file.as_fd(); count])?;
        let error = at_once(|| Sink::accept(Link::new(ours), LIMIT))?.err().ok_or("accepted")?;
        check(wanted(&error), &error)?;
        hanging.was_only_flushed()?;
    }
    Ok(())
}

/// What nobody received is closed with the socket, which waits for pages of the file that others wrote.
fn a_link_is_left_with_files_under_way() -> Outcome {
    let hanging = Hanging::mount()?;
    hanging.hang_in_writes_only();
    let (ours, theirs) = pair()?;
    for _ in 0..4 {
        send(&theirs, &pool_of(1), &[hanging.open()?.as_fd()])?;
    }
    rustix::io::pwrite(hanging.open_kept()?, &[1; 4096], 0)?;
    let link = Link::new(ours);
    at_once(|| drop(link))?;
    hanging.is_asked(opcode::WRITE)
}

fn threads_that_hang_are_bounded() -> Outcome {
    let hanging = Hanging::mount()?;
    let before = open_fds();
    let mut stayed = 0;
    for _ in 0..70 {
        let file = hanging.open()?;
        at_once(|| DmaBuf::new(file))?.err().ok_or("a dma-buf")?;
        stayed = open_fds() - before;
    }
    let hung = hanging.unanswered(opcode::FLUSH);
    check(hung + stayed == 70 && (32..=64).contains(&hung), format!("{hung} hang, {stayed} stay"))
}
