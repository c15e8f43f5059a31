//! Fetching pictures over HTTP(S) without becoming a hole in the operator's network.
//!
//! A URL is parsed once, and the connection is made from that parse, so that no second parser can
//! read it differently. Its host is resolved here, *every* address is checked, and the client is
//! pinned to the checked addresses: a name that resolves differently a moment later changes
//! nothing. Redirects are followed here too, each hop from the start. System proxies are not used,
//! since a proxy would resolve the name again, elsewhere.
//!
//! A fetch has a time to wait for its place and a deadline of its own. Places are few, over all
//! and for each host, and a hop to another host gives up its place and takes one there.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use reqwest::dns::{Addrs, Name, Resolve, Resolving};
use reqwest::header::{ACCEPT, LOCATION};
use reqwest::{Client, Response, redirect};
use tokio::sync::Semaphore;
use url::{Host, Url};

use crate::address::AddressPolicy;
use crate::error::{Bound, FetchFailure, MediaError};
use crate::gate::Budget;
use crate::limits::{MediaConfig, check, constants};
use crate::places::{Place, Places};

const USER_AGENT: &str = concat!("vlmd/", env!("CARGO_PKG_VERSION"));

/// Gets the bytes behind `http(s):` URLs.
#[derive(Debug)]
pub(crate) struct Fetcher {
    policy: AddressPolicy,
    tls: rustls::ClientConfig,
    timeout: Duration,
    max_redirects: u32,
    max_bytes: u64,
    places: Places,
    lookups: Arc<Semaphore>,
}

impl Fetcher {
    /// Trusts the certificate authorities of the system, or those in `SSL_CERT_FILE` and
    /// `SSL_CERT_DIR`. Without any, `https:` URLs fail and everything else works.
    ///
    /// # Errors
    /// [`MediaError::Internal`] if there is no TLS.
    pub(crate) fn new(config: MediaConfig) -> Result<Self, MediaError> {
        let found = rustls_native_certs::load_native_certs();
        let mut roots = rustls::RootCertStore::empty();
        let (added, ignored) = roots.add_parsable_certificates(found.certs);
        if added == 0 {
            tracing::warn!(
                ignored,
                "no certificate authorities: https image URLs will fail"
            );
        }
        let provider = Arc::new(rustls::crypto::ring::default_provider());
        let tls = rustls::ClientConfig::builder_with_provider(provider)
            .with_safe_default_protocol_versions()
            .map_err(|error| internal("TLS cannot be set up", &error))?
            .with_root_certificates(roots)
            .with_no_client_auth();
        Ok(Self {
            policy: AddressPolicy::new(config.allow_hosts),
            tls,
            timeout: config.fetch_timeout,
            max_redirects: config.max_redirects,
            max_bytes: config.image.max_bytes,
            places: Places::new(
                config.fetch_concurrency,
                config.fetch_concurrency_per_host,
                config.fetch_patience,
            ),
            lookups: Arc::new(Semaphore::new(constants::LOOKUP_CONCURRENCY)),
        })
    }

    /// Gets the body behind `url`, whatever type it claims to be: its content decides later.
    ///
    /// # Errors
    /// [`MediaError::InvalidUrl`], [`MediaError::ForbiddenAddress`], [`MediaError::FetchFailed`],
    /// [`MediaError::Busy`] and [`MediaError::TooLarge`].
    pub(crate) async fn fetch(&self, url: &str, budget: &Budget) -> Result<Vec<u8>, MediaError> {
        let url = parse(url)?;
        let place = self.places.wait(host_of(&url)).await?;
        let fetched = tokio::time::timeout(self.timeout, self.follow(url, place, budget)).await;
        fetched.unwrap_or_else(|_| {
            let milliseconds = u64::try_from(self.timeout.as_millis()).unwrap_or(u64::MAX);
            Err(MediaError::FetchFailed(FetchFailure::Timeout(milliseconds)))
        })
    }

    async fn follow(
        &self,
        mut url: Url,
        place: Place,
        budget: &Budget,
    ) -> Result<Vec<u8>, MediaError> {
        let mut place = Some(place);
        for _ in 0..=self.max_redirects {
            let response = self.get(&url).await?;
            let status = response.status();
            if status.is_success() {
                return self.read(response, budget).await;
            }
            let location = response
                .headers()
                .get(LOCATION)
                .filter(|_| status.is_redirection());
            let Some(location) = location.and_then(|location| location.to_str().ok()) else {
                return Err(failed(FetchFailure::Status(status.as_u16())));
            };
            let next = parse_relative(Some(&url), location)?;
            if url.scheme() == "https" && next.scheme() != "https" {
                return Err(failed(FetchFailure::Downgrade));
            }
            if host_of(&next) != host_of(&url) {
                // The old one goes first: who held one and waited for another could wait for ever.
                drop(place.take());
                place = Some(self.places.wait(host_of(&next)).await?);
            }
            url = next;
        }
        Err(failed(FetchFailure::TooManyRedirects(self.max_redirects)))
    }

