//! From encoded bytes to a [`Picture`], within limits.
//!
//! The format is told by the content, never by a name or a media type. Sizes are read from the
//! header and held against the limits before a pixel is decoded, so that memory and time are
//! bounded by the limits and not by what a small file claims. The decoders are written in safe
//! Rust; what they say about a file is logged, not sent.

mod jpeg;
mod rgb;
mod webp;

use std::io::Cursor;
use std::panic::{AssertUnwindSafe, catch_unwind};

use image::metadata::Orientation;
use image::{DynamicImage, ImageDecoder, ImageError, ImageFormat, ImageReader, Limits, RgbImage};

use crate::error::MediaError;
use crate::limits::DecodeLimits;
use crate::picture::Picture;

/// Beside pixels: colour profiles, comments, tables.
const METADATA_BYTES: u64 = 16 << 20;

/// Bytes of the widest pixel that a decoder gives, 16-bit RGBA.
const MAX_PIXEL_BYTES: u64 = 8;

/// Decodes a PNG, JPEG, WebP, GIF (its first frame) or BMP picture.
///
/// As a person sees it: turned upright by its EXIF orientation, clear parts on white. Arithmetic
/// follows Pillow: 16-bit samples keep their high byte, alpha is composited with the rounding of
/// its `alpha_composite`, CMYK is taken as Adobe writes it. Colour profiles and gamma are ignored,
/// as the models' own preprocessing ignores them.
///
/// Takes up to some hundred milliseconds: not for an async worker.
///
/// # Errors
/// * [`MediaError::UnsupportedFormat`]: none of these formats,
/// * [`MediaError::TooLarge`]: a limit is exceeded,
/// * [`MediaError::InvalidImage`], [`MediaError::EmptyImage`]: no picture, or only a part of one.
pub fn decode(bytes: &[u8], limits: &DecodeLimits) -> Result<Picture, MediaError> {
    Encoded::open(bytes, limits)?.decode()
}

/// A picture whose header has been read and is within the limits.
pub(crate) struct Encoded<'a> {
    format: Format,
    decoder: Box<dyn ImageDecoder + 'a>,
}

impl<'a> Encoded<'a> {
    /// Reads the header.
    ///
    /// # Errors
    /// As [`decode`].
    pub(crate) fn open(bytes: &'a [u8], limits: &DecodeLimits) -> Result<Self, MediaError> {
        limits.check_bytes(bytes.len() as u64)?;
        if bytes.is_empty() {
            return Err(MediaError::EmptyImage);
        }
        let format = Format::sniff(bytes).ok_or(MediaError::UnsupportedFormat)?;
        if format == Format::Jpeg {
            jpeg::check(bytes).map_err(|reason| format.invalid(reason))?;
        }
        let alloc = limits.max_pixels.saturating_mul(MAX_PIXEL_BYTES);
        let mut allowed = Limits::no_limits();
        allowed.max_alloc = Some(alloc.saturating_add(METADATA_BYTES));
        let decoder = format.guarded(|| {
            let mut reader = ImageReader::with_format(Cursor::new(bytes), format.codec());
            reader.limits(allowed);
            let decoder: Box<dyn ImageDecoder + 'a> = Box::new(reader.into_decoder()?);
            Ok(decoder)
        })?;
        let (width, height) = decoder.dimensions();
        if width == 0 || height == 0 {
            return Err(format.invalid("it has no pixels"));
        }
        limits.check_size(width, height)?;
        if format == Format::WebP && !webp::frames_fit(bytes, width, height) {
            return Err(format.invalid("a frame is larger than its canvas"));
        }
        Ok(Self { format, decoder })
    }

    /// Width times height.
    pub(crate) fn pixels(&self) -> u64 {
        let (width, height) = self.decoder.dimensions();
        u64::from(width) * u64::from(height)
    }

    /// Decodes the pixels.
    ///
    /// # Errors
    /// [`MediaError::InvalidImage`].
    pub(crate) fn decode(self) -> Result<Picture, MediaError> {
        let Self {
            format,
            mut decoder,
        } = self;
        let (width, height) = decoder.dimensions();
        let colour = decoder.color_type();
        let (data, orientation) = format.guarded(|| {
            // A picture whose EXIF block is damaged is shown as it is.
            let orientation = decoder.orientation().unwrap_or(Orientation::NoTransforms);
            let bytes = usize::try_from(decoder.total_bytes()).unwrap_or(usize::MAX);
            let mut data = Vec::new();
            data.try_reserve_exact(bytes).map_err(|_| {
                let kind = image::error::LimitErrorKind::InsufficientMemory;
                ImageError::Limits(image::error::LimitError::from_kind(kind))
            })?;
            data.resize(bytes, 0);
            decoder.read_image(&mut data)?;
            Ok((data, orientation))
        })?;
        rgb::flatten(data, colour)
            .and_then(|rgb| RgbImage::from_raw(width, height, rgb))
            .map(|rgb| upright(rgb, orientation))
            .and_then(|rgb| Picture::from_rgb(rgb.width(), rgb.height(), rgb.into_raw()))
            .ok_or_else(|| format.invalid(UNSUPPORTED))
    }
}

