//! The words that a transfer is spoken of in.
//!
//! A caller asks by [`Request`]s and [`Options`], of a [`Source`]; bytes take a [`DataPath`]; what came of it is
//! a [`Receipt`], or a [`TransferError`] that says which bytes are [`Valid`]; of bytes on their way out into a file, a
//! [`SaveError`] that says what is [`Left`] of it. Whoever plans a transfer, carries
//! it out or checks it uses these words, and nothing here does any of it.

mod data_path;
mod direction;
mod error;
mod options;
mod priority;
mod progress;
mod receipt;
mod request;
mod save_error;
mod source;
mod valid;

pub use data_path::DataPath;
pub use direction::Direction;
pub use error::TransferError;
pub use options::{Options, Verify};
pub use priority::Priority;
pub use progress::{Pending, Progress};
pub use receipt::{
    Check, CheckShare, CheckStepDown, Checked, LeftOut, Proof, Receipt, Share, StepDown,
};
pub use request::{Around, Request};
pub use save_error::{Left, SaveError};
pub(crate) use source::Recorded;
pub use source::Source;
pub(crate) use source::engine::Readable;
pub use valid::Valid;
