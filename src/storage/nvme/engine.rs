//! The reads of a load, by a queue of a drive.

use std::collections::VecDeque;
use std::io;
use std::ops::Range;
use std::sync::Arc;

use iomap::BufMap;

use super::{DriveFile, Finished, NvmeError, Queue, Target};
use crate::dma::DmaList;
use crate::storage::work::{Next, Read, Work};

/// Memory that the drive can reach, as the CPU sees it and as the drive does.
struct Window<'m> {
    map: BufMap<'m>,
    target: Arc<Target>,
}

impl Window<'_> {
    /// Which part of the window a map is.
    fn part(&self, map: &BufMap<'_>) -> Option<Range<u64>> {
        let start = (map.as_ptr() as usize).checked_sub(self.map.as_ptr() as usize)?;
        let end = start.checked_add(map.len())?;
        (end <= self.map.len()).then_some(start as u64..end as u64)
    }
}

/// A read of the work's, which may take several commands.
struct Reading {
    tag: usize,
    len: usize,
    /// How many commands are to be put in or in flight.
    left: usize,
    failed: Option<NvmeError>,
}

/// One command to put in.
struct Command<'m> {
    reading: usize,
    file: &'m DriveFile,
    offset: u64,
    target: Arc<Target>,
    part: Range<u64>,
}

/// The reads that the queue has in hand.
struct Engine<'m, 'q> {
    queue: &'q mut Queue,
    windows: Vec<Window<'m>>,
    /// By the number that their commands carry.
    readings: Vec<Option<Reading>>,
    commands: VecDeque<Command<'m>>,
}

/// Runs `work` to its end on a queue in which nothing is. What it reads into lies in one of the
/// maps of `memory`, each with what the drive sees of it, which the caller keeps mapped; nothing is
/// in flight when this returns.
pub(crate) fn run<'m>(
    queue: &mut Queue,
    memory: &[(BufMap<'m>, &DmaList)],
    work: &mut impl Work<'m, File = &'m DriveFile>,
) {
    let container = queue.container();
    let windows = memory
        .iter()
        .map(|(map, list)| Window { map: *map, target: Arc::new(Target::lent(list, &container)) });
    let windows = windows.collect();
    let mut engine = Engine { queue, windows, readings: Vec::new(), commands: VecDeque::new() };
    loop {
        engine.fill(work);
        match engine.queue.wait() {
            Some(finished) => engine.land(finished, work),
            None => return,
        }
    }
}

impl<'m> Engine<'m, '_> {
    /// Puts in as many commands as there is room for.
    fn fill(&mut self, work: &mut impl Work<'m, File = &'m DriveFile>) {
        while self.queue.has_room() {
            if let Some(command) = self.commands.pop_front() {
                self.put(command, work);
                continue;
            }
            match work.next() {
                Next::Read(read) => self.begin(read, work),
                Next::Write(write) => {
                    let why =
                        "this driver only reads: give the drive back to the kernel (bufmap unbind)";
                    let error = io::Error::new(io::ErrorKind::Unsupported, why);
                    work.completed(write.tag, Err(error));
                }
                Next::Wait | Next::Done => return,
            }
        }
    }

    fn begin(
        &mut self,
        read: Read<'m, &'m DriveFile>,
        work: &mut impl Work<'m, File = &'m DriveFile>,
    ) {
        let window = self.windows.iter().find_map(|w| Some((w, w.part(&read.into)?)));
        let Some((window, place)) = window else {
            let error = io::Error::other("the memory is not mapped for the drive");
            return work.completed(read.tag, Err(error));
        };
        let reading = self.readings.iter().position(Option::is_none).unwrap_or_else(|| {
            self.readings.push(None);
            self.readings.len() - 1
        });
        let longest = match self.queue.whole_blocks(read.file.namespace()) {
            Ok(longest) => longest,
            Err(error) => return work.completed(read.tag, Err(io::Error::other(error))),
        };
        let mut left = 0;
        let (mut offset, mut at) = (read.offset, place.start);
        while at < place.end {
            let Some((drive_offset, run)) = read.file.place(offset) else { break };
            let len = run.min(longest).min(place.end - at);
            let target = Arc::clone(&window.target);
            let (file, part) = (read.file, at..at + len);
            self.commands.push_back(Command { reading, file, offset: drive_offset, target, part });
            left += 1;
            (offset, at) = (offset + len, at + len);
        }
        let len = (at - place.start) as usize;
        if left == 0 {
            return work.completed(read.tag, Ok(0));
        }
        self.readings[reading] = Some(Reading { tag: read.tag, len, left, failed: None });
    }

    fn put(&mut self, command: Command<'m>, work: &mut impl Work<'m, File = &'m DriveFile>) {
        let Command { reading, file, offset, target, part } = command;
        let failed = self.readings[reading].as_ref().is_some_and(|r| r.failed.is_some());
        let put = match failed {
            true => Err(None),
            false => {
                let namespace = file.namespace();
                self.queue.read(reading as u64, namespace, offset, &target, part).map_err(Some)
            }
        };
        if let Err(error) = put {
            self.end(reading, error, work);
        }
    }

    fn land(&mut self, finished: Finished, work: &mut impl Work<'m, File = &'m DriveFile>) {
        self.end(finished.id as usize, finished.result.err(), work);
    }

    /// A command of a reading has ended; the reading, if it was the last.
    fn end(
        &mut self,
        reading: usize,
        error: Option<NvmeError>,
        work: &mut impl Work<'m, File = &'m DriveFile>,
    ) {
        let Some(slot) = self.readings.get_mut(reading) else { return };
        let Some(ongoing) = slot else { return };
        ongoing.left -= 1;
        ongoing.failed = ongoing.failed.take().or(error);
        if ongoing.left > 0 {
            return;
        }
        if let Some(Reading { tag, len, failed, .. }) = slot.take() {
            let result = failed.map_or(Ok(len), |error| Err(io::Error::other(error)));
            work.completed(tag, result);
        }
    }
}
