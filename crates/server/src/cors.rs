//! Cross-origin resource sharing: which pages of other origins a browser lets call the server
//! (<https://fetch.spec.whatwg.org/#http-cors-protocol>).

use std::time::Duration;

use axum::http::{HeaderName, HeaderValue, Method};
use tower_http::cors::{AllowHeaders, AllowMethods, AllowOrigin, CorsLayer, ExposeHeaders};

/// Means "all" in every list.
const ALL: &str = "*";

/// What pages of other origins may do.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct CorsRules {
    /// Origins, such as `https://app.example.org`, or `*` for all.
    pub origins: Vec<String>,
    /// Methods, or `*` for whatever is asked for.
    pub methods: Vec<String>,
    /// Request headers, or `*` for whatever is asked for: unlike the `*` of the protocol, which
    /// leaves `authorization` out.
    pub headers: Vec<String>,
    /// Response headers that scripts may read, beside those that they always may.
    pub exposed_headers: Vec<String>,
    /// Whether browsers may send cookies and their own credentials along.
    pub credentials: bool,
    /// How long a browser may remember the answer to a preflight request.
    pub max_age: Duration,
}

impl CorsRules {
    /// That of Starlette, which NIM's servers are built on.
    pub const DEFAULT_MAX_AGE: Duration = Duration::from_secs(600);
}

/// Rules that have been checked.
#[derive(Debug, Clone)]
pub struct Cors {
    pub(crate) layer: CorsLayer,
}

/// Why rules make no sense.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum CorsError {
    /// An origin is none.
    #[error(
        "`--cors-allow-origins`: `{0}` is no origin; expected `*`, `null` or a scheme, a host and \
         perhaps a port without a path, such as `https://app.example.org`"
    )]
    Origin(String),
    /// A method is none.
    #[error("`--cors-allow-methods`: `{0}` is no HTTP method")]
    Method(String),
    /// A header's name is none.
    #[error("`{flag}`: `{name}` is no name of a header")]
    Header {
        /// The flag that it was given with.
        flag: &'static str,
        /// The name.
        name: String,
    },
    /// All origins and credentials do not go together.
    #[error(
        "`--cors-allow-credentials` needs the origins to be named: with `--cors-allow-origins *` \
         any page could act for whoever looks at it"
    )]
    Credentials,
    /// Nor do credentials and all exposed headers.
    #[error(
        "`--cors-allow-credentials` needs `--cors-expose-headers` to be named: browsers take `*` \
         for a name then"
    )]
    ExposedWithCredentials,
}

impl Cors {
    /// Checks rules; without origins there are none to follow.
    ///
    /// # Errors
    /// See [`CorsError`].
    pub fn new(rules: &CorsRules) -> Result<Option<Self>, CorsError> {
        if rules.origins.is_empty() {
            return Ok(None);
        }
        let all = |list: &[String]| list.iter().any(|item| item == ALL);
        let origins = if all(&rules.origins) {
            if rules.credentials {
                return Err(CorsError::Credentials);
            }
            AllowOrigin::any()
        } else {
            let origins: Result<Vec<_>, _> =
                rules.origins.iter().map(|name| origin(name)).collect();
            AllowOrigin::list(origins?)
        };
        let methods = if all(&rules.methods) {
            AllowMethods::mirror_request()
        } else {
            let methods: Result<Vec<_>, _> =
                rules.methods.iter().map(|name| method(name)).collect();
            AllowMethods::list(methods?)
        };
        let headers = if all(&rules.headers) {
            AllowHeaders::mirror_request()
        } else {
            AllowHeaders::list(names("--cors-allow-headers", &rules.headers)?)
        };
        let exposed = if all(&rules.exposed_headers) {
            if rules.credentials {
                return Err(CorsError::ExposedWithCredentials);
            }
            ExposeHeaders::any()
        } else {
            ExposeHeaders::list(names("--cors-expose-headers", &rules.exposed_headers)?)
        };
        let layer = CorsLayer::new()
            .allow_origin(origins)
            .allow_methods(methods)
            .allow_headers(headers)
            .expose_headers(exposed)
            .allow_credentials(rules.credentials)
            .max_age(rules.max_age);
        Ok(Some(Self { layer }))
    }
}

