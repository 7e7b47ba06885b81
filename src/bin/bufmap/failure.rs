//! How a command ends that did not do what it was asked.

/// Why a command ended without doing what it was asked.
pub enum Failure {
    /// The user stopped it.
    Stopped(String),
    /// It failed.
    Error(String),
}

impl<E: std::error::Error> From<E> for Failure {
    fn from(error: E) -> Self {
        Self::Error(error.to_string())
    }
}
