//! API keys: out of the environment or a file, into a header, and nowhere else.

use std::fmt;
use std::path::Path;

use reqwest::header::HeaderValue;

use crate::error::BenchError;

/// The variable that holds the key of NVIDIA's hosted endpoint.
pub(crate) const NVIDIA_KEY: &str = "NVIDIA_API_KEY";

/// Bytes of a key file that are read; a key has a few dozen.
const MAX_KEY_BYTES: usize = 16 << 10;

/// A secret. Its debug form does not show it.
#[derive(Clone)]
pub(crate) struct Key(String);

impl fmt::Debug for Key {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str("Key(…)")
    }
}

impl Key {
    /// The key in the environment variable `name`, which came with `flag`.
    ///
    /// # Errors
    /// [`BenchError::Flag`], without the value: somebody may have put the key itself there.
    pub(crate) fn from_env(flag: &'static str, name: &str) -> Result<Self, BenchError> {
        let is_name = |c: char| c.is_ascii_uppercase() || c.is_ascii_digit() || c == '_';
        if name.is_empty() || !name.chars().all(is_name) {
            let reason = "takes the name of an environment variable, of A-Z, 0-9 and _; keys \
                          themselves do not belong on a command line";
            return Err(BenchError::flag(flag, reason));
        }
        match std::env::var(name) {
            Ok(value) => Self::new(flag, &value),
            Err(_) => Err(BenchError::flag(
                flag,
                format!("the environment variable {name} is not set"),
            )),
        }
    }

    /// The key in a file, without the whitespace around it.
    ///
    /// # Errors
    /// [`BenchError::File`] and [`BenchError::Flag`].
    pub(crate) fn from_file(flag: &'static str, path: &Path) -> Result<Self, BenchError> {
        let content = crate::files::read(flag, path, MAX_KEY_BYTES)?;
        Self::new(flag, &String::from_utf8_lossy(&content))
    }

    fn new(flag: &'static str, value: &str) -> Result<Self, BenchError> {
        let value = value.trim();
        if value.is_empty() {
            return Err(BenchError::flag(flag, "the key is empty"));
        }
        let key = Self(value.to_owned());
        match key.header() {
            Some(_) => Ok(key),
            None => Err(BenchError::flag(
                flag,
                "the key has characters that no HTTP header may have",
            )),
        }
    }

    /// The value of `Authorization`, marked as not to be shown.
    pub(crate) fn header(&self) -> Option<HeaderValue> {
        let mut value = HeaderValue::from_str(&format!("Bearer {}", self.0)).ok()?;
        value.set_sensitive(true);
        Some(value)
    }

    /// `text` without the key, which servers like to quote.
    pub(crate) fn redact(&self, text: &str) -> String {
        text.replace(&self.0, "[key]")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_key_shows_nowhere() {
        let key = Key::new("--key-env", " nvapi-secret\n").unwrap();
        let header = key.header().unwrap();
        assert_eq!(header.to_str().unwrap(), "Bearer nvapi-secret");
        assert!(!format!("{key:?} {header:?}").contains("secret"));
        assert_eq!(key.redact("wrong key nvapi-secret!"), "wrong key [key]!");
    }

    #[test]
    fn a_key_in_place_of_a_name_is_not_repeated() {
        for name in ["nvapi-secret", "secret", ""] {
            let error = Key::from_env("--key-env", name).unwrap_err().to_string();
            assert!(!error.contains("secret"), "{error}");
        }
        let error = Key::from_env("--key-env", "VLMD_BENCH_NO_SUCH_KEY").unwrap_err();
        assert!(error.to_string().contains("VLMD_BENCH_NO_SUCH_KEY"));
    }

    #[test]
    fn keys_that_cannot_be_sent_are_refused() {
        for value in ["", "  ", "a\u{7}b"] {
            assert!(Key::new("--key-env", value).is_err(), "{value:?}");
        }
    }
}
