//! Which lists describe a read's memory to the drive.

use iomap::{DmaAddr, MapError};

use super::PAGE;
use super::command::DataPointer;
use super::list::ListMemory;
use super::prp::{self, PrpError};
use super::sgl::{self, Data, SglError, SglSupport};
use crate::dma::{DmaError, DmaKind, DmaList, DmaRange};

/// Which lists describe memory to a drive.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Lists {
    /// PRPs where they fit, an SGL where they do not and the drive takes them.
    #[default]
    Fitting,
    /// PRPs only.
    Prp,
    /// SGLs only.
    Sgl,
}

/// Why memory cannot be described to a drive.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ListError {
    /// By PRPs.
    #[error(transparent)]
    Prp(#[from] PrpError),
    /// By an SGL.
    #[error(transparent)]
    Sgl(#[from] SglError),
    /// The memory for lists is not as long as it should be.
    #[error(transparent)]
    Map(#[from] MapError),
    /// The target has no such part.
    #[error(transparent)]
    Dma(#[from] DmaError),
}

/// How one queue describes memory.
#[derive(Debug)]
pub(super) struct Describer {
    pub lists: Lists,
    /// What the drive takes, if it takes SGLs.
    pub support: Option<SglSupport>,
    /// A page for bytes that nobody wants, where the drive cannot discard them.
    pub waste: DmaAddr,
    /// The ranges of a read with such bytes.
    scratch: DmaList,
}

impl Describer {
    pub(super) fn new(lists: Lists, support: Option<SglSupport>, waste: DmaAddr) -> Self {
        Self { lists, support, waste, scratch: DmaList::default() }
    }

    /// Describes the memory of one command.
    #[inline]
    pub(super) fn describe(
        &mut self,
        data: &Data<'_>,
        list: &ListMemory<'_>,
    ) -> Result<DataPointer, ListError> {
        match (self.lists, self.support) {
            (Lists::Sgl, Some(support)) => self.sgl(data, support, list),
            (Lists::Fitting, Some(support)) => match self.prps(data, list) {
                Err(ListError::Prp(PrpError::Shape { .. })) => self.sgl(data, support, list),
                done => done,
            },
            (_, _) => self.prps(data, list),
        }
    }

    #[inline]
    fn prps(&mut self, data: &Data<'_>, list: &ListMemory<'_>) -> Result<DataPointer, ListError> {
        let prps = match (data.head, data.tail) {
            (0, 0) => prp::build(data.memory.clone(), PAGE, list),
            _ => prp::build(self.filled_up(data)?.whole(), PAGE, list),
        }?;
        Ok(DataPointer::Prp(prps.first, prps.second))
    }

    fn sgl(
        &mut self,
        data: &Data<'_>,
        support: SglSupport,
        list: &ListMemory<'_>,
    ) -> Result<DataPointer, ListError> {
        // All of it is in a row for the drive, so two segments do, however many descriptors there
        // are. QEMU 7.2 refuses a chain of three full ones.
        let (first, rest) = list.split_at(PAGE as usize)?;
        let segments = &[first, rest];
        let sgl = match (data.head, data.tail) {
            (0, 0) => sgl::build(data, support, segments),
            _ if support.bit_bucket => sgl::build(data, support, segments),
            _ => {
                let memory = self.filled_up(data)?.whole();
                sgl::build(&Data { head: 0, memory, tail: 0 }, support, segments)
            }
        }?;
        Ok(DataPointer::Sgl(sgl.address, sgl.length_and_type))
    }

    /// The memory between pages for what nobody wants.
    fn filled_up(&mut self, data: &Data<'_>) -> Result<&DmaList, DmaError> {
        let page = self.waste;
        let waste = |list: &mut DmaList, len: u64| -> Result<(), DmaError> {
            for at in (0..len).step_by(PAGE as usize) {
                list.push(DmaRange::new(DmaKind::Iova, page, PAGE.min(len - at))?);
            }
            Ok(())
        };
        self.scratch.clear();
        waste(&mut self.scratch, data.head)?;
        self.scratch.extend(data.memory.clone());
        waste(&mut self.scratch, data.tail)?;
        Ok(&self.scratch)
    }
}
