//! Files of API keys, in three forms.
//!
//! * Lines of `name:key`, or `name:sha256:` and the key's digest in hexadecimal digits; a line
//!   without a colon is a key without a name. `#` begins a comment.
//! * TOML: `[[keys]]` tables.
//! * JSON: an array of objects, or an object with such an array under `keys`.
//!
//! Tables and objects have a `name`, a `key` or its `sha256`, and if wanted
//! `requests_per_minute`, `concurrent_requests` and `cache_salt`.
//!
//! What is wrong is told by its place, never by its content: a message goes to the log, and the
//! content may be a key. That is why TOML and JSON are read by hand here, and their parsers'
//! messages, which quote what they met, are left out.

use std::collections::HashSet;
use std::io::Read as _;
use std::num::NonZeroU32;
use std::path::{Path, PathBuf};

use serde_json::{Map, Value};

use super::keys::{Definition, Digest, KeyLimits, digest};

/// Largest file in bytes.
const MAX_FILE_BYTES: u64 = 4 << 20;

/// Most keys of a server. Each request is held against all of them.
const MAX_KEYS: usize = 10_000;

/// Longest key in bytes.
const MAX_KEY_BYTES: usize = 1024;

/// Longest name and salt in bytes.
const MAX_NAME_BYTES: usize = 64;

/// Before a digest in a file of lines.
const DIGEST_PREFIX: &str = "sha256:";

/// Why a key file cannot be used. Never tells a key.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum KeyFileError {
    /// It cannot be read.
    #[error("the key file `{}` (`--api-key-file`) cannot be read: {source}", path.display())]
    Read {
        /// Which.
        path: PathBuf,
        /// Why.
        source: std::io::Error,
    },
    /// It holds something else than keys.
    #[error("the key file `{}` (`--api-key-file`): {problem}", path.display())]
    Invalid {
        /// Which.
        path: PathBuf,
        /// What, and where.
        problem: String,
    },
}

/// Adds the keys of the file at `path` to `keys`.
///
/// # Errors
/// See [`KeyFileError`]. `keys` may hold some of them then.
pub(super) fn read(path: &Path, keys: &mut Vec<Definition>) -> Result<(), KeyFileError> {
    let unreadable = |source| KeyFileError::Read {
        path: path.to_owned(),
        source,
    };
    let mut bytes = Vec::new();
    let file = std::fs::File::open(path).map_err(unreadable)?;
    let mut file = file.take(MAX_FILE_BYTES + 1);
    file.read_to_end(&mut bytes).map_err(unreadable)?;
    add(path, &bytes, keys).map_err(|problem| KeyFileError::Invalid {
        path: path.to_owned(),
        problem,
    })
}

fn add(path: &Path, bytes: &[u8], keys: &mut Vec<Definition>) -> Result<(), String> {
    if bytes.len() as u64 > MAX_FILE_BYTES {
        return Err(format!("it may have at most {MAX_FILE_BYTES} bytes"));
    }
    let text = std::str::from_utf8(bytes).map_err(|_| "it is not UTF-8")?;
    let found = match Form::of(path, text) {
        Form::Lines => lines(text)?,
        Form::Json => {
            let value = serde_json::from_str(text).map_err(|error| {
                let (line, column) = (error.line(), error.column());
                format!("it is not valid JSON at line {line}, column {column}")
            })?;
            entries(value)?
        }
        Form::Toml => {
            let value = toml::from_str::<Value>(text).map_err(|error| {
                let at = error.span().map_or(0, |span| span.start);
                let before = text.as_bytes().get(..at).unwrap_or_default();
                let line = before.iter().filter(|byte| **byte == b'\n').count() + 1;
                format!("it is not valid TOML at line {line}")
            })?;
            entries(value)?
        }
    };
    if found.is_empty() {
        return Err("it holds no key, and a server without keys is open to everybody".into());
    }
    keys.extend(found);
    check(keys)
}

/// Checks all keys of a server against each other.
fn check(keys: &[Definition]) -> Result<(), String> {
    if keys.len() > MAX_KEYS {
        return Err(format!("there may be at most {MAX_KEYS} keys"));
    }
    let (mut names, mut digests) = (HashSet::new(), HashSet::new());
    for key in keys {
        if !names.insert(&key.name) {
            return Err(format!("there are two keys of the name `{}`", key.name));
        }
        if !digests.insert(key.digest) {
            return Err(format!("`{}` has the key of another", key.name));
        }
    }
    Ok(())
}

