//! Two ends of a connection, and ends that are hostile, over real sockets.

mod common;

use std::collections::BTreeSet;
use std::fs::{self, File};
use std::io::IoSlice;
use std::mem::MaybeUninit;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::fs::PermissionsExt;
use std::process::ExitCode;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use common::{Outcome, Stop, check, need, noise, open_fds, run, trial};
use exporters::frame::{DrmFourcc, FrameError, FramePlane, Picture};
use exporters::socket::{
    Farewell, Link, Listener, MAX_FDS, MAX_LEN, Peer, Sink, SocketError, Source, Text, WireError,
};
use exporters::{DmaBuf, DmaBufError, DmaHeap, Frame, Intent, SyncFileError, Udmabuf};
use iomap::{Memory, PageSize};
use rustix::fs::Mode;
use rustix::net::{
    AddressFamily, SendAncillaryBuffer, SendAncillaryMessage, SendFlags, SocketFlags, SocketType,
};
use rustix::process::Uid;

fn main() -> ExitCode {
    run(vec![
        trial("frames_go_there_and_come_back", frames_go_there_and_come_back),
        trial("planes_in_one_buffer_stay_in_one", planes_in_one_buffer_stay_in_one),
        trial("fences_go_along", fences_go_along),
        trial("only_pools_are_offered", only_pools_are_offered),
        trial("hostile_pools_are_refused", hostile_pools_are_refused),
        trial("files_that_are_no_dma_bufs_are_refused", files_that_are_no_dma_bufs_are_refused),
        trial("frames_past_their_buffer_are_refused", frames_past_their_buffer_are_refused),
        trial("hostile_exporters_are_refused", hostile_exporters_are_refused),
        trial("hostile_importers_are_refused", hostile_importers_are_refused),
        trial("a_peer_that_hangs_is_left", a_peer_that_hangs_is_left),
        trial("a_peer_that_goes_is_an_error", a_peer_that_goes_is_an_error),
        trial("a_socket_has_a_file_as_long_as_it_lives", a_socket_has_a_file_as_long_as_it_lives),
        trial("a_socket_is_never_open_to_others", a_socket_is_never_open_to_others),
        trial("who_listens_is_asked_of_the_kernel", who_listens_is_asked_of_the_kernel),
    ])
}

const LIMIT: Duration = Duration::from_secs(10);
const SHORT: Duration = Duration::from_millis(60);
const PICTURE: Picture = Picture::linear(64, 16, DrmFourcc::Xrgb8888);

fn dma_buf(len: usize) -> Result<DmaBuf, Stop> {
    if let Ok(udmabuf) = Udmabuf::open() {
        let memory = Memory::memfd("test", len.next_multiple_of(4096), PageSize::Base)?;
        return Ok(udmabuf.create(&memory, 0..memory.len())?);
    }
    Ok(need(DmaHeap::open("system"))?.allocate(len)?)
}

/// Frames of a page each.
fn frames(count: usize) -> Result<Vec<Frame>, Stop> {
    let layout = PICTURE.lay_out(64)?;
    (0..count).map(|_| Ok(layout.over(&dma_buf(layout.len())?)?)).collect()
}

fn write(frame: &Frame, bytes: &[u8]) -> Outcome {
    let mapping = frame.planes[0].buffer.map()?;
    let access = mapping.begin_cpu_access(Intent::Write)?;
    access.map().copy_from_slice(0, bytes)?;
    Ok(access.finish()?)
}

fn read(frame: &Frame) -> Result<Vec<u8>, Stop> {
    let mapping = frame.planes[0].buffer.map()?;
    let access = mapping.begin_cpu_access(Intent::Read)?;
    let mut bytes = vec![0; 4096];
    access.map().copy_to_slice(0, &mut bytes)?;
    Ok(bytes)
}

fn pair() -> Result<(OwnedFd, OwnedFd), Stop> {
    let (family, kind) = (AddressFamily::UNIX, SocketType::SEQPACKET);
    Ok(rustix::net::socketpair(family, kind, SocketFlags::CLOEXEC, None)?)
}

/// A thread closes what came from others, soon.
fn open_fds_are(before: usize) -> Outcome {
    let begun = Instant::now();
    while open_fds() != before {
        check(begun.elapsed() < LIMIT, format!("{before} descriptors became {}", open_fds()))?;
        thread::sleep(Duration::from_millis(1));
    }
    Ok(())
}

