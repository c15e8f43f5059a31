//! Which endpoints are measured, where they are, and with whose key.

use url::Url;

use crate::args::BenchArgs;
use crate::error::BenchError;
use crate::hosted;
use crate::key::{Key, NVIDIA_KEY};

/// One endpoint as the command line names it.
#[derive(Debug)]
pub(crate) struct Target {
    /// The chat route, with its query.
    pub(crate) chat: Url,
    /// The list of models.
    pub(crate) models: Url,
    /// What reports call it: no query, which may hold secrets.
    pub(crate) name: String,
    /// What to ask for; `None` is the first model that the endpoint lists.
    pub(crate) model: Option<String>,
    /// What to be let in with.
    pub(crate) key: Option<Key>,
    /// NVIDIA's, with its limits.
    pub(crate) hosted: bool,
}

impl Target {
    /// The endpoint, and the one it is compared with.
    ///
    /// # Errors
    /// [`BenchError::Flag`] and [`BenchError::File`].
    pub(crate) fn all(args: &BenchArgs) -> Result<Vec<Self>, BenchError> {
        let url = parse("--url", &args.url)?;
        let key = key_of(
            ("--key-env", args.key_env.as_deref()),
            ("--key-file", args.key_file.as_deref()),
            &url,
        )?;
        let mut targets = vec![Self::new(&url, args.model.clone(), key)];
        if let Some(vs) = &args.vs {
            let url = parse("--vs", vs)?;
            let key = key_of(
                ("--vs-key-env", args.vs_key_env.as_deref()),
                ("--vs-key-file", args.vs_key_file.as_deref()),
                &url,
            )?;
            targets.push(Self::new(&url, args.vs_model.clone(), key));
        }
        Ok(targets)
    }

    fn new(url: &Url, model: Option<String>, key: Option<Key>) -> Self {
        let path = url.path().trim_end_matches('/');
        let base = match path.strip_suffix("/chat/completions") {
            Some(base) => base.to_owned(),
            None if path.ends_with("/v1") => path.to_owned(),
            None => format!("{path}/v1"),
        };
        let route = |end: &str| {
            let mut route = url.clone();
            route.set_path(&format!("{base}/{end}"));
            route
        };
        let mut shown = url.clone();
        shown.set_query(None);
        Self {
            chat: route("chat/completions"),
            models: route("models"),
            name: shown.as_str().trim_end_matches('/').to_owned(),
            model,
            key,
            hosted: hosted::is_hosted(url),
        }
    }

    /// Whether a key goes over the network for everyone to read.
    pub(crate) fn exposes_key(&self) -> bool {
        let local = match self.chat.host() {
            Some(url::Host::Ipv4(address)) => address.is_loopback(),
            Some(url::Host::Ipv6(address)) => address.is_loopback(),
            Some(url::Host::Domain(name)) => name == "localhost",
            None => true,
        };
        self.key.is_some() && self.chat.scheme() == "http" && !local
    }
}

fn parse(flag: &'static str, text: &str) -> Result<Url, BenchError> {
    let failed = |reason: &str| BenchError::flag(flag, reason);
    // Parts of the text are not repeated: it may hold a password.
    let mut url =
        Url::parse(text).map_err(|error| BenchError::flag(flag, format!("is no URL: {error}")))?;
    if !matches!(url.scheme(), "http" | "https") || url.host_str().is_none() {
        return Err(failed(
            "must begin with http:// or https:// and name a host",
        ));
    }
    if !url.username().is_empty() || url.password().is_some() {
        return Err(failed(
            "must not hold a user or a password; keys come from the environment or a file",
        ));
    }
    url.set_fragment(None);
    Ok(url)
}

/// The key for `url`. NVIDIA's own is taken without asking for NVIDIA's endpoint alone, so that no
/// other host ever sees it.
fn key_of(
    env: (&'static str, Option<&str>),
    file: (&'static str, Option<&std::path::Path>),
    url: &Url,
) -> Result<Option<Key>, BenchError> {
    match (env.1, file.1) {
        (_, Some(path)) => Key::from_file(file.0, path).map(Some),
        (Some(name), None) => Key::from_env(env.0, name).map(Some),
        (None, None) if hosted::is_hosted(url) => Key::from_env(env.0, NVIDIA_KEY).map(Some),
        (None, None) => Ok(None),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_usual_url_leads_to_the_routes() {
        for (url, chat, models) in [
            (
                "http://h:8000",
                "http://h:8000/v1/chat/completions",
                "http://h:8000/v1/models",
            ),
            (
                "http://h:8000/",
                "http://h:8000/v1/chat/completions",
                "http://h:8000/v1/models",
            ),
            (
                "http://h/v1/",
                "http://h/v1/chat/completions",
                "http://h/v1/models",
            ),
            (
                "http://h/llm",
                "http://h/llm/v1/chat/completions",
                "http://h/llm/v1/models",
            ),
            (
                "https://ai.api.nvidia.com/v1/gr/meta/m/chat/completions",
                "https://ai.api.nvidia.com/v1/gr/meta/m/chat/completions",
                "https://ai.api.nvidia.com/v1/gr/meta/m/models",
            ),
        ] {
            let target = Target::new(&parse("--url", url).unwrap(), None, None);
            assert_eq!(target.chat.as_str(), chat);
            assert_eq!(target.models.as_str(), models);
        }
    }

    #[test]
    fn a_query_is_sent_and_not_shown() {
        let url = parse("--url", "https://h/v1?api-key=secret#x").unwrap();
        let target = Target::new(&url, None, None);
        assert_eq!(
            target.chat.as_str(),
            "https://h/v1/chat/completions?api-key=secret"
        );
        assert_eq!(target.name, "https://h/v1");
    }

    #[test]
    fn urls_that_cannot_be_used_are_refused() {
        for url in [
            "",
            "localhost:8000",
            "ftp://h",
            "http://",
            "http://user:sesame@h",
            "http://k@h",
        ] {
            let error = parse("--url", url).unwrap_err().to_string();
            assert!(
                error.starts_with("--url: ") && !error.contains("sesame"),
                "{error}"
            );
        }
    }

    #[test]
    fn keys_in_the_clear_are_noticed() {
        let file = tempfile::NamedTempFile::new().unwrap();
        std::fs::write(file.path(), "k").unwrap();
        let key = || Some(Key::from_file("--key-file", file.path()).unwrap());
        for (url, exposed) in [
            ("http://10.0.0.1", true),
            ("https://10.0.0.1", false),
            ("http://127.0.0.1:80", false),
            ("http://localhost", false),
            ("http://[::1]", false),
        ] {
            let target = Target::new(&parse("--url", url).unwrap(), None, key());
            assert_eq!(target.exposes_key(), exposed, "{url}");
        }
    }

    #[test]
    fn nvidias_key_is_not_for_others() {
        let url = parse("--url", "http://localhost:8000").unwrap();
        assert!(
            key_of(("--key-env", None), ("--key-file", None), &url)
                .unwrap()
                .is_none()
        );
    }
}
