//! Reads or writes to be asked for again, each not before a moment: they came in part, or the kernel put them off.

use std::time::{Duration, Instant};

/// What is to be asked for again, by its tag.
#[derive(Debug, Default)]
pub(crate) struct PutOff(Vec<(Instant, usize)>);

/// What of it comes first.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum First {
    /// There is none.
    Nothing,
    /// This one, now: it is taken.
    Due(usize),
    /// One, after so long.
    Later(Duration),
}

impl PutOff {
    /// Puts one off for a pause.
    pub(crate) fn push(&mut self, tag: usize, pause: Duration) {
        self.0.push((Instant::now() + pause, tag));
    }

    pub(crate) const fn len(&self) -> usize {
        self.0.len()
    }

    /// The first, taken if its moment has come.
    pub(crate) fn first(&mut self) -> First {
        let Some(first) = (0..self.0.len()).min_by_key(|&at| self.0[at].0) else {
            return First::Nothing;
        };
        let wait = self.0[first].0.saturating_duration_since(Instant::now());
        match wait.is_zero() {
            true => First::Due(self.0.swap_remove(first).1),
            false => First::Later(wait),
        }
    }

    /// Gives all of it up. Returns the tags.
    pub(crate) fn abandon(&mut self) -> impl Iterator<Item = usize> + use<> {
        std::mem::take(&mut self.0).into_iter().map(|(_, tag)| tag)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_due_comes_and_the_rest_is_waited_for() {
        let mut put_off = PutOff::default();
        assert_eq!(put_off.first(), First::Nothing);
        put_off.push(1, Duration::from_secs(3600));
        put_off.push(2, Duration::ZERO);
        put_off.push(3, Duration::from_secs(60));
        assert_eq!(put_off.first(), First::Due(2));
        let First::Later(wait) = put_off.first() else { panic!("nothing is due") };
        assert!(wait > Duration::from_secs(50) && wait <= Duration::from_secs(60));
        assert_eq!(put_off.len(), 2);
        let mut left: Vec<_> = put_off.abandon().collect();
        left.sort_unstable();
        assert_eq!((left, put_off.len()), (vec![1, 3], 0));
    }
}