/// An origin as browsers write it, which is what it is compared with: byte for byte.
fn origin(name: &str) -> Result<HeaderValue, CorsError> {
    let fault = || CorsError::Origin(name.to_owned());
    let well_formed = name == "null"
        || name.split_once("://").is_some_and(|(scheme, host)| {
            let scheme_char =
                |c: char| c.is_ascii_lowercase() || c.is_ascii_digit() || "+-.".contains(c);
            let host_char = |c: char| c.is_ascii_graphic() && !"/?#@,*\\".contains(c);
            scheme.starts_with(|c: char| c.is_ascii_lowercase())
                && scheme.chars().all(scheme_char)
                && !host.is_empty()
                && host.chars().all(host_char)
                && !host.chars().any(|c| c.is_ascii_uppercase())
        });
    if !well_formed {
        return Err(fault());
    }
    HeaderValue::from_str(name).map_err(|_| fault())
}

fn method(name: &str) -> Result<Method, CorsError> {
    // They are compared as they are written, and all of HTTP's are upper case.
    Method::from_bytes(name.to_ascii_uppercase().as_bytes())
        .map_err(|_| CorsError::Method(name.to_owned()))
}

fn names(flag: &'static str, list: &[String]) -> Result<Vec<HeaderName>, CorsError> {
    let name = |name: &String| {
        HeaderName::from_bytes(name.as_bytes()).map_err(|_| CorsError::Header {
            flag,
            name: name.clone(),
        })
    };
    list.iter().map(name).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn rules(origins: &[&str]) -> CorsRules {
        CorsRules {
            origins: origins.iter().map(|&origin| origin.to_owned()).collect(),
            methods: vec!["GET".to_owned(), "post".to_owned()],
            headers: vec![ALL.to_owned()],
            exposed_headers: vec!["x-request-id".to_owned()],
            credentials: false,
            max_age: CorsRules::DEFAULT_MAX_AGE,
        }
    }

    #[test]
    fn nothing_is_shared_unless_an_origin_is_named() {
        assert!(Cors::new(&rules(&[])).unwrap().is_none());
        for origins in [
            &["*"][..],
            &["https://app.example.org", "http://localhost:3000"],
            &["null"],
            &["http://[::1]:8080", "chrome-extension://abc"],
        ] {
            assert!(Cors::new(&rules(origins)).unwrap().is_some(), "{origins:?}");
        }
    }

    #[test]
    fn what_no_browser_would_send_as_an_origin_is_refused() {
        for name in [
            "",
            "app.example.org",
            "https://",
            "https://a.example.org/",
            "https://a.example.org/path",
            "https://*.example.org",
            "https://user@a.example.org",
            "HTTPS://a.example.org",
            "https://A.example.org",
            "https://a b",
            "://x",
        ] {
            let error = Cors::new(&rules(&[name])).unwrap_err();
            assert_eq!(error, CorsError::Origin(name.to_owned()));
        }
    }

    #[test]
    fn credentials_are_for_named_origins() {
        let mut all = rules(&["*"]);
        all.credentials = true;
        assert_eq!(Cors::new(&all).unwrap_err(), CorsError::Credentials);
        let mut exposed = rules(&["https://a.example.org"]);
        exposed.credentials = true;
        assert!(Cors::new(&exposed).is_ok());
        exposed.exposed_headers = vec![ALL.to_owned()];
        let error = Cors::new(&exposed).unwrap_err();
        assert_eq!(error, CorsError::ExposedWithCredentials);
    }

    #[test]
    fn names_that_are_none_are_given_back() {
        let mut odd = rules(&["*"]);
        odd.methods = vec!["G T".to_owned()];
        assert_eq!(
            Cors::new(&odd).unwrap_err(),
            CorsError::Method("G T".to_owned())
        );
        let mut odd = rules(&["*"]);
        odd.exposed_headers = vec!["a:b".to_owned()];
        let message = Cors::new(&odd).unwrap_err().to_string();
        assert!(message.contains("--cors-expose-headers") && message.contains("a:b"));
    }
}
