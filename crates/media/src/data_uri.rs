//! `data:` URIs (RFC 2397), read as leniently as browsers do and no more.

use std::borrow::Cow;

use base64::Engine as _;
use base64::engine::{DecodePaddingMode, GeneralPurpose, GeneralPurposeConfig};

use crate::error::MediaError;

/// Padding is optional and stray bits behind the last byte are ignored: encoders disagree on both.
const BASE64: GeneralPurpose = GeneralPurpose::new(
    &base64::alphabet::STANDARD,
    GeneralPurposeConfig::new()
        .with_decode_padding_mode(DecodePaddingMode::RequireNone)
        .with_decode_allow_trailing_bits(true),
);

/// A `data:` URI taken apart, its payload not yet decoded.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct DataUri<'a> {
    base64: bool,
    payload: &'a str,
}

impl<'a> DataUri<'a> {
    /// Whether `url` has the scheme `data:`, in any case.
    pub(crate) fn matches(url: &str) -> bool {
        url.get(..5)
            .is_some_and(|scheme| scheme.eq_ignore_ascii_case("data:"))
    }

    /// Takes `data:[type][;parameter]...[;base64],payload` apart. The media type is not looked
    /// at: what the payload is, its content tells.
    ///
    /// # Errors
    /// [`MediaError::InvalidUrl`] without a comma or a payload, and for asset references, which
    /// the server resolves before.
    pub(crate) fn parse(url: &'a str) -> Result<Self, MediaError> {
        let invalid = |reason: &str| MediaError::InvalidUrl(reason.to_owned());
        let Some((head, payload)) = url.split_once(',') else {
            return Err(invalid("a data URI needs a comma before its payload"));
        };
        let mut parameters = head.split(';').skip(1).map(str::trim);
        if parameters.clone().any(is_asset) {
            return Err(invalid(
                "asset references (`asset_id`) hold no data: only requests can name assets",
            ));
        }
        if payload.is_empty() {
            return Err(invalid("the payload of the data URI is empty"));
        }
        let base64 = parameters.any(|parameter| parameter.eq_ignore_ascii_case("base64"));
        Ok(Self { base64, payload })
    }

    /// Bytes that the payload decodes to, or a little more if it is malformed. Allocates nothing.
    pub(crate) fn decoded_len(&self) -> u64 {
        let bytes = self.payload.as_bytes();
        let count = |wanted: fn(u8) -> bool| bytes.iter().filter(|byte| wanted(**byte)).count();
        // Each escape is three characters for one.
        let escapes = count(|byte| byte == b'%');
        let characters = bytes.len().saturating_sub(2 * escapes) as u64;
        if !self.base64 {
            return characters;
        }
        let skipped = count(|byte| byte == b'=' || byte.is_ascii_whitespace()) as u64;
        characters.saturating_sub(skipped) * 3 / 4
    }

    /// Decodes the payload.
    ///
    /// Base64 may use the standard or the URL-safe alphabet, be padded or not, and be broken into
    /// lines (RFC 2045); its characters may themselves be percent-encoded.
    ///
    /// # Errors
    /// [`MediaError::InvalidUrl`] if the payload holds anything else.
    pub(crate) fn decode(&self) -> Result<Vec<u8>, MediaError> {
        let bytes = unescape(self.payload)?;
        if !self.base64 {
            return Ok(bytes.into_owned());
        }
        // What nearly every client sends, in one pass instead of three.
        let padding = bytes.iter().rev().take(2).take_while(|byte| **byte == b'=');
        let unpadded = &bytes[..bytes.len() - padding.count()];
        if let Ok(decoded) = BASE64.decode(unpadded) {
            return Ok(decoded);
        }
        let mut digits = Vec::with_capacity(bytes.len());
        digits.extend(bytes.iter().filter(|byte| !byte.is_ascii_whitespace()).map(
            |byte| match byte {
                b'-' => b'+',
                b'_' => b'/',
                other => *other,
            },
        ));
        for _ in 0..2 {
            digits.pop_if(|digit| *digit == b'=');
        }
        BASE64.decode(digits).map_err(|error| {
            MediaError::InvalidUrl(match error {
                base64::DecodeError::InvalidByte(at, _)
                | base64::DecodeError::InvalidLastSymbol(at, _) => {
                    format!("character {at} of the base64 payload is not base64")
                }
                base64::DecodeError::InvalidLength(_) | base64::DecodeError::InvalidPadding => {
                    "the base64 payload is cut off or wrongly padded".to_owned()
                }
            })
        })
    }
}

/// `asset_id` as a parameter, however its value is attached: `asset_id,ID` is what NVIDIA's
/// clients write, `asset_id=ID` is met too.
fn is_asset(parameter: &str) -> bool {
    let name = parameter.split('=').next().unwrap_or_default();
    name.trim_end().eq_ignore_ascii_case("asset_id")
}

