//! Ctrl-C, which ends guests in order.

use std::sync::atomic::{AtomicBool, Ordering};

use crate::child::Error;

/// Set by Ctrl-C once a guest may be running: it is ended in order, and leaves nothing behind.
static INTERRUPTED: AtomicBool = AtomicBool::new(false);

/// Has Ctrl-C end guests in order from now on.
pub fn end_guests_on_ctrl_c() -> Result<(), Error> {
    ctrlc::set_handler(|| INTERRUPTED.store(true, Ordering::Relaxed)).map_err(|error| {
        Error::Missing { what: error.to_string(), remedy: "run the command again".to_owned() }
    })
}

/// Whether Ctrl-C was pressed since.
pub fn interrupted() -> bool {
    INTERRUPTED.load(Ordering::Relaxed)
}
