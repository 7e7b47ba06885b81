//! zip
use super::source::Source;
use super::{Contents, FormatError};
pub(super) const SIGNATURES: [[u8; 4]; 2] = [*b"PK\x03\x04", *b"PK\x05\x06"];
pub(super) fn method_name(method: u16) -> Option<&'static str> {
    (method == 8).then_some("deflate")
}
pub(super) fn contents(source: &Source<'_>) -> Result<Contents, FormatError> {
    Err(source.unsupported(0, "not written yet", "wait"))
}