/// Resolves percent escapes.
fn unescape(text: &str) -> Result<Cow<'_, [u8]>, MediaError> {
    if !text.contains('%') {
        return Ok(Cow::Borrowed(text.as_bytes()));
    }
    let mut bytes = Vec::with_capacity(text.len());
    let mut rest = text.as_bytes();
    while let Some((first, tail)) = rest.split_first() {
        rest = match (first, tail) {
            (b'%', [high, low, tail @ ..]) => {
                let digit = |byte: u8| char::from(byte).to_digit(16);
                let (Some(high), Some(low)) = (digit(*high), digit(*low)) else {
                    return Err(bad_escape());
                };
                bytes.push((high * 16 + low) as u8);
                tail
            }
            (b'%', _) => return Err(bad_escape()),
            (other, tail) => {
                bytes.push(*other);
                tail
            }
        };
    }
    Ok(Cow::Owned(bytes))
}

fn bad_escape() -> MediaError {
    MediaError::InvalidUrl(
        "`%` in a data URI must be followed by two hexadecimal digits".to_owned(),
    )
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn decode(url: &str) -> Result<Vec<u8>, MediaError> {
        DataUri::parse(url)?.decode()
    }

    #[test]
    fn payloads_decode_in_every_spelling() {
        // Bytes whose base64 has every special character: +/+/ in the standard alphabet.
        let special = [0xfb, 0xff, 0xbf, 0x01];
        for (url, expected) in [
            ("data:image/png;base64,+/+/AQ==", &special[..]),
            ("data:image/png;base64,-_-_AQ==", &special),
            ("data:image/png;base64,+/-_AQ", &special),
            ("data:image/png;base64,+/+/AQ=", &special),
            ("data:image/png;base64,%2B%2f%2B%2FAQ%3D%3d", &special),
            ("data:image/png;base64,+/+\r\n /\tAQ\n==\n", &special),
            ("DATA:image/png;BASE64,+/+/AQ==", &special),
            ("data:;base64,AQ==", &[1]),
            ("data:image/png;charset=utf-8;base64,AQ==", &[1]),
            ("data:image/png; base64 ,AQ==", &[1]),
            ("data:,a%00%ffb", b"a\0\xffb"),
            ("data:image/png,a+b=c,d", b"a+b=c,d"),
        ] {
            assert_eq!(decode(url).as_deref(), Ok(expected), "{url}");
        }
    }

    #[test]
    fn malformed_uris_are_refused_with_a_reason() {
        for (url, reason) in [
            ("data:image/png;base64", "comma"),
            ("data:", "comma"),
            ("data:image/png;base64,", "empty"),
            ("data:image/png;base64,AQ==AQ==", "character 2"),
            ("data:image/png;base64,AQ===", "wrongly padded"),
            ("data:image/png;base64,A!Q=", "character 1"),
            ("data:image/png;base64,A\u{e9}QQ", "character 1"),
            ("data:image/png;base64,AAAAA", "cut off"),
            ("data:image/png;base64,A%4", "two hexadecimal"),
            ("data:,%zz", "two hexadecimal"),
            ("data:,%", "two hexadecimal"),
            ("data:,%+1", "two hexadecimal"),
            ("data:image/png;asset_id,0b5e", "asset references"),
            (
                "data:image/png;asset_id=0b5e;base64,AQ==",
                "asset references",
            ),
        ] {
            let error = decode(url).unwrap_err().to_string();
            assert!(error.contains(reason), "{url}: {error}");
        }
    }

    #[test]
    fn the_scheme_is_recognised_in_any_case() {
        assert!(DataUri::matches("data:,x") && DataUri::matches("DaTa:,x"));
        for url in ["", "data", "dat\u{e9}:x", "http://data:80/"] {
            assert!(!DataUri::matches(url), "{url}");
        }
    }

    proptest! {
        #[test]
        fn any_text_is_read_or_refused(text in ".{0,80}") {
            let _ = decode(&format!("data:{text}"));
            let _ = decode(&format!("data:;base64,{text}"));
        }

        #[test]
        fn the_length_is_known_before_decoding(bytes in proptest::collection::vec(any::<u8>(), 1..200)) {
            for engine in [base64::prelude::BASE64_STANDARD, base64::prelude::BASE64_URL_SAFE] {
                let url = format!("data:;base64,{}", engine.encode(&bytes));
                let uri = DataUri::parse(&url).unwrap();
                prop_assert_eq!(uri.decoded_len(), bytes.len() as u64);
                prop_assert_eq!(uri.decode().unwrap(), bytes.clone());
            }
            let escaped: String = bytes.iter().map(|byte| format!("%{byte:02x}")).collect();
            let url = format!("data:,{escaped}");
            let uri = DataUri::parse(&url).unwrap();
            prop_assert_eq!(uri.decoded_len(), bytes.len() as u64);
            prop_assert_eq!(uri.decode().unwrap(), bytes);
        }
    }
}
