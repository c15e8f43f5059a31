//! What each API key is used for.

use std::sync::Arc;

use super::page::{Labels, Page};

/// What one key was used for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct KeyUse {
    /// The key's name, never the key.
    pub(crate) name: Arc<str>,
    /// Requests that its limits let in.
    pub(crate) admitted: u64,
    /// Requests that they did not.
    pub(crate) refused: u64,
    /// Requests under way.
    pub(crate) running: usize,
}

/// Nothing where there are no keys.
pub(super) fn render(page: &mut Page, keys: &[KeyUse]) {
    if keys.is_empty() {
        return;
    }
    let none = Labels::default();
    let help = "Requests by the name of their API key.";
    let mut family = page.family("vlmd:key_requests_total", "counter", help);
    for key in keys {
        family.line_with(&none, ("key", &key.name), key.admitted);
    }
    let help = "Requests that were over their API key's limits.";
    let mut family = page.family("vlmd:key_requests_limited_total", "counter", help);
    for key in keys {
        family.line_with(&none, ("key", &key.name), key.refused);
    }
    let help = "Requests under way by the name of their API key.";
    let mut family = page.family("vlmd:key_requests_running", "gauge", help);
    for key in keys {
        family.line_with(&none, ("key", &key.name), key.running);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn keys_are_told_by_name() {
        let key = KeyUse {
            name: "team-a".into(),
            admitted: 3,
            refused: 2,
            running: 1,
        };
        let mut page = Page::new();
        render(&mut page, &[key]);
        let text = page.finish();
        for line in [
            "vlmd:key_requests_total{key=\"team-a\"} 3\n",
            "vlmd:key_requests_limited_total{key=\"team-a\"} 2\n",
            "vlmd:key_requests_running{key=\"team-a\"} 1\n",
        ] {
            assert!(text.contains(line), "{text}");
        }
        let mut page = Page::new();
        render(&mut page, &[]);
        assert_eq!(page.finish(), "");
    }
}
