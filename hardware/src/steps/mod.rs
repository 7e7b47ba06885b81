//! The steps of a run, in order.

mod exchange;
mod limits;
mod loads;
mod machine;
mod make_file;
mod peers;
mod rivals;
mod vulkan;
mod window;

use crate::context::Context;
use crate::record::Teller;

/// A step: what it is called, which share of the time it may take, and its work.
pub struct Step {
    /// Its name on the command line.
    pub name: &'static str,
    /// Its heading on the page.
    pub title: &'static str,
    /// Its part of the run's time, in hundredths, beside what earlier steps leave of theirs.
    pub share: u32,
    /// Does it.
    pub run: fn(&Context, &mut Teller),
}

/// All steps. Their shares add up to a hundred.
pub const STEPS: [Step; 9] = [
    Step { name: "machine", title: "The machine", share: 6, run: machine::run },
    Step { name: "file", title: "The file", share: 11, run: make_file::run },
    Step { name: "vulkan", title: "Vulkan", share: 5, run: vulkan::run },
    Step {
        name: "exchange",
        title: "Memory and fences between devices",
        share: 12,
        run: exchange::run,
    },
    Step { name: "limits", title: "What bounds a load", share: 12, run: limits::run },
    Step { name: "loads", title: "Loads", share: 30, run: loads::run },
    Step { name: "rivals", title: "Rivals", share: 12, run: rivals::run },
    Step {
        name: "window",
        title: "Copies out of memory that is not cached",
        share: 7,
        run: window::run,
    },
    Step { name: "peers", title: "Peer memory", share: 5, run: peers::run },
];

/// The names of the steps.
pub fn names() -> [&'static str; STEPS.len()] {
    STEPS.each_ref().map(|step| step.name)
}

/// The step of a name.
pub fn named(name: &str) -> Option<&'static Step> {
    STEPS.iter().find(|step| step.name == name)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_shares_of_all_steps_are_the_whole_run() {
        assert_eq!(STEPS.iter().map(|step| step.share).sum::<u32>(), 100);
    }
}