    /// Sends one request, to addresses that were checked.
    async fn get(&self, url: &Url) -> Result<Response, MediaError> {
        let addresses = self.resolve(url).await?;
        let client = Client::builder()
            .tls_backend_preconfigured(self.tls.clone())
            .dns_resolver(Arc::new(Pinned(addresses)))
            .user_agent(USER_AGENT)
            .redirect(redirect::Policy::none())
            .retry(reqwest::retry::never())
            .no_proxy()
            // One request per client: an idle connection would never be used again.
            .pool_max_idle_per_host(0)
            .build()
            .map_err(|error| internal("an HTTP client cannot be built", &error))?;
        let request = client.get(url.clone()).header(ACCEPT, "image/*");
        request.send().await.map_err(|error| {
            let failure = if error.is_connect() {
                FetchFailure::Connect
            } else {
                FetchFailure::Transfer
            };
            // The path and the query of a URL may hold its owner's secrets.
            let error = error.without_url();
            tracing::debug!(host = url.host_str(), ?error, "an image cannot be fetched");
            failed(failure)
        })
    }

    /// All addresses of a URL's host, if all of them may be connected to.
    async fn resolve(&self, url: &Url) -> Result<Vec<SocketAddr>, MediaError> {
        let port = url.port_or_known_default().unwrap_or_default();
        let addresses = match url.host() {
            Some(Host::Ipv4(address)) => vec![SocketAddr::new(address.into(), port)],
            Some(Host::Ipv6(address)) => vec![SocketAddr::new(address.into(), port)],
            Some(Host::Domain(name)) => {
                let found = self.look_up(name.to_owned(), port).await?;
                if found.is_empty() {
                    return Err(failed(FetchFailure::Resolve));
                }
                if self.policy.trusts(name, port) {
                    return Ok(found);
                }
                found
            }
            None => return Err(invalid("it names no host")),
        };
        if !addresses
            .iter()
            .all(|address| self.policy.permits(*address))
        {
            let host = url.host_str().unwrap_or_default().to_owned();
            return Err(MediaError::ForbiddenAddress { host });
        }
        Ok(addresses)
    }

    /// Addresses of a name; none if it has none.
    async fn look_up(&self, name: String, port: u16) -> Result<Vec<SocketAddr>, MediaError> {
        let turn = Arc::clone(&self.lookups).acquire_owned().await;
        let turn = turn.map_err(|error| internal("the look-ups are closed", &error))?;
        // Goes on where the fetch is given up, and keeps its turn: the resolver cannot be stopped,
        // and slow ones would take all threads.
        let looking = tokio::spawn(async move {
            let _turn = turn;
            let found = tokio::net::lookup_host((name, port)).await;
            found.map(Iterator::collect).unwrap_or_default()
        });
        looking
            .await
            .map_err(|error| internal("a look-up was given up", &error))
    }

    /// Reads a body up to the limits, whatever length it announces.
    async fn read(&self, mut response: Response, budget: &Budget) -> Result<Vec<u8>, MediaError> {
        if let Some(announced) = response.content_length() {
            check(Bound::ImageBytes, announced, self.max_bytes)?;
        }
        let mut body = Vec::new();
        loop {
            let chunk = response
                .chunk()
                .await
                .map_err(|_| failed(FetchFailure::Transfer))?;
            let Some(chunk) = chunk else {
                return Ok(body);
            };
            let received = (body.len() + chunk.len()) as u64;
            check(Bound::ImageBytes, received, self.max_bytes)?;
            budget.take_bytes(chunk.len() as u64)?;
            body.extend_from_slice(&chunk);
        }
    }
}

/// Answers with the addresses that were checked, and asks nobody.
#[derive(Debug)]
struct Pinned(Vec<SocketAddr>);

impl Resolve for Pinned {
    fn resolve(&self, _: Name) -> Resolving {
        let addresses: Addrs = Box::new(self.0.clone().into_iter());
        Box::pin(std::future::ready(Ok(addresses)))
    }
}

/// Reads a URL that a client sent.
fn parse(url: &str) -> Result<Url, MediaError> {
    parse_relative(None, url)
}

