//! How something of a program's own passes to the copies and back: from which queue family to which, and from which
//! layout to which (Vulkan, "Queue Family Ownership Transfer", "Image Layout Transitions").
//!
//! It passes once each way, however many copies lie between: the first copy takes it, and
//! [`Transfer::finish`](super::Transfer::finish) gives it back.

use std::sync::{Arc, Mutex, PoisonError};

use ash::vk::ImageLayout;

use super::error::VulkanError;
use super::timeline::{Point, Timeline};

/// From whom something comes to be copied into, to whom it goes, and what then is signalled.
///
/// By default no family gives it and none takes it: it was created with `VK_SHARING_MODE_CONCURRENT`, or belongs to
/// the family of the copies ([`Device::queue_family`](super::Device::queue_family)), or what it holds may be lost and
/// it stays with that family.
#[derive(Clone, Debug, Default)]
pub struct Handover {
    from: Option<u32>,
    to: Option<u32>,
    end: Option<Point>,
}

impl Handover {
    /// A queue family has released it to that of the copies, by a barrier of the program's that is done, or that the
    /// first copy waits for ([`When`](super::When)). The first copy acquires it by the same barrier.
    pub fn acquired_from(mut self, family: u32) -> Self {
        self.from = Some(family);
        self
    }

    /// It is released to a queue family at the end. The program acquires it there by the same barrier, after what
    /// says that the end is done: a ticket, a sync file, a value of a timeline.
    pub fn released_to(mut self, family: u32) -> Self {
        self.to = Some(family);
        self
    }

    /// The timeline reaches `value` at the end, so that a renderer waits for it on the GPU.
    pub fn signalling(mut self, timeline: &Arc<Timeline>, value: u64) -> Self {
        self.end = Some(Point { timeline: timeline.clone(), value });
        self
    }

    pub(super) fn end(&self) -> Option<&Point> {
        self.end.as_ref()
    }
}

/// The layouts of an image region: before, between and after.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Layouts {
    pub(super) from: ImageLayout,
    pub(super) during: ImageLayout,
    pub(super) to: ImageLayout,
}

impl Layouts {
    /// It is copied into in the layout for that, or in `GENERAL` if it is to stay there.
    pub(super) fn new(from: ImageLayout, to: ImageLayout) -> Self {
        let stays = from == ImageLayout::GENERAL && to == from;
        let during = if stays { from } else { ImageLayout::TRANSFER_DST_OPTIMAL };
        Self { from, during, to }
    }
}

/// A step of the way to the copies, or back.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Step {
    /// The families that it passes between, if it does.
    pub(super) families: Option<(u32, u32)>,
    /// The layouts, of an image.
    pub(super) layouts: Option<(ImageLayout, ImageLayout)>,
}

/// Who has it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Stage {
    Theirs,
    Ours,
    GivenBack,
}

/// Something of a program's own on its way.
#[derive(Debug)]
pub(super) struct Holding {
    take: Option<Step>,
    give: Option<Step>,
    pub(super) end: Option<Point>,
    stage: Mutex<Stage>,
}

impl Holding {
    /// `ours` is the family of the copies.
    pub(super) fn new(handover: Handover, ours: u32, layouts: Option<Layouts>) -> Self {
        let Handover { from, to, end } = handover;
        // Between one family and itself nothing passes.
        let from = from.filter(|&family| family != ours).map(|family| (family, ours));
        let to = to.filter(|&family| family != ours).map(|family| (ours, family));
        let step = |families: Option<(u32, u32)>, layouts: Option<(ImageLayout, ImageLayout)>| {
            let changes = layouts.is_some_and(|(before, after)| before != after);
            (changes || families.is_some()).then_some(Step { families, layouts })
        };
        Self {
            take: step(from, layouts.map(|all| (all.from, all.during))),
            give: step(to, layouts.map(|all| (all.during, all.to))),
            end,
            stage: Mutex::new(Stage::Theirs),
        }
    }

    /// What a copy, or the end, has to do first.
    ///
    /// # Errors
    /// [`VulkanError::GivenBack`] if it is the program's again.
    pub(super) fn take(&self) -> Result<Option<Step>, VulkanError> {
        match self.stage() {
            Stage::Theirs => Ok(self.take),
            Stage::Ours => Ok(None),
            // What does not change on the way may come again.
            Stage::GivenBack if self.take.is_none() && self.give.is_none() => Ok(None),
            Stage::GivenBack => Err(VulkanError::GivenBack),
        }
    }

    pub(super) fn give(&self) -> Option<Step> {
        self.give
    }

    /// Whether its end is more than that of the copies: it changes its layout or family, or something is signalled.
    pub(super) fn has_end(&self) -> bool {
        self.give.is_some() || self.end.is_some()
    }

    /// What takes it was submitted.
    pub(super) fn taken(&self) {
        self.set(Stage::Ours);
    }

    /// What gives it back was submitted.
    pub(super) fn given(&self) {
        self.set(Stage::GivenBack);
    }

    fn stage(&self) -> Stage {
        *self.stage.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn set(&self, stage: Stage) {
        *self.stage.lock().unwrap_or_else(PoisonError::into_inner) = stage;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn it_passes_once_each_way() {
        let layouts = Layouts::new(ImageLayout::UNDEFINED, ImageLayout::SHADER_READ_ONLY_OPTIMAL);
        let during = ImageLayout::TRANSFER_DST_OPTIMAL;
        let handover = Handover::default().acquired_from(1).released_to(2);
        let holding = Holding::new(handover, 7, Some(layouts));
        let take = Step { families: Some((1, 7)), layouts: Some((layouts.from, during)) };
        assert!(holding.has_end());
        assert_eq!(holding.take().ok(), Some(Some(take)));
        // As long as no copy was submitted, the next is the first.
        assert_eq!(holding.take().ok(), Some(Some(take)));
        holding.taken();
        assert_eq!(holding.take().ok(), Some(None));
        let give = Step { families: Some((7, 2)), layouts: Some((during, layouts.to)) };
        assert_eq!(holding.give(), Some(give));
        holding.given();
        assert!(matches!(holding.take(), Err(VulkanError::GivenBack)));
    }

    #[test]
    fn what_stays_does_not_pass() {
        let own = Handover::default().acquired_from(7).released_to(7);
        for layout in [ImageLayout::GENERAL, ImageLayout::TRANSFER_DST_OPTIMAL] {
            let holding = Holding::new(own.clone(), 7, Some(Layouts::new(layout, layout)));
            assert_eq!((holding.take().ok(), holding.give()), (Some(None), None));
            assert!(!holding.has_end());
            holding.given();
            assert_eq!(holding.take().ok(), Some(None), "it may come again");
        }
        let general = Layouts::new(ImageLayout::GENERAL, ImageLayout::SHADER_READ_ONLY_OPTIMAL);
        assert_eq!(general.during, ImageLayout::TRANSFER_DST_OPTIMAL);
        assert_eq!(Holding::new(own, 7, None).take().ok(), Some(None));
    }
}
