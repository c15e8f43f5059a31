//! A prefix for all routes.

use std::str::FromStr;

use axum::Router;
use serde_json::{Value, json};

/// A path under which all routes answer as well as without it, for proxies that pass a prefix on:
/// `/models/vision`. The default is none.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct RootPath {
    /// Begins with a slash and does not end with one.
    prefix: Option<String>,
}

/// A text that is no [`RootPath`].
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error(
    "a root path must begin with `/` and consist of names of letters, digits, `-`, `_`, `.` and `~`, \
     got {0:?}"
)]
pub struct InvalidRootPath(String);

impl FromStr for RootPath {
    type Err = InvalidRootPath;

    /// A slash at the end makes no difference; nothing, or a slash alone, is no prefix.
    fn from_str(text: &str) -> Result<Self, InvalidRootPath> {
        let path = text.strip_suffix('/').unwrap_or(text);
        if path.is_empty() {
            return Ok(Self::default());
        }
        let is_name = |name: &str| {
            let is_plain = |c: char| c.is_ascii_alphanumeric() || "-_.~".contains(c);
            !matches!(name, "" | "." | "..") && name.chars().all(is_plain)
        };
        match path.strip_prefix('/') {
            Some(names) if names.split('/').all(is_name) => Ok(Self {
                prefix: Some(path.to_owned()),
            }),
            _ => Err(InvalidRootPath(text.chars().take(64).collect())),
        }
    }
}

impl RootPath {
    /// `router` under the prefix as well.
    pub(crate) fn mount(&self, router: Router) -> Router {
        match &self.prefix {
            None => router,
            // Whole: keys are asked for on the path without the prefix, like everything else.
            Some(prefix) => Router::new()
                .nest_service(prefix, router.clone())
                .fallback_service(router),
        }
    }

    /// An OpenAPI document that tells the prefix.
    pub(crate) fn describe(&self, mut document: Value) -> Value {
        if let Some(prefix) = &self.prefix {
            document["servers"] = json!([{ "url": prefix }]);
        }
        document
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn prefixes_are_plain_paths() {
        for (text, prefix) in [
            ("", None),
            ("/", None),
            ("/a", Some("/a")),
            ("/a/b-2_c.d~/", Some("/a/b-2_c.d~")),
        ] {
            let prefix = prefix.map(str::to_owned);
            assert_eq!(text.parse(), Ok(RootPath { prefix }), "{text}");
        }
        for text in [
            "a", "//", "//a", "/a//b", "/a//", "/../b", "/a/.", "/{a}", "/:a", "/*a", "/a b", "/ä",
            "/a%20", "http://a",
        ] {
            let error = text.parse::<RootPath>().unwrap_err();
            assert!(error.to_string().contains(text), "{error}");
        }
    }

    #[test]
    fn the_document_tells_the_prefix() {
        let root: RootPath = "/a".parse().unwrap();
        assert_eq!(root.describe(json!({}))["servers"][0]["url"], "/a");
        assert_eq!(RootPath::default().describe(json!({})), json!({}));
    }
}