/// How a file is written.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Form {
    Lines,
    Json,
    Toml,
}

impl Form {
    /// By the file's name, or by how it begins.
    fn of(path: &Path, text: &str) -> Self {
        let extension = path.extension().and_then(|extension| extension.to_str());
        match extension.map(str::to_ascii_lowercase).as_deref() {
            Some("json") => return Self::Json,
            Some("toml") => return Self::Toml,
            _ => {}
        }
        let mut lines = text.lines().map(str::trim);
        match lines.find(|line| !line.is_empty() && !line.starts_with('#')) {
            Some(line) if line.starts_with("[[") => Self::Toml,
            Some(line) if line.starts_with(['[', '{']) => Self::Json,
            _ => Self::Lines,
        }
    }
}

fn lines(text: &str) -> Result<Vec<Definition>, String> {
    let mut found = Vec::new();
    for (number, line) in (1_usize..).zip(text.lines()) {
        let line = line.trim();
        if line.is_empty() || line.starts_with('#') {
            continue;
        }
        let at = |problem| format!("line {number}: {problem}");
        let (name, key) = match line.split_once(':') {
            Some((name, key)) => (name.trim().to_owned(), key.trim()),
            None => (format!("line-{number}"), line),
        };
        let digest = match key.strip_prefix(DIGEST_PREFIX) {
            Some(digits) => hexadecimal(digits.trim()),
            None => of_key(key),
        };
        found.push(Definition {
            digest: digest.map_err(at)?,
            name: named(name).map_err(at)?,
            limits: KeyLimits::default(),
            cache_salt: None,
        });
    }
    Ok(found)
}

fn entries(value: Value) -> Result<Vec<Definition>, String> {
    let list = match value {
        Value::Array(list) => list,
        Value::Object(mut map) => match map.remove("keys") {
            Some(Value::Array(list)) if map.is_empty() => list,
            _ => return Err("it must hold an array `keys` and nothing else".into()),
        },
        _ => return Err("it must hold an array of keys".into()),
    };
    let entry = |(index, value)| {
        entry(value).map_err(|(field, problem)| match field {
            "" => format!("`keys[{index}]` {problem}"),
            field => format!("`keys[{index}].{field}` {problem}"),
        })
    };
    list.into_iter().enumerate().map(entry).collect()
}

/// Reads one key. What is wrong comes with its field.
fn entry(value: Value) -> Result<Definition, (&'static str, String)> {
    let Value::Object(mut map) = value else {
        return Err(("", "must be an object or a table".into()));
    };
    let name = text(&mut map, "name")?.ok_or(("name", "is required".into()))?;
    let name = named(name).map_err(|problem| ("name", problem))?;
    let digest = match (text(&mut map, "key")?, text(&mut map, "sha256")?) {
        (Some(key), None) => of_key(&key).map_err(|problem| ("key", problem))?,
        (None, Some(digits)) => hexadecimal(&digits).map_err(|problem| ("sha256", problem))?,
        _ => return Err(("", "must have either `key` or `sha256`".into())),
    };
    let limits = KeyLimits {
        requests_per_minute: count(&mut map, "requests_per_minute")?,
        concurrent_requests: count(&mut map, "concurrent_requests")?,
    };
    let cache_salt = text(&mut map, "cache_salt")?;
    if let Some(salt) = &cache_salt
        && !(1..=MAX_NAME_BYTES).contains(&salt.len())
    {
        let problem = format!("must have 1 to {MAX_NAME_BYTES} bytes, has {}", salt.len());
        return Err(("cache_salt", problem));
    }
    if !map.is_empty() {
        let known = "name, key, sha256, requests_per_minute, concurrent_requests, cache_salt";
        return Err(("", format!("has an unknown field; known are {known}")));
    }
    Ok(Definition {
        name,
        digest,
        limits,
        cache_salt,
    })
}

fn text(
    map: &mut Map<String, Value>,
    field: &'static str,
) -> Result<Option<String>, (&'static str, String)> {
    match map.remove(field) {
        None => Ok(None),
        Some(Value::String(text)) => Ok(Some(text)),
        Some(_) => Err((field, "must be a string".into())),
    }
}