fn frames_go_there_and_come_back() -> Outcome {
    let frames = frames(3)?;
    let before = open_fds();
    let (ours, theirs) = pair()?;
    thread::scope(|scope| -> Outcome {
        let importer = scope.spawn(move || -> Result<u64, Stop> {
            let mut sink = Sink::accept(Link::new(theirs), LIMIT)?;
            check(sink.picture() == PICTURE && sink.frames().len() == 3, sink.picture())?;
            let mut seen = 0;
            while let Some(ready) = sink.next(LIMIT)? {
                check(ready.number == seen, ready.number)?;
                let bytes = read(&sink.frames()[ready.slot])?;
                check(bytes == noise(4096, seen), format!("frame {seen} has other bytes"))?;
                seen += 1;
                sink.release(ready.slot, None, LIMIT)?;
            }
            Ok(seen)
        });
        let mut source = Source::offer(Link::new(ours), &frames, LIMIT)?;
        for number in 0..100 {
            let free = source.free(LIMIT)?;
            write(&frames[free.slot], &noise(4096, number))?;
            check(source.ready(free, None, LIMIT)? == number, number)?;
        }
        source.finish(LIMIT)?;
        let seen = importer.join().map_err(|_| "a thread panicked")??;
        check(seen == 100, seen)
    })?;
    open_fds_are(before)
}

fn planes_in_one_buffer_stay_in_one() -> Outcome {
    let picture = Picture::linear(64, 16, DrmFourcc::Nv12);
    let layout = picture.lay_out(64)?;
    let shared = dma_buf(8192)?;
    let mut second = layout.over(&shared)?;
    second.planes.iter_mut().for_each(|plane| plane.offset += 4096);
    let frames = [layout.over(&shared)?, second, layout.over(&dma_buf(4096)?)?];
    let (ours, theirs) = pair()?;
    let _source = Source::offer(Link::new(ours), &frames, LIMIT)?;
    let before = open_fds();
    let sink = Sink::accept(Link::new(theirs), LIMIT)?;
    let found: Vec<_> = sink.frames().iter().map(ToString::to_string).collect();
    let wanted: Vec<_> = frames.iter().map(ToString::to_string).collect();
    check(found == wanted, format!("{found:?}"))?;
    check(open_fds() == before + 2, format!("{} descriptors came", open_fds() - before))?;
    write(&sink.frames()[1], &noise(4096, 9))?;
    check(read(&frames[0])? == noise(4096, 9), "another buffer")
}

fn fences_go_along() -> Outcome {
    let frames = frames(1)?;
    let (ours, theirs) = pair()?;
    let mut source = Source::offer(Link::new(ours), &frames, LIMIT)?;
    let mut sink = Sink::accept(Link::new(theirs), LIMIT)?;
    let fence = || need(frames[0].planes[0].buffer.export_sync_file(Intent::Write));
    let free = source.free(LIMIT)?;
    check(free.fence.is_none(), "a fence from nowhere")?;
    source.ready(free, Some(fence()?.as_fd()), LIMIT)?;
    let ready = sink.next(LIMIT)?.ok_or("no frame")?;
    ready.fence.ok_or("no fence")?.wait(LIMIT)?;
    sink.release(ready.slot, Some(fence()?.as_fd()), LIMIT)?;
    source.free(LIMIT)?.fence.ok_or("no fence came back")?.wait(LIMIT)?;
    Ok(())
}

fn only_pools_are_offered() -> Outcome {
    let mut many = frames(17)?;
    let offer = |frames: &[Frame]| -> Result<SocketError, Stop> {
        let (ours, theirs) = pair()?;
        let error = Source::offer(Link::new(ours), frames, LIMIT).map(drop);
        drop(theirs);
        Ok(error.err().ok_or("it was offered")?)
    };
    for (count, pictures) in [(17, 1), (0, 0)] {
        let error = offer(&many[..count])?;
        let told = matches!(error, SocketError::NoPool { frames, pictures: told } if frames == count && told == pictures);
        check(told, &error)?;
    }
    many[1].picture.width = 32;
    let error = offer(&many[..2])?;
    check(matches!(error, SocketError::NoPool { frames: 2, pictures: 2 }), &error)?;
    many[2].planes[0].offset = 1;
    let error = offer(&many[2..3])?;
    check(matches!(error, SocketError::Frame { slot: 0, .. }), &error)
}

