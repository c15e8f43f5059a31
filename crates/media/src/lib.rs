//! The media gate: the one place that opens outgoing sockets or decodes pictures.
//!
//! Clients name pictures by `data:` or `http(s):` URLs. [`MediaGate`] turns each into a
//! [`Picture`], and holds every limit on the way: which addresses may be reached ([`AllowHost`]
//! makes exceptions), how long a fetch may take, how many bytes and pixels a picture and a
//! request may have. [`resample`] scales pictures with the very arithmetic of the libraries that
//! the models were trained behind.
//!
//! What a client sent is never trusted: the format is read from the content, sizes are checked
//! in the header before anything is decoded, and a [`MediaError`] says what was wrong without
//! repeating a decoder's or a socket's own words.

mod address;
mod data_uri;
mod decode;
mod error;
mod fetch;
#[cfg(fuzzing)]
pub mod fuzzing;
mod gate;
mod limits;
mod picture;
mod places;
pub mod resample;

pub use address::{AllowHost, ParseAllowHostError};
pub use decode::decode;
pub use error::{Bound, ErrorKind, FetchFailure, MediaError};
pub use gate::{MediaGate, PictureFile, Source};
pub use limits::{DecodeLimits, MediaConfig, constants};
pub use picture::Picture;