const UNSUPPORTED: &str = "it uses a feature that is not supported";

fn upright(rgb: RgbImage, orientation: Orientation) -> RgbImage {
    if orientation == Orientation::NoTransforms {
        return rgb;
    }
    let mut image = DynamicImage::ImageRgb8(rgb);
    image.apply_orientation(orientation);
    image.into_rgb8()
}

/// The formats that are decoded. No others, however many the decoding library learns.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Format {
    Png,
    Jpeg,
    WebP,
    Gif,
    Bmp,
}

impl Format {
    /// Tells the format by its first bytes.
    fn sniff(bytes: &[u8]) -> Option<Self> {
        match bytes {
            [0x89, b'P', b'N', b'G', b'\r', b'\n', 0x1a, b'\n', ..] => Some(Self::Png),
            [0xff, 0xd8, 0xff, ..] => Some(Self::Jpeg),
            [
                b'R',
                b'I',
                b'F',
                b'F',
                _,
                _,
                _,
                _,
                b'W',
                b'E',
                b'B',
                b'P',
                ..,
            ] => Some(Self::WebP),
            [b'G', b'I', b'F', b'8', b'7' | b'9', b'a', ..] => Some(Self::Gif),
            [b'B', b'M', ..] => Some(Self::Bmp),
            _ => None,
        }
    }

    fn codec(self) -> ImageFormat {
        match self {
            Self::Png => ImageFormat::Png,
            Self::Jpeg => ImageFormat::Jpeg,
            Self::WebP => ImageFormat::WebP,
            Self::Gif => ImageFormat::Gif,
            Self::Bmp => ImageFormat::Bmp,
        }
    }

    fn name(self) -> &'static str {
        match self {
            Self::Png => "PNG",
            Self::Jpeg => "JPEG",
            Self::WebP => "WebP",
            Self::Gif => "GIF",
            Self::Bmp => "BMP",
        }
    }

    fn invalid(self, reason: &'static str) -> MediaError {
        MediaError::InvalidImage {
            format: self.name(),
            reason,
        }
    }

    /// Runs a decoder. One that panics has met a file that it was not made for, which is the
    /// file's fault as far as the client is concerned, and must not take anything else down.
    fn guarded<T>(self, work: impl FnOnce() -> Result<T, ImageError>) -> Result<T, MediaError> {
        let Ok(result) = catch_unwind(AssertUnwindSafe(work)) else {
            tracing::warn!(format = self.name(), "an image decoder panicked");
            return Err(self.invalid(DAMAGED));
        };
        result.map_err(|error| {
            tracing::debug!(format = self.name(), %error, "an image cannot be decoded");
            self.invalid(match error {
                ImageError::Unsupported(_) => UNSUPPORTED,
                ImageError::Limits(_) => "it needs more memory than an image within the limits",
                _ => DAMAGED,
            })
        })
    }
}

const DAMAGED: &str = "it is damaged or cut off";

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn formats_are_told_by_their_content() {
        for (bytes, format) in [
            (&b"\x89PNG\r\n\x1a\n"[..], Some(Format::Png)),
            (b"\xff\xd8\xff\xe0", Some(Format::Jpeg)),
            (b"RIFF\0\0\0\0WEBP", Some(Format::WebP)),
            (b"GIF87a", Some(Format::Gif)),
            (b"GIF89a", Some(Format::Gif)),
            (b"BM", Some(Format::Bmp)),
            (b"RIFF\0\0\0\0WAVE", None),
            (b"GIF88a", None),
            (b"\x89PNG", None),
            (b"<svg", None),
            (b"", None),
        ] {
            assert_eq!(Format::sniff(bytes), format, "{bytes:?}");
        }
    }

    #[test]
    fn bytes_are_counted_before_anything_is_read() {
        let limits = DecodeLimits {
            max_bytes: 3,
            ..DecodeLimits::default()
        };
        let error = decode(b"text", &limits).unwrap_err();
        assert!(error.to_string().contains("--max-image-bytes"), "{error}");
    }

    proptest! {
        #[test]
        fn any_bytes_are_decoded_or_refused(
            head in prop::sample::select(vec![
                &b"\x89PNG\r\n\x1a\n\0\0\0\rIHDR\0\0\0\x04\0\0\0\x04\x08\x02\0\0\0"[..],
                b"\xff\xd8\xff\xc0\0\x11\x08\0\x10\0\x10\x03\x01\x22\0\x02\x11\x01\x03\x11\x01",
                b"RIFF\x40\0\0\0WEBPVP8L\x10\0\0\0\x2f",
                b"RIFF\x40\0\0\0WEBPVP8X\x0a\0\0\0",
                b"GIF89a\x04\0\x04\0\x80\0\0",
                b"BM",
            ]),
            tail in prop::collection::vec(any::<u8>(), 0..200),
        ) {
            let limits = DecodeLimits { max_pixels: 10_000, ..DecodeLimits::default() };
            let _ = decode(&[head, &tail].concat(), &limits);
        }
    }
}
