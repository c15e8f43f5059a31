//! What every model's preprocessing starts from.

use std::fmt;

/// A decoded picture: 8-bit RGB, upright (EXIF applied), alpha composited on white.
///
/// Never empty: both sides are at least one pixel.
#[derive(Clone, PartialEq, Eq)]
pub struct Picture {
    pub(crate) width: u32,
    pub(crate) height: u32,
    pub(crate) rgb: Vec<u8>,
}

impl Picture {
    /// Takes `rgb` as rows of pixels from the top, three bytes each.
    ///
    /// `None` unless both sides are at least 1 and `rgb` has exactly `width * height * 3` bytes.
    #[must_use]
    pub fn from_rgb(width: u32, height: u32, rgb: Vec<u8>) -> Option<Self> {
        let bytes = (width as usize)
            .checked_mul(height as usize)?
            .checked_mul(3)?;
        (bytes > 0 && bytes == rgb.len()).then_some(Self { width, height, rgb })
    }

    /// Pixels in a row.
    #[must_use]
    pub fn width(&self) -> u32 {
        self.width
    }

    /// Rows.
    #[must_use]
    pub fn height(&self) -> u32 {
        self.height
    }

    /// `[height, width, 3]`, row-major.
    #[must_use]
    pub fn rgb(&self) -> &[u8] {
        &self.rgb
    }

    /// Gives the bytes of [`rgb`](Self::rgb) away.
    #[must_use]
    pub fn into_rgb(self) -> Vec<u8> {
        self.rgb
    }
}

/// The size only: pixels belong into no log.
impl fmt::Debug for Picture {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Picture")
            .field("width", &self.width)
            .field("height", &self.height)
            .finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn takes_only_whole_pictures() {
        for (width, height, bytes, taken) in [
            (2, 1, 6, true),
            (2, 1, 5, false),
            (2, 1, 7, false),
            (0, 1, 0, false),
            (1, 0, 0, false),
            (u32::MAX, u32::MAX, 0, false),
        ] {
            let picture = Picture::from_rgb(width, height, vec![0; bytes]);
            assert_eq!(picture.is_some(), taken, "{width}x{height}, {bytes} bytes");
        }
    }

    #[test]
    fn debug_output_holds_no_pixels() {
        let picture = Picture::from_rgb(1, 1, vec![201, 202, 203]);
        assert!(!format!("{picture:?}").contains("201"));
    }
}