/// Reads a URL, which after a redirect may be relative.
///
/// Refuses what parsers disagree on (backslashes, control characters, credentials before the
/// host) rather than choosing a reading.
pub(crate) fn parse_relative(base: Option<&Url>, url: &str) -> Result<Url, MediaError> {
    if url.len() > constants::MAX_URL_BYTES {
        return Err(MediaError::InvalidUrl(format!(
            "it has {} bytes, at most {} are allowed",
            url.len(),
            constants::MAX_URL_BYTES
        )));
    }
    if url.contains(|c: char| c.is_control() || c == '\\') {
        return Err(invalid("it holds a backslash or a control character"));
    }
    let parsed = Url::options().base_url(base).parse(url);
    let parsed = parsed.map_err(|_| invalid("it is neither a URL nor a data URI"))?;
    if !matches!(parsed.scheme(), "http" | "https") {
        return Err(invalid("its scheme must be data, http or https"));
    }
    if !parsed.username().is_empty() || parsed.password().is_some() {
        return Err(invalid("it holds credentials"));
    }
    Ok(parsed)
}

/// What counts as one host: its name or address in the one form that parsing leaves.
fn host_of(url: &Url) -> &str {
    url.host_str().unwrap_or_default().trim_end_matches('.')
}

fn invalid(reason: &str) -> MediaError {
    MediaError::InvalidUrl(reason.to_owned())
}

fn failed(failure: FetchFailure) -> MediaError {
    MediaError::FetchFailed(failure)
}

fn internal(what: &str, error: &impl std::error::Error) -> MediaError {
    tracing::error!(%error, "{what}");
    MediaError::Internal
}

#[cfg(test)]
mod tests {
    use std::net::Ipv4Addr;

    use super::*;

    #[test]
    fn urls_that_parsers_disagree_on_are_refused() {
        for url in [
            "",
            "picture.png",
            "//host/a.png",
            "ftp://host/a.png",
            "file:///etc/passwd",
            "gopher://host/",
            "javascript:alert(1)",
            "http://",
            "http://user@host/",
            "http://user:secret@host/",
            "http://:secret@host/",
            "http://good\\@evil/",
            "http:\\\\host/",
            "http://ho\tst/",
            "http://host/\r\nX: y",
            "\nhttp://host/",
            "http://host/\u{85}",
            "http://host:99999/",
            "http://ho st/",
            "http://[::1/",
        ] {
            let error = parse(url).unwrap_err();
            assert!(matches!(error, MediaError::InvalidUrl(_)), "{url}: {error}");
        }
        let long = format!("http://host/{}", "a".repeat(constants::MAX_URL_BYTES));
        assert!(parse(&long).unwrap_err().to_string().contains("8192"));
    }

    #[test]
    fn a_redirect_is_read_relative_to_its_url() {
        let base = parse("https://host/a/b?c").unwrap();
        for (location, expected) in [
            ("d.png", "https://host/a/d.png"),
            ("/d.png", "https://host/d.png"),
            ("//other/d.png", "https://other/d.png"),
            ("http://other/d.png", "http://other/d.png"),
        ] {
            let next = parse_relative(Some(&base), location).unwrap();
            assert_eq!(next.as_str(), expected);
        }
        assert!(parse_relative(Some(&base), "data:,x").is_err());
        assert!(parse_relative(Some(&base), "https://user@other/").is_err());
    }

    async fn resolve(url: &str) -> Result<Vec<SocketAddr>, MediaError> {
        let fetcher = Fetcher::new(MediaConfig::default())?;
        fetcher.resolve(&parse(url)?).await
    }

    #[tokio::test]
    async fn addresses_are_refused_in_every_spelling() {
        for url in [
            "http://127.0.0.1/",
            "http://127.1/",
            "http://2130706433/",
            "http://0x7f000001/",
            "http://0x7f.1/",
            "http://017700000001/",
            "http://0177.0.0.01/",
            "http://0/",
            "http://127.0.0.1./",
            "http://\u{ff11}\u{ff12}\u{ff17}.0.0.1/",
            "http://%31%32%37.0.0.1/",
            "http://[::1]/",
            "http://[::]/",
            "http://[::ffff:127.0.0.1]/",
            "http://[::ffff:7f00:1]/",
            "http://[::127.0.0.1]/",
            "http://[64:ff9b::7f00:1]/",
            "http://[2002:7f00:1::]/",
            "http://[fd00:ec2::254]/latest/meta-data/",
            "http://169.254.169.254/latest/meta-data/",
            "http://localhost/",
            "http://LOCALHOST:8000/v1/models",
        ] {
            let error = resolve(url).await.unwrap_err();
            assert!(
                matches!(error, MediaError::ForbiddenAddress { .. }),
                "{url}: {error}"
            );
        }
    }

