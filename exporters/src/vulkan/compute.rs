//! The queue on which shaders run.
//!
//! The queue that copies is of a family for transfers only where a device has such a one, and that runs no shader. Then the
//! device is opened with a second queue, of a family that does; what both use belongs to both (`VK_SHARING_MODE_CONCURRENT`).
//! A program that brings its own device gives one queue, and shaders run on it or nowhere.

use ash::vk;

use super::queue::Queue;
use crate::Absent;

/// Where shaders run.
pub(super) enum Compute {
    /// On the queue that copies.
    Shared,
    /// On one of their own.
    Own(Queue),
}

/// The family for shaders of a device whose copies are of the family `copies`: that one if it can, else the first that can.
pub(super) fn compute_family(families: &[vk::QueueFamilyProperties], copies: u32) -> Option<u32> {
    let can = |family: &vk::QueueFamilyProperties| {
        family.queue_count > 0 && family.queue_flags.contains(vk::QueueFlags::COMPUTE)
    };
    if families.get(copies as usize).is_some_and(can) {
        return Some(copies);
    }
    families.iter().position(can).map(|index| index as u32)
}

impl Compute {
    /// Of a device whose copies are done on `copies`, with another queue for shaders if it was
    /// opened with one.
    pub(super) fn of(copies: &Queue, own: Option<Queue>, device: &str) -> Result<Self, Absent> {
        match own {
            Some(queue) => Ok(Self::Own(queue)),
            None if copies.properties.queue_flags.contains(vk::QueueFlags::COMPUTE) => {
                Ok(Self::Shared)
            }
            None => Err(Absent::new(
                format!("no queue of {device} that is used here runs shaders"),
                "take another device, or give a queue that copies and runs shaders",
            )),
        }
    }
}

#[cfg(test)]
mod tests {
    use vk::QueueFlags as Queue;

    use super::*;

    #[test]
    fn shaders_run_where_copies_do_if_they_can() {
        let family = |flags: &[Queue], copies| {
            let family = |&queue_flags| vk::QueueFamilyProperties {
                queue_flags,
                queue_count: 1,
                ..Default::default()
            };
            compute_family(&flags.iter().map(family).collect::<Vec<_>>(), copies)
        };
        let all = Queue::GRAPHICS | Queue::COMPUTE | Queue::TRANSFER;
        assert_eq!(family(&[all], 0), Some(0));
        assert_eq!(family(&[all, Queue::COMPUTE], 1), Some(1));
        assert_eq!(family(&[Queue::GRAPHICS, Queue::TRANSFER, Queue::COMPUTE], 1), Some(2));
        assert_eq!(family(&[Queue::GRAPHICS, Queue::TRANSFER], 1), None);
        assert_eq!(family(&[], 0), None);
    }
}
