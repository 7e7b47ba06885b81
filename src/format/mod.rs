//! What a file holds, as runs of bytes that can be loaded one by one.
//!
//! A loader moves bytes; it does not know what a tensor, a mip level or a pack's member is. The
//! readers here do: each turns the table of contents of one format into [`Item`]s, a name with an
//! offset and a length in the file, and what the table says that the item is ([`Description`]), so that
//! nobody needs to read it again to use what was loaded. They never touch the payload, and they never decode anything: a
//! member that is compressed or encrypted cannot be moved by DMA into its final form, so it is
//! [`Refused`] by name. Nothing is left out in silence: what a reader does not give as an item is in
//! [`Contents::refused`], and what must be known of the items' bytes in [`Contents::note`].
//!
//! | format | an item is | it says | checksum |
//! |---|---|---|---|
//! | [`Raw`](Format::Raw) | the whole file | nothing more | none |
//! | [`Safetensors`](Format::Safetensors) | a tensor | type and shape ([`Tensor`]) | none |
//! | [`SafetensorsIndex`](Format::SafetensorsIndex) | a tensor in one of several files | type and shape | none |
//! | [`Ktx2`](Format::Ktx2) | a mip level, with all its layers and faces | format and extent ([`Texture`]) | none |
//! | [`Zip`](Format::Zip) | a stored member | size and time ([`Member`]) | CRC-32 |
//!
//! # What every reader keeps to
//!
//! - **The file is not trusted.** Every offset and length is checked against the file's real size
//!   before it is used, and before memory is taken for it. Every [`Item`] lies inside the file, and
//!   no two items of a file share a byte. Nothing that a file holds can cause a panic.
//! - **The file is not mapped.** A mapping of a file that shrinks raises `SIGBUS`; a positioned
//!   read of such a file returns fewer bytes, and that is an error with a name
//!   ([`FormatError::Shrank`]).
//! - **An error says where.** Each [`FormatError`] names the file, the offset in it where one is
//!   meaningful, what is wrong there and what to do about it.
//!
//! # Example
//!
//! ```no_run
//! use bufmap::exporters::outside::outside;
//! use bufmap::format::{self, Description};
//! use std::path::Path;
//!
//! # fn main() -> Result<(), format::FormatError> {
//! for opened in format::read(Path::new("model.safetensors.index.json"), None)? {
//!     let path = outside(opened.file.path());
//!     for item in &opened.contents.items {
//!         println!("{}: {} bytes at {} of {path}", item.name, item.len, item.offset);
//!         if let Description::Tensor(tensor) = &item.description {
//!             println!("{} of shape {:?}", tensor.dtype, tensor.shape);
//!         }
//!     }
//! }
//! # Ok(())
//! # }
//! ```

mod contents;
mod description;
mod detect;
mod error;
mod extent_map;
mod item;
mod kind;
mod ktx2;
mod layout;
mod manifest;
mod member;
mod path_json;
pub mod placement;
mod raw;
mod read;
mod readers;
mod refused;
mod safetensors;
mod shards;
mod source;
mod tensor;
mod texture;
mod zip;

pub use contents::{Contents, Opened};
pub use description::Description;
pub use detect::detect;
pub use error::FormatError;
pub use extent_map::{Drive, ExtentMap, ExtentMapError, MappedFile, MappedItem};
pub use item::{Checksum, Item};
pub use kind::{Format, UnknownFormat};
pub use manifest::{Manifest, Placed, Selection};
pub use member::{DosTime, Member, NotATime};
pub use read::{parse, read};
pub use refused::{Refusal, Refused};
pub use shards::ShardIndex;
pub use tensor::{Dtype, Tensor};
pub use texture::{NoImage, Supercompression, Texture, VkFormat};
