//! The admin queue: one command at a time, waited for.
//!
//! NVM Express Base Specification 2.0c, chapter 5. An admin command that does not end in time leaves
//! the controller in a state that nobody knows, so it is stopped.

use std::time::Duration;

use exporters::Intent;
use exporters::vfio::{Container, DmaMapping};
use iomap::{MapError, Memory, PageSize};
use std::sync::Arc;

use super::PAGE;
use super::command::{DataPointer, Operation};
use super::completion::Entry;
use super::error::NvmeError;
use super::identify::{
    IDENTIFY_LEN, IdentifyController, IdentifyError, IdentifyNamespace, parse_namespaces,
};
use super::link::Link;
use super::pair::{Pair, Trouble};
use super::patience::{End, Wait};

/// How many entries each admin ring has: commands are given one at a time.
const ENTRIES: u32 = 32;

/// Drives on PCIe have 256 namespaces at the most. Each takes a command, so that one which names
/// millions would keep its user for hours.
const MOST_NAMESPACES: usize = 1024;

#[derive(Debug)]
pub(super) struct Admin {
    pair: Pair<()>,
    /// Where answers go.
    answer: DmaMapping<Memory>,
}

impl Admin {
    pub fn new(link: &Link) -> Result<Self, NvmeError> {
        let container: &Arc<Container> = link.device().container();
        let answer = Memory::anonymous(IDENTIFY_LEN, PageSize::Base)?;
        Ok(Self {
            pair: Pair::new(link, 0, ENTRIES)?,
            answer: container.map_dma(answer, Intent::Write)?,
        })
    }

    /// Starts the controller with these queues.
    pub fn start(&self, link: &Link) -> Result<(), NvmeError> {
        let (submission, completion) = self.pair.addresses();
        let entries = self.pair.entries() as u16;
        link.start((submission, entries), (completion, entries))
    }

    /// Asks the controller what it is.
    pub fn identify_controller(&mut self, link: &Link) -> Result<IdentifyController, NvmeError> {
        let operation = Operation::IdentifyController;
        let answer = self.identify(link, operation)?;
        IdentifyController::parse(&answer).map_err(|source| wrong(link, operation, source))
    }

    /// Asks what a namespace is; `None` if it is not active.
    pub fn identify_namespace(
        &mut self,
        link: &Link,
        namespace: u32,
    ) -> Result<Option<IdentifyNamespace>, NvmeError> {
        let operation = Operation::IdentifyNamespace { namespace };
        let answer = self.identify(link, operation)?;
        match IdentifyNamespace::parse(&answer) {
            Err(IdentifyError::Inactive) => Ok(None),
            read => read.map(Some).map_err(|source| wrong(link, operation, source)),
        }
    }

    /// Asks for the numbers of all active namespaces, the highest of which may be `most`.
    pub fn list_namespaces(&mut self, link: &Link, most: u32) -> Result<Vec<u32>, NvmeError> {
        let mut all = Vec::new();
        loop {
            let after = all.last().copied().unwrap_or(0);
            if after >= most {
                return Ok(all);
            }
            let operation = Operation::ListNamespaces { after };
            let answer = self.identify(link, operation)?;
            let refused = |source| wrong(link, operation, source);
            let more = parse_namespaces(&answer, after, most).map_err(refused)?;
            let is_last = more.len() < IDENTIFY_LEN / 4;
            all.extend(more);
            if all.len() > MOST_NAMESPACES {
                return Err(refused(IdentifyError::Namespaces { most: MOST_NAMESPACES }));
            }
            if is_last {
                return Ok(all);
            }
        }
    }

    fn identify(
        &mut self,
        link: &Link,
        operation: Operation,
    ) -> Result<Box<[u8; IDENTIFY_LEN]>, NvmeError> {
        link.check_wanted()?;
        let failed = |source| at_fault(link, source);
        self.answer.map().fill(0).map_err(failed)?;
        self.execute(link, operation, DataPointer::Prp(self.answer.iova().get(), 0))?;
        let mut bytes = Box::new([0; IDENTIFY_LEN]);
        self.answer.map().copy_to_slice(0, &mut bytes[..]).map_err(failed)?;
        Ok(bytes)
    }