fn count(
    map: &mut Map<String, Value>,
    field: &'static str,
) -> Result<Option<NonZeroU32>, (&'static str, String)> {
    let Some(value) = map.remove(field) else {
        return Ok(None);
    };
    let count = value.as_u64().and_then(|count| u32::try_from(count).ok());
    match count.and_then(NonZeroU32::new) {
        Some(count) => Ok(Some(count)),
        None => Err((field, format!("must be an integer from 1 to {}", u32::MAX))),
    }
}

/// A name as it may stand in a log line and in a label.
fn named(name: String) -> Result<String, String> {
    let allowed = |byte: u8| byte.is_ascii_alphanumeric() || b"-_.@/+".contains(&byte);
    if (1..=MAX_NAME_BYTES).contains(&name.len()) && name.bytes().all(allowed) {
        return Ok(name);
    }
    // A key whose colon was taken for the end of a name must not be told.
    Err(format!(
        "the name must be 1 to {MAX_NAME_BYTES} letters, digits and characters of `-_.@/+`"
    ))
}

/// The digest of a key that a header can carry.
fn of_key(key: &str) -> Result<Digest, String> {
    if (1..=MAX_KEY_BYTES).contains(&key.len()) && key.bytes().all(|byte| byte.is_ascii_graphic()) {
        return Ok(digest(key.as_bytes()));
    }
    Err(format!(
        "the key must be 1 to {MAX_KEY_BYTES} printable ASCII characters without spaces, this one \
         has {} bytes",
        key.len()
    ))
}

