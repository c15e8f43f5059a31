//! What NVIDIA's hosted endpoint takes, so that a benchmark keeps to it.
//!
//! The free tier of `integrate.api.nvidia.com` and `ai.api.nvidia.com` answers 429 above about 40
//! requests a minute, and takes inline pictures up to 180 KB of base64 (the model pages at
//! build.nvidia.com: larger ones go through its asset API).

use std::time::Duration;

use tokio::sync::Mutex;
use tokio::time::Instant;
use url::Url;

/// Its hosts.
const HOSTS: [&str; 2] = ["integrate.api.nvidia.com", "ai.api.nvidia.com"];

/// Requests a minute.
pub(crate) const REQUESTS_A_MINUTE: f64 = 40.0;

/// Characters of base64 of one picture.
pub(crate) const PICTURE_CHARS: usize = 180_000;

/// Whether a URL is one of NVIDIA's hosted endpoint.
pub(crate) fn is_hosted(url: &Url) -> bool {
    url.host_str()
        .is_some_and(|host| HOSTS.iter().any(|known| host.eq_ignore_ascii_case(known)))
}

/// Lets requests begin no closer together than the limit allows.
#[derive(Debug)]
pub(crate) struct Pace {
    gap: Duration,
    next: Mutex<Option<Instant>>,
}

impl Pace {
    /// For `REQUESTS_A_MINUTE`.
    pub(crate) fn hosted() -> Self {
        Self::new(Duration::from_secs_f64(60.0 / REQUESTS_A_MINUTE))
    }

    fn new(gap: Duration) -> Self {
        Self {
            gap,
            next: Mutex::new(None),
        }
    }

    /// Returns when the next request may begin. Who waits keeps the line; who gives up waiting
    /// leaves it as it was.
    pub(crate) async fn turn(&self) {
        let mut next = self.next.lock().await;
        if let Some(due) = *next {
            tokio::time::sleep_until(due).await;
        }
        *next = Some(Instant::now() + self.gap);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn hosts_are_told_apart() {
        for (url, hosted) in [
            ("https://integrate.api.nvidia.com/v1", true),
            ("https://AI.api.nvidia.com/v1/gr/x/chat/completions", true),
            ("https://integrate.api.nvidia.com.example.org/v1", false),
            ("http://localhost:8000", false),
        ] {
            assert_eq!(is_hosted(&Url::parse(url).unwrap()), hosted, "{url}");
        }
    }

    #[tokio::test]
    async fn turns_keep_their_distance() {
        let pace = Pace::new(Duration::from_millis(30));
        let begin = Instant::now();
        let turns = async || pace.turn().await;
        tokio::join!(turns(), turns(), turns());
        assert!(begin.elapsed() >= Duration::from_millis(60));
    }
}