    /// Asks for so many I/O queues, and returns how many there may be.
    pub fn ask_for_queues(&mut self, link: &Link, count: u16) -> Result<u16, NvmeError> {
        link.check_wanted()?;
        let entry = self.execute(link, Operation::AskForQueues { count }, DataPointer::None)?;
        let (completion, submission) = ((entry.result() >> 16) as u16, entry.result() as u16);
        Ok(completion.min(submission).saturating_add(1).min(count))
    }

    /// Creates or deletes a queue.
    pub fn change_queue(
        &mut self,
        link: &Link,
        operation: Operation,
        address: Option<u64>,
    ) -> Result<(), NvmeError> {
        let data = address.map_or(DataPointer::None, |address| DataPointer::Prp(address, 0));
        self.execute(link, operation, data).map(drop)
    }

    /// Asks for the end of a command. The controller may answer that it was too late; the command
    /// then ends by itself, or does not.
    pub fn abort(
        &mut self,
        link: &Link,
        (queue, command): (u16, u16),
        limit: Duration,
    ) -> Result<(), NvmeError> {
        let operation = Operation::Abort { queue, command };
        self.execute_within(link, operation, DataPointer::None, limit).map(drop)
    }

    fn execute(
        &mut self,
        link: &Link,
        operation: Operation,
        data: DataPointer,
    ) -> Result<Entry, NvmeError> {
        self.execute_within(link, operation, data, link.options().limit)
    }

    fn execute_within(
        &mut self,
        link: &Link,
        operation: Operation,
        data: DataPointer,
        limit: Duration,
    ) -> Result<Entry, NvmeError> {
        link.check_up()?;
        let failed = |source| at_fault(link, source);
        let command = self.pair.slots.next().unwrap_or_default();
        self.pair.submit(command, operation, data, ()).map_err(failed)?;
        self.pair.announce().map_err(failed)?;
        let entry = self.wait(link, operation, limit)?;
        let status = entry.status();
        if !status.is_success() {
            return Err(NvmeError::Command { device: link.name(), operation, status });
        }
        Ok(entry)
    }

    fn wait(
        &mut self,
        link: &Link,
        operation: Operation,
        limit: Duration,
    ) -> Result<Entry, NvmeError> {
        let mut wait = Wait::begin(limit, &link.options().stop);
        loop {
            let end = wait.end();
            match self.pair.take() {
                Ok(Some(ended)) => return Ok(ended.entry),
                Ok(None) => link.check()?,
                Err(Trouble::Map(source)) => return Err(at_fault(link, source)),
                Err(Trouble::Unasked(command)) => return Err(unasked(link, 0, command)),
            }
            let Some(end) = end else {
                wait.rest(link.device());
                continue;
            };
            link.stop("an admin command did not end in time");
            let device = link.name();
            return Err(match end {
                End::Late => NvmeError::TimedOut { device, operation, limit, stopped: true },
                End::Stopped => NvmeError::Interrupted { device },
            });
        }
    }
}

/// A completion that nobody asked for: the controller is stopped, because what else it does is not
/// known.
pub(super) fn unasked(link: &Link, queue: u16, command: u16) -> NvmeError {
    link.stop("it completed a command that was not in flight");
    NvmeError::Unasked { device: link.name(), queue, command }
}

pub(super) fn at_fault(link: &Link, source: MapError) -> NvmeError {
    NvmeError::Registers { device: link.name(), source }
}

fn wrong(link: &Link, operation: Operation, source: IdentifyError) -> NvmeError {
    NvmeError::Identify { device: link.name(), operation, source }
}

const _: () = assert!(IDENTIFY_LEN as u64 == PAGE);
