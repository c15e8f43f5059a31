//! The media gate: the one place that opens outgoing sockets or decodes pictures.

/// A decoded picture: 8-bit RGB, upright (EXIF applied), alpha composited on white.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Picture {
    width: u32,
    height: u32,
    rgb: Vec<u8>,
}