    /// Every way of writing an IPv4 address into a URL that some parser takes.
    fn spellings(address: Ipv4Addr) -> Vec<String> {
        let [a, b, c, d] = address.octets();
        let bits = address.to_bits();
        let wide = |text: String| -> String {
            let digit = |c: char| char::from_u32(u32::from(c) - 0x30 + 0xff10).unwrap_or(c);
            let widen = |c: char| if c.is_ascii_digit() { digit(c) } else { c };
            text.chars().map(widen).collect()
        };
        let escaped =
            |text: String| -> String { text.bytes().map(|byte| format!("%{byte:02x}")).collect() };
        let dotted = format!("{a}.{b}.{c}.{d}");
        let mut hosts = vec![
            dotted.clone(),
            format!("{dotted}."),
            format!("{bits}"),
            format!("{bits:#x}"),
            format!("{bits:#X}"),
            format!("0{bits:o}"),
            format!("0x{a:x}.0x{b:x}.0x{c:x}.0x{d:x}"),
            format!("0{a:o}.0{b:o}.0{c:o}.0{d:o}"),
            format!("000{a:o}.{b}.0x{c:x}.{d}"),
            format!("{a}.{}", bits & 0xff_ffff),
            format!("{a}.{b}.{}", bits & 0xffff),
            format!("0x{a:x}.{:#x}", bits & 0xff_ffff),
            wide(dotted.clone()),
            dotted.replace('.', "\u{3002}"),
            dotted.replace('.', "\u{ff0e}"),
            escaped(dotted.clone()),
            format!("[::ffff:{dotted}]"),
            format!("[::{dotted}]"),
            format!("[64:ff9b::{dotted}]"),
            format!("[0:0:0:0:0:ffff:{:x}:{:x}]", bits >> 16, bits & 0xffff),
            format!("[2002:{:x}:{:x}::1]", bits >> 16, bits & 0xffff),
            format!("[fe80::5efe:{dotted}]"),
            format!("[::ffff:{dotted}%25eth0]"),
            format!("[fe80::1%25{dotted}]"),
            format!("user@{dotted}"),
            format!("example.com\\@{dotted}"),
            format!("{dotted}\\.example.com"),
            format!("{dotted}\t"),
            format!("{dotted}%00.example.com"),
            format!("{dotted}%2f.example.com"),
            format!("256.{dotted}"),
        ];
        hosts.push(format!("{dotted}:80@{dotted}"));
        hosts
    }

    #[tokio::test]
    async fn closed_addresses_are_refused_however_they_are_written() {
        let fetcher = Fetcher::new(MediaConfig::default()).unwrap();
        let mut tried = 0;
        for address in [
            [0, 0, 0, 0],
            [10, 0, 0, 1],
            [100, 64, 0, 1],
            [100, 100, 100, 200],
            [127, 0, 0, 1],
            [127, 255, 255, 254],
            [168, 63, 129, 16],
            [169, 254, 169, 254],
            [169, 254, 170, 2],
            [172, 16, 0, 1],
            [172, 31, 255, 255],
            [192, 0, 0, 192],
            [192, 168, 1, 1],
            [198, 18, 0, 1],
            [224, 0, 0, 1],
            [255, 255, 255, 255],
        ] {
            for host in spellings(address.into()) {
                for scheme in ["http", "https", "HTTP"] {
                    let url = format!("{scheme}://{host}/latest/meta-data/");
                    let found = match parse(&url) {
                        Ok(url) => fetcher.resolve(&url).await.map(drop),
                        Err(error) => Err(error),
                    };
                    let refused = matches!(
                        found,
                        Err(MediaError::ForbiddenAddress { .. } | MediaError::InvalidUrl(_))
                    );
                    assert!(refused, "{url}: {found:?}");
                    tried += 1;
                }
            }
        }
        assert_eq!(tried, 16 * 32 * 3);
    }

    #[tokio::test]
    async fn a_look_up_keeps_its_turn_until_it_has_ended() {
        let fetcher = Fetcher::new(MediaConfig::default()).unwrap();
        let all = constants::LOOKUP_CONCURRENCY;
        let turns = Arc::clone(&fetcher.lookups);
        let held = turns.acquire_many(u32::try_from(all).unwrap()).await;
        let url = parse("http://localhost/").unwrap();
        let mut waiting = Box::pin(fetcher.resolve(&url));
        assert!(futures::poll!(&mut waiting).is_pending());
        drop(held);
        assert!(waiting.await.is_err());
        // Numbers need no turn.
        let url = parse("http://1.1.1.1/").unwrap();
        let _held = turns.acquire_many(u32::try_from(all).unwrap()).await;
        assert!(fetcher.resolve(&url).await.is_ok());
    }

    #[tokio::test]
    async fn public_addresses_are_used_as_they_are() {
        let found = resolve("https://1.1.1.1/a.png").await.unwrap();
        assert_eq!(found, ["1.1.1.1:443".parse().unwrap()]);
        let found = resolve("http://[2606:4700::1111]:81/").await.unwrap();
        assert_eq!(found, ["[2606:4700::1111]:81".parse().unwrap()]);
    }

    #[tokio::test]
    async fn a_name_without_an_address_is_told_apart() {
        let error = resolve("http://no-such-host.invalid/").await.unwrap_err();
        assert_eq!(error, failed(FetchFailure::Resolve));
    }
}