fn hexadecimal(digits: &str) -> Result<Digest, String> {
    let wrong = || "the SHA-256 digest must be 64 hexadecimal digits".to_owned();
    let mut digest = Digest::default();
    if digits.len() != 2 * digest.len() || !digits.bytes().all(|byte| byte.is_ascii_hexdigit()) {
        return Err(wrong());
    }
    for (byte, pair) in digest.iter_mut().zip(digits.as_bytes().chunks_exact(2)) {
        let pair = std::str::from_utf8(pair).map_err(|_| wrong())?;
        *byte = u8::from_str_radix(pair, 16).map_err(|_| wrong())?;
    }
    Ok(digest)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// SHA-256 of `alpha`.
    const ALPHA: &str = "8ed3f6ad685b959ead7022518e1af76cd816f8e8ec7ccdda1ed4018e8f2223f8";

    fn parse(name: &str, text: &str) -> Result<Vec<Definition>, String> {
        let mut keys = Vec::new();
        add(Path::new(name), text.as_bytes(), &mut keys)?;
        Ok(keys)
    }

    #[test]
    fn every_form_gives_the_same_keys() {
        let lines =
            format!("# ours\n\nteam-a:alpha\n  team-b : nvapi-x:y=z \n# x\nc:sha256:{ALPHA}0\n");
        assert!(parse("keys", &lines).is_err());
        let lines = "# ours\n\nteam-a:alpha\n  team-b : nvapi-x:y=z \n";
        let toml = format!(
            "[[keys]]\nname = 'team-a'\nsha256 = '{}'\n[[keys]]\nname = 'team-b'\nkey = 'nvapi-x:y=z'",
            ALPHA.to_uppercase()
        );
        let json =
            r#"[{"name": "team-a", "key": "alpha"}, {"name": "team-b", "key": "nvapi-x:y=z"}]"#;
        let nested = format!("{{\"keys\": {json}}}");
        for (name, text) in [
            ("keys", lines),
            ("keys.txt", lines),
            ("keys", &toml),
            ("keys.toml", &toml),
            ("keys", json),
            ("keys", &nested),
            ("keys.JSON", &nested),
            (
                "keys",
                &format!("team-a:sha256:{ALPHA}\nteam-b:nvapi-x:y=z"),
            ),
        ] {
            let keys = parse(name, text).unwrap();
            let names: Vec<_> = keys.iter().map(|key| key.name.as_str()).collect();
            assert_eq!(names, ["team-a", "team-b"], "{text}");
            assert_eq!(keys[0].digest, digest(b"alpha"));
            assert_eq!(keys[1].digest, digest(b"nvapi-x:y=z"));
        }
        assert_eq!(parse("keys", "\nalpha").unwrap()[0].name, "line-2");
    }

    #[test]
    fn limits_and_salts_are_read() {
        let toml = "[[keys]]\nname = 'a'\nkey = 'k'\nrequests_per_minute = 60\n\
            concurrent_requests = 4\ncache_salt = 's'";
        let keys = parse("keys.toml", toml).unwrap();
        let limits = keys[0].limits;
        assert_eq!(limits.requests_per_minute.map(NonZeroU32::get), Some(60));
        assert_eq!(limits.concurrent_requests.map(NonZeroU32::get), Some(4));
        assert_eq!(keys[0].cache_salt.as_deref(), Some("s"));
    }

    #[test]
    fn what_is_wrong_is_told_by_its_place_and_never_by_its_content() {
        let secret = "hunter2";
        for (name, text, words) in [
            ("keys", String::new(), "holds no key"),
            ("keys", "# nothing\n\n".into(), "holds no key"),
            ("keys.json", "[]".into(), "holds no key"),
            ("keys.toml", "keys = []".into(), "holds no key"),
            (
                "keys",
                format!("a:\nb:{secret}"),
                "line 1: the key must be 1 to 1024",
            ),
            (
                "keys",
                format!("b:{secret}\na:{secret} {secret}"),
                "line 2: the key must",
            ),
            (
                "keys",
                format!("{secret} {secret}:x"),
                "line 1: the name must",
            ),
            ("keys", format!(":{secret}"), "line 1: the name must"),
            ("keys", format!("a:{secret}\u{e9}"), "line 1: the key must"),
            (
                "keys",
                format!("a:sha256:{secret}"),
                "line 1: the SHA-256 digest",
            ),
            (
                "keys",
                format!("a:{secret}\na:other"),
                "two keys of the name `a`",
            ),
            (
                "keys",
                format!("a:{secret}\nb:{secret}"),
                "`b` has the key of another",
            ),
            (
                "keys.json",
                format!("[\n\"{secret}"),
                "not valid JSON at line 2",
            ),
            (
                "keys.json",
                format!("[\"{secret}\"]"),
                "`keys[0]` must be an object",
            ),
            ("keys.json", format!("\"{secret}\""), "array of keys"),
            (
                "keys.json",
                format!(r#"{{"{secret}": []}}"#),
                "an array `keys`",
            ),
            (
                "keys.json",
                format!(r#"[{{"key": "{secret}"}}]"#),
                "`keys[0].name` is required",
            ),
            (
                "keys.json",
                format!(r#"[{{"name": "a", "{secret}": 1}}]"#),
                "either `key` or `sha256`",
            ),
            (
                "keys.json",
                format!(r#"[{{"name": "a", "key": "k", "{secret}": 1}}]"#),
                "unknown field",
            ),
            (
                "keys.json",
                format!(r#"[{{"name": "a", "key": ["{secret}"]}}]"#),
                "`keys[0].key` must be a string",
            ),
            (
                "keys.json",
                format!(r#"[{{"name": "a", "key": "{secret}", "sha256": "{ALPHA}"}}]"#),
                "either `key` or `sha256`",
            ),
            (
                "keys.json",
                format!(r#"[{{"name": "a", "key": "k", "requests_per_minute": "{secret}"}}]"#),
                "`keys[0].requests_per_minute` must be an integer from 1",
            ),
            (
                "keys.toml",
                "[[keys]]\nname = 'a'\nkey = 'k'\nconcurrent_requests = 0".into(),
                "`keys[0].concurrent_requests` must be an integer from 1",
            ),
            (
                "keys.toml",
                "[[keys]]\nname = 'a'\nkey = 'k'\ncache_salt = ''".into(),
                "`keys[0].cache_salt` must have 1 to 64 bytes, has 0",
            ),
            (
                "keys.toml",
                format!("[[keys]]\nname = 'a'\nkey = {secret}"),
                "not valid TOML at line 3",
            ),
        ] {
            let Err(problem) = parse(name, &text) else {
                panic!("{text} was taken");
            };
            assert!(problem.contains(words), "{text}: {problem}");
            assert!(!problem.contains(secret), "{text}: {problem}");
        }
        let many: String = (0..=MAX_KEYS).map(|n| format!("n{n}:k{n}\n")).collect();
        assert!(parse("keys", &many).is_err_and(|problem| problem.contains("10000")));
        let mut keys = Vec::new();
        assert!(add(Path::new("keys"), b"a:\xff", &mut keys).is_err());
        let error = read(Path::new("/nonexistent/keys"), &mut keys).unwrap_err();
        assert!(error.to_string().contains("--api-key-file"), "{error}");
    }
}
