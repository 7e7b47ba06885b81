//! What a program holds of a request under way.

use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, Wake, Waker};
use std::thread::{self, Thread};
use std::time::{Duration, Instant};

use super::order::Order;
use super::outcome::Outcome;
use super::shared::Shared;

/// A request under way. It is a [`Future`] that needs no runtime, and can be waited for or asked. Dropping it
/// leaves the request under way.
/// A future that was ready is pending for ever if it is polled again.
#[derive(Debug)]
#[must_use = "what became of the request is known by it alone"]
pub struct Ticket {
    order: Arc<Order>,
    shared: Arc<Shared>,
}

impl Ticket {
    pub(super) const fn new(order: Arc<Order>, shared: Arc<Shared>) -> Self {
        Self { order, shared }
    }

    /// The request's [tag](super::Request::tag).
    pub fn tag(&self) -> u64 {
        self.order.tag
    }

    /// Whether the outcome is known.
    pub fn is_done(&self) -> bool {
        self.order.is_answered()
    }

    /// Ends the request, unless it is done: what waits is forgotten, what is with the drive ends. The outcome is an
    /// error then, [`TransferError::Stopped`](crate::transfer::TransferError::Stopped), that says which bytes are valid.
    pub fn cancel(&self) {
        self.shared.cancel(&self.order);
    }

    /// Waits for the outcome.
    pub fn wait(self) -> Outcome {
        loop {
            if let Some(outcome) = self.wait_until(None) {
                return outcome;
            }
        }
    }

    /// Waits so long for the outcome.
    ///
    /// # Errors
    /// The ticket, if the outcome is not known yet.
    pub fn wait_for(self, limit: Duration) -> Result<Outcome, Self> {
        let deadline = Instant::now() + limit;
        self.wait_until(Some(deadline)).ok_or(self)
    }

    /// The outcome, if it is known: once.
    pub(super) fn outcome(&self) -> Option<Outcome> {
        self.order.outcome(None)
    }

    fn wait_until(&self, deadline: Option<Instant>) -> Option<Outcome> {
        if let Some(outcome) = self.outcome() {
            return Some(outcome);
        }
        let waker = Waker::from(Arc::new(Sleeper(thread::current())));
        loop {
            if let Some(outcome) = self.order.outcome(Some(&waker)) {
                return Some(outcome);
            }
            match deadline {
                None => thread::park(),
                Some(deadline) => {
                    let left = deadline.saturating_duration_since(Instant::now());
                    if left.is_zero() {
                        return None;
                    }
                    thread::park_timeout(left);
                }
            }
        }
    }
}

impl Future for Ticket {
    type Output = Outcome;

    fn poll(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Outcome> {
        match self.order.outcome(Some(context.waker())) {
            Some(outcome) => Poll::Ready(outcome),
            None => Poll::Pending,
        }
    }
}

/// A thread that waits.
struct Sleeper(Thread);

impl Wake for Sleeper {
    fn wake(self: Arc<Self>) {
        self.0.unpark();
    }
}