/// Sends what no end of ours would.
fn send(socket: &OwnedFd, bytes: &[u8], fds: &[BorrowedFd<'_>]) -> Outcome {
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(253))];
    let mut control = SendAncillaryBuffer::new(&mut space);
    if !fds.is_empty() {
        check(control.push(SendAncillaryMessage::ScmRights(fds)), "no room")?;
    }
    let sent =
        rustix::net::sendmsg(socket, &[IoSlice::new(bytes)], &mut control, SendFlags::NOSIGNAL)?;
    check(sent == bytes.len(), sent)
}

/// A message that offers a page-sized frame in each of so many buffers.
fn pool_of(count: usize) -> Text {
    let planes = |buffer| vec![FramePlane { buffer, offset: 0, pitch: 256 }];
    let frames = (0..count as u32).map(planes).collect();
    Text::Pool { picture: PICTURE, frames, fds: count }
}

/// What a sink answers to a first message; whatever came with it is closed.
fn accept_of(bytes: &[u8], fds: &[BorrowedFd<'_>]) -> Result<SocketError, Stop> {
    let before = open_fds();
    let (ours, theirs) = pair()?;
    send(&theirs, bytes, fds)?;
    let answer = Sink::accept(Link::new(ours), LIMIT).map(drop);
    drop(theirs);
    open_fds_are(before)?;
    Ok(answer.err().ok_or("it was accepted")?)
}

fn hostile_pools_are_refused() -> Outcome {
    let file = File::open("/dev/null")?;
    let (one, pool) = ([file.as_fd()], pool_of(1).encode());
    let many = |count| vec![file.as_fd(); count];

    let error = accept_of(&pool, &[])?;
    check(matches!(error, SocketError::FdCount { told: 1, found: 0 }), &error)?;
    let error = accept_of(&pool, &many(2))?;
    check(matches!(error, SocketError::FdCount { told: 1, found: 2 }), &error)?;
    for count in [MAX_FDS + 1, MAX_FDS + 2, 253] {
        let error = accept_of(&pool, &many(count))?;
        check(matches!(error, SocketError::TooManyFds { most: MAX_FDS }), &error)?;
    }
    for len in [MAX_LEN + 1, 60_000] {
        let error = accept_of(&vec![0; len], &one)?;
        check(matches!(error, SocketError::TooLong { most: MAX_LEN }), &error)?;
    }
    let longest = accept_of(&[0; MAX_LEN], &one)?;
    check(matches!(longest, SocketError::Wire(WireError::Magic { found: 0 })), &longest)?;
    let error = accept_of(&pool[..pool.len() - 1], &one)?;
    check(matches!(error, SocketError::Wire(WireError::Length { .. })), &error)?;
    let error = accept_of(&[pool.clone(), vec![0]].concat(), &one)?;
    check(matches!(error, SocketError::Wire(WireError::Length { .. })), &error)?;
    let mut newer = pool.clone();
    newer[4] = 2;
    let error = accept_of(&newer, &one)?;
    check(matches!(error, SocketError::Wire(WireError::Version { found: 2 })), &error)?;
    check(error.to_string().contains("use programs of one age"), &error)?;
    let error = accept_of(&[], &one)?;
    check(matches!(error, SocketError::Gone), &error)?;

    for (text, what) in [
        (Text::Ready { slot: 0, number: 0, fence: false }, "a frame came"),
        (Text::Released { slot: 0, fence: false }, "a release came"),
    ] {
        let error = accept_of(&text.encode(), &[])?;
        check(matches!(error, SocketError::OutOfTurn { .. }), &error)?;
        check(error.to_string().contains(what), &error)?;
    }
    for (farewell, words) in
        [(Farewell::Done, "all that it wanted"), (Farewell::Refused, "cannot use")]
    {
        let error = accept_of(&Text::Goodbye(farewell).encode(), &[])?;
        check(matches!(error, SocketError::Left { .. }), &error)?;
        check(error.to_string().contains(words), &error)?;
    }
    Ok(())
}

fn files_that_are_no_dma_bufs_are_refused() -> Outcome {
    let memory = Memory::memfd("frames", 65536, PageSize::Base)?;
    let memfd = memory.fd().ok_or("a memfd has a descriptor")?;
    let error = accept_of(&pool_of(1).encode(), &[memfd])?;
    let refused =
        matches!(error, SocketError::Buffer { index: 0, source: DmaBufError::NotADmaBuf { .. } });
    check(refused && error.to_string().contains("memfd:frames"), &error)?;
    let (socket, _other) = pair()?;
    let error = accept_of(&pool_of(2).encode(), &[socket.as_fd(), memfd])?;
    check(matches!(error, SocketError::Buffer { index: 0, .. }), &error)?;
    // The good one before a bad one is closed as well.
    let good = dma_buf(4096)?;
    let error = accept_of(&pool_of(2).encode(), &[good.as_fd(), memfd])?;
    check(matches!(error, SocketError::Buffer { index: 1, .. }), &error)
}

fn frames_past_their_buffer_are_refused() -> Outcome {
    let buffer = dma_buf(4096)?;
    let place = |offset, pitch| {
        let frames = vec![vec![FramePlane { buffer: 0, offset, pitch }]];
        Text::Pool { picture: PICTURE, frames, fds: 1 }.encode()
    };
    let error = accept_of(&place(1, 256), &[buffer.as_fd()])?;
    let past = matches!(
        error,
        SocketError::Frame { slot: 0, source: FrameError::TooShort { end: 4097, len: 4096, .. } }
    );
    check(past, &error)?;
    let error = accept_of(&place(0, 255), &[buffer.as_fd()])?;
    check(matches!(error, SocketError::Frame { source: FrameError::Pitch { .. }, .. }), &error)?;
    let error = accept_of(&place(u32::MAX, u32::MAX), &[buffer.as_fd()])?;
    check(matches!(error, SocketError::Frame { .. }), &error)?;
    let planes = vec![FramePlane { buffer: 0, offset: 0, pitch: 256 }; 2];
    let two = Text::Pool { picture: PICTURE, frames: vec![planes], fds: 1 };
    let error = accept_of(&two.encode(), &[buffer.as_fd()])?;
    check(matches!(error, SocketError::Frame { source: FrameError::Planes { .. }, .. }), &error)
}

/// What a sink with two frames says to messages of which the last is wrong.
fn next_of(buffer: &DmaBuf, texts: &[(Text, Option<BorrowedFd<'_>>)]) -> Result<SocketError, Stop> {
    let before = open_fds();
    let (ours, theirs) = pair()?;
    let (pool, fds) = (pool_of(2).encode(), [buffer.as_fd(), buffer.as_fd()]);
    send(&theirs, &pool, &fds)?;
    let mut sink = Sink::accept(Link::new(ours), LIMIT)?;
    for (text, fence) in texts {
        send(&theirs, &text.encode(), fence.as_slice())?;
    }
    for _ in 1..texts.len() {
        sink.next(LIMIT)?;
    }
    let answer = sink.next(LIMIT).map(drop);
    drop((sink, theirs));
    open_fds_are(before)?;
    Ok(answer.err().ok_or("it was accepted")?)
}

fn hostile_exporters_are_refused() -> Outcome {
    let (buffer, file) = (dma_buf(4096)?, File::open("/dev/null")?);
    let ready = |slot, number| (Text::Ready { slot, number, fence: false }, None);
    let error = next_of(&buffer, &[ready(2, 0)])?;
    check(matches!(error, SocketError::Slot { slot: 2, slots: 2 }), &error)?;
    let error = next_of(&buffer, &[ready(u32::MAX, 0)])?;
    check(matches!(error, SocketError::Slot { .. }), &error)?;
    let error = next_of(&buffer, &[ready(1, 0), ready(1, 1)])?;
    check(matches!(error, SocketError::Held { slot: 1, .. }), &error)?;
    let error = next_of(&buffer, &[ready(0, 7), ready(1, 7)])?;
    check(matches!(error, SocketError::Number { number: 7, last: 7 }), &error)?;
    let error = next_of(&buffer, &[(pool_of(1), Some(buffer.as_fd()))])?;
    check(matches!(error, SocketError::OutOfTurn { what: "a second pool", .. }), &error)?;
    let error = next_of(&buffer, &[(Text::Released { slot: 0, fence: false }, None)])?;
    check(matches!(error, SocketError::OutOfTurn { .. }), &error)?;
    for no_fence in [file.as_fd(), buffer.as_fd()] {
        let text = Text::Ready { slot: 0, number: 0, fence: true };
        let error = next_of(&buffer, &[(text, Some(no_fence))])?;
        let refused = matches!(error, SocketError::Fence(SyncFileError::NotASyncFile { .. }));
        check(refused, &error)?;
    }
    let error = next_of(&buffer, &[(Text::Ready { slot: 0, number: 0, fence: true }, None)])?;
    check(matches!(error, SocketError::FdCount { told: 1, found: 0 }), &error)?;
    let error = next_of(&buffer, &[(ready(0, 0).0, Some(file.as_fd()))])?;
    check(matches!(error, SocketError::FdCount { told: 0, found: 1 }), &error)
}

fn hostile_importers_are_refused() -> Outcome {
    let (frames, file) = (frames(2)?, File::open("/dev/null")?);
    let release = |slot| Text::Released { slot, fence: false };
    type Case<'a> = (Vec<Text>, Option<BorrowedFd<'a>>, fn(&SocketError) -> bool);
    let cases: [Case<'_>; 8] = [
        (vec![release(2)], None, |e| matches!(e, SocketError::Slot { slot: 2, slots: 2 })),
        // Nobody has given it the second, nor the first twice.
        (vec![release(1)], None, |e| matches!(e, SocketError::Held { slot: 1, .. })),
        (vec![release(0); 2], None, |e| matches!(e, SocketError::Held { slot: 0, .. })),
        (vec![pool_of(1)], Some(file.as_fd()), |e| matches!(e, SocketError::OutOfTurn { .. })),
        (vec![Text::Ready { slot: 0, number: 0, fence: false }], None, |e| {
            matches!(e, SocketError::OutOfTurn { .. })
        }),
        (vec![Text::Released { slot: 0, fence: true }], Some(file.as_fd()), |e| {
            matches!(e, SocketError::Fence(SyncFileError::NotASyncFile { .. }))
        }),
        (vec![Text::Goodbye(Farewell::Refused)], None, |e| {
            matches!(e, SocketError::Left { farewell: Farewell::Refused })
        }),
        (vec![Text::Goodbye(Farewell::Done)], None, |e| {
            matches!(e, SocketError::Left { farewell: Farewell::Done })
        }),
    ];
    for (index, (texts, fd, wanted)) in cases.into_iter().enumerate() {
        let before = open_fds();
        let (ours, theirs) = pair()?;
        let mut source = Source::offer(Link::new(ours), &frames, LIMIT)?;
        let free = source.free(LIMIT)?;
        check(free.slot == 0, free.slot)?;
        source.ready(free, None, LIMIT)?;
        let being_written = source.free(LIMIT)?;
        check(being_written.slot == 1, being_written.slot)?;
        for text in texts {
            send(&theirs, &text.encode(), fd.as_slice())?;
        }
        let error = source.free(LIMIT).err().ok_or(format!("case {index} was accepted"))?;
        check(wanted(&error), format!("case {index}: {error}"))?;
        drop((source, theirs));
        open_fds_are(before)?;
    }
    Ok(())
}

fn takes_about(limit: Duration, answer: impl FnOnce() -> Option<SocketError>) -> Outcome {
    let begun = Instant::now();
    let error = answer().ok_or("it did not wait")?;
    let took = begun.elapsed();
    check(took >= limit && took < LIMIT, format!("{took:?} of {limit:?}"))?;
    check(matches!(error, SocketError::TimedOut { limit: told, .. } if told == limit), &error)
}

fn a_peer_that_hangs_is_left() -> Outcome {
    let (ours, _theirs) = pair()?;
    takes_about(SHORT, || Sink::accept(Link::new(ours), SHORT).err())?;
    let path = std::env::temp_dir().join(format!("bufmap-hang-{}", std::process::id()));
    let listener = Listener::bind(&path)?;
    takes_about(SHORT, || listener.accept(SHORT).err())?;

    let frames = frames(2)?;
    let (ours, theirs) = pair()?;
    let mut source = Source::offer(Link::new(ours), &frames, LIMIT)?;
    let mut sink = Sink::accept(Link::new(theirs), LIMIT)?;
    takes_about(SHORT, || sink.next(SHORT).err())?;
    for _ in 0..2 {
        let free = source.free(LIMIT)?;
        source.ready(free, None, LIMIT)?;
    }
    takes_about(SHORT, || source.free(SHORT).err())?;
    // A sink that releases and is never read fills the way back, and does not wait for ever either.
    let (ours, theirs) = pair()?;
    send(&theirs, &pool_of(1).encode(), &[frames[0].planes[0].buffer.as_fd()])?;
    let mut sink = Sink::accept(Link::new(ours), LIMIT)?;
    takes_about(SHORT, || {
        (0..10_000).find_map(|number| {
            let ready = Text::Ready { slot: 0, number, fence: false };
            send(&theirs, &ready.encode(), &[]).ok()?;
            sink.next(LIMIT).ok()?;
            sink.release(0, None, SHORT).err()
        })
    })
}

fn a_peer_that_goes_is_an_error() -> Outcome {
    let gone = |error: Option<SocketError>| -> Outcome {
        check(matches!(error, Some(SocketError::Gone)), format!("{error:?}"))
    };
    let (ours, theirs) = pair()?;
    drop(theirs);
    gone(Sink::accept(Link::new(ours), LIMIT).err())?;

    let frames = frames(2)?;
    let (ours, theirs) = pair()?;
    drop(theirs);
    gone(Source::offer(Link::new(ours), &frames, LIMIT).err())?;

    // The exporter goes once it has offered, once a frame is there, and before it is given back.
    for point in 0..3 {
        let (ours, theirs) = pair()?;
        let mut source = Source::offer(Link::new(theirs), &frames, LIMIT)?;
        let mut sink = Sink::accept(Link::new(ours), LIMIT)?;
        if point > 0 {
            let free = source.free(LIMIT)?;
            source.ready(free, None, LIMIT)?;
        }
        drop(source);
        match point {
            0 => gone(sink.next(LIMIT).err())?,
            1 => {
                // What was said before it went still counts.
                let ready = sink.next(LIMIT)?.ok_or("no frame")?;
                gone(sink.release(ready.slot, None, LIMIT).err())?;
            }
            _ => {
                sink.next(LIMIT)?;
                gone(sink.next(LIMIT).err())?;
            }
        }
    }
    // The importer goes before it has read the offer, and with all frames in its hands.
    let (ours, theirs) = pair()?;
    let mut source = Source::offer(Link::new(ours), &frames, LIMIT)?;
    drop(theirs);
    gone(source.free(LIMIT).err())?;
    let (ours, theirs) = pair()?;
    let mut source = Source::offer(Link::new(ours), &frames, LIMIT)?;
    let mut sink = Sink::accept(Link::new(theirs), LIMIT)?;
    for _ in 0..2 {
        let free = source.free(LIMIT)?;
        source.ready(free, None, LIMIT)?;
        sink.next(LIMIT)?;
    }
    drop(sink);
    gone(source.free(LIMIT).err())?;
    gone(source.finish(LIMIT).err())?;

    // One that goes with words left unread has still been heard itself.
    for by_sending in [true, false] {
        let (ours, theirs) = pair()?;
        let mut source = Source::offer(Link::new(ours), &frames, LIMIT)?;
        let sink = Sink::accept(Link::new(theirs), LIMIT)?;
        let (first, second) = (source.free(LIMIT)?, source.free(LIMIT)?);
        source.ready(first, None, LIMIT)?;
        sink.leave(Farewell::Refused, LIMIT)?;
        let error = match by_sending {
            true => source.ready(second, None, LIMIT).err(),
            false => source.free(LIMIT).err(),
        };
        let left = matches!(error, Some(SocketError::Left { farewell: Farewell::Refused }));
        check(left, format!("{error:?}"))?;
    }
    Ok(())
}

fn a_socket_has_a_file_as_long_as_it_lives() -> Outcome {
    let path = std::env::temp_dir().join(format!("bufmap-socket-{}", std::process::id()));
    let listener = Listener::bind(&path)?;
    let mode = std::os::unix::fs::PermissionsExt::mode(&fs::metadata(&path)?.permissions());
    check(mode & 0o777 == 0o600, format!("{mode:o}"))?;
    let other = Listener::bind(&path);
    check(matches!(other, Err(SocketError::Path { step: "bind", .. })), format!("{other:?}"))?;
    let link = Link::connect(&path, LIMIT)?;
    let peer = listener.accept(LIMIT)?;
    drop(link);
    let error = Sink::accept(peer, LIMIT).err();
    check(matches!(error, Some(SocketError::Gone)), format!("{error:?}"))?;
    drop(listener);
    check(!path.exists(), "the file is still there")?;

    // What a dead process left behind is replaced; what is another's stays.
    drop(std::os::unix::net::UnixListener::bind(&path)?);
    check(path.exists(), "the standard library's sockets leave their files behind")?;
    drop(Listener::bind(&path)?);
    let _alive = std::os::unix::net::UnixDatagram::bind(&path)?;
    check(Listener::bind(&path).is_err(), "a socket that is in use was replaced")?;
    fs::remove_file(&path)?;
    fs::write(&path, "a file of somebody's")?;
    check(Listener::bind(&path).is_err(), "a file was replaced by a socket")?;
    fs::remove_file(&path)?;
    let listener = Listener::bind(&path)?;
    fs::rename(&path, path.with_extension("moved"))?;
    fs::write(&path, "a file of somebody's")?;
    drop(listener);
    check(path.exists(), "another's file was removed")?;
    fs::remove_file(&path)?;
    fs::remove_file(path.with_extension("moved"))?;

    let absent = Link::connect(&path, SHORT);
    let told = matches!(absent, Err(SocketError::NoListener { limit: SHORT, .. }));
    check(told, format!("{absent:?}"))?;
    let strange = Link::connect("/dev/null/x", LIMIT);
    check(matches!(strange, Err(SocketError::Path { .. })), format!("{strange:?}"))?;
    let long = Listener::bind(format!("/tmp/{}", "x".repeat(200)));
    check(matches!(long, Err(SocketError::Path { .. })), format!("{long:?}"))
}

/// Whatever files this process makes otherwise, and at no time.
fn a_socket_is_never_open_to_others() -> Outcome {
    let path = std::env::temp_dir().join(format!("bufmap-mode-{}", std::process::id()));
    let done = AtomicBool::new(false);
    let umask = rustix::process::umask(Mode::empty());
    let modes = thread::scope(|scope| {
        let watcher = scope.spawn(|| {
            let mut modes = BTreeSet::new();
            while !done.load(Ordering::Relaxed) {
                modes.extend(rustix::fs::stat(&path).map(|stat| stat.st_mode & 0o777));
            }
            modes
        });
        let bound = (0..2000).try_for_each(|_| Listener::bind(&path).map(drop));
        done.store(true, Ordering::Relaxed);
        bound.map(|()| watcher.join())
    });
    rustix::process::umask(umask);
    let modes = modes?.map_err(|_| "a thread panicked")?;
    let modes: Vec<_> = modes.iter().map(|mode| format!("{mode:o}")).collect();
    check(modes == ["600"], format!("{modes:?}"))
}

fn who_listens_is_asked_of_the_kernel() -> Outcome {
    let directory = tempfile::tempdir()?;
    let path = directory.path().join("socket");
    let us = rustix::process::geteuid().as_raw();
    let listener = Listener::bind(&path)?;
    Link::connect(&path, LIMIT)?;
    for peer in [Peer::SameUser, Peer::User(us), Peer::Anyone] {
        Link::connect_to(&path, peer, LIMIT)?;
    }
    let stranger = |error: Result<Link, SocketError>, is, not| -> Outcome {
        let told = matches!(&error, Err(SocketError::Stranger { user, wanted, .. })
            if *user == is && *wanted == not);
        check(told, format!("{error:?}"))
    };
    stranger(Link::connect_to(&path, Peer::User(us + 1), LIMIT), us, us + 1)?;
    drop(listener);

    // A thread has a user of its own, as far as the kernel goes.
    const NOBODY: u32 = 65534;
    fs::set_permissions(directory.path(), PermissionsExt::from_mode(0o777))?;
    let listener = thread::scope(|scope| {
        let as_nobody = scope.spawn(|| -> Result<Listener, Stop> {
            let nobody = Uid::from_raw(NOBODY);
            need(rustix::thread::set_thread_uid(nobody).map_err(|e| format!("be root: {e}")))?;
            Ok(Listener::bind(&path)?)
        });
        as_nobody.join().map_err(|_| Stop::from("a thread panicked"))?
    })?;
    stranger(Link::connect(&path, LIMIT), NOBODY, us)?;
    Link::connect_to(&path, Peer::User(NOBODY), LIMIT)?;
    Link::connect_to(&path, Peer::Anyone, LIMIT)?;
    drop(listener);
    Ok(())
}
