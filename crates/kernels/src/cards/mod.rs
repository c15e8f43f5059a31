//! NVIDIA cards, and what is compiled for them.
//!
//! candle's kernels for quantised weights are machine code of one compute capability, so that a CUDA
//! binary serves one family of cards. An image holds a binary per family, and the driver tells which
//! of them this host needs. Asking it takes no CUDA at build time: any build of vlmd can.

mod driver;

use std::fmt;

pub use driver::{DriverError, cards};

/// What a card can do, as NVIDIA counts it: 8.6 is major 8, minor 6.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct Capability {
    /// The generation.
    pub major: u32,
    /// What it has beside others of its generation.
    pub minor: u32,
}

impl fmt::Display for Capability {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}.{}", self.major, self.minor)
    }
}

/// Cards that machine code compiled for one capability runs on.
///
/// Code runs on cards of its generation that can do as much or more: that for 8.0 on 8.6 and 8.9,
/// that for 12.0 on 12.1 (CUDA C++ programming guide, "Binary compatibility"). From 9.0 on vlmd is
/// compiled with features of the generation, as `90a`, `100f` and `120f`. For `f` the rule is the
/// same, and for `a`, which is tied to one capability, too: 9.0 is the only one of its generation.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct Family(Capability);

impl Family {
    /// The family that a name such as `sm80` or `sm120` stands for: the last digit is the minor
    /// number. `None` for other texts.
    pub fn named(name: &str) -> Option<Self> {
        let digits = name.strip_prefix("sm")?;
        let minor = digits.chars().next_back()?.to_digit(10)?;
        let major = digits.get(..digits.len().checked_sub(1)?)?;
        // `parse` would take a sign.
        if !major.bytes().all(|byte| byte.is_ascii_digit()) {
            return None;
        }
        let major = major.parse().ok()?;
        Some(Self(Capability { major, minor }))
    }

    /// Whether its code runs on a card.
    pub fn runs_on(self, card: Capability) -> bool {
        self.0.major == card.major && self.0.minor <= card.minor
    }
}

impl fmt::Display for Family {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "sm{}{}", self.0.major, self.0.minor)
    }
}

/// The best of `families` for a host with `cards`: the latest that all of them run, and where there is
/// none the latest that the first runs. `None` where there is no such one either, or no card.
pub fn family_for(families: &[Family], cards: &[Capability]) -> Option<Family> {
    let first = cards.get(..1)?;
    let latest = |cards: &[Capability]| {
        let mut fit: Vec<Family> = families.to_vec();
        fit.retain(|family| cards.iter().all(|card| family.runs_on(*card)));
        fit.into_iter().max()
    };
    latest(cards).or_else(|| latest(first))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn card(major: u32, minor: u32) -> Capability {
        Capability { major, minor }
    }

    fn chosen(cards: &[Capability]) -> Option<String> {
        // What the image holds, in the order of a folder's names.
        let names = ["sm100", "sm120", "sm80", "sm86", "sm89", "sm90"];
        let families = names.map(|name| Family::named(name).unwrap());
        family_for(&families, cards).map(|family| family.to_string())
    }

    #[test]
    fn each_card_gets_the_latest_code_that_it_runs() {
        for (major, minor, family) in [
            (7, 5, None),           // T4
            (8, 0, Some("sm80")),   // A100
            (8, 6, Some("sm86")),   // A10, RTX 3090
            (8, 7, Some("sm86")),   // Orin
            (8, 9, Some("sm89")),   // L4, L40S, RTX 4090
            (9, 0, Some("sm90")),   // H100, H200
            (10, 0, Some("sm100")), // B200
            (10, 3, Some("sm100")), // B300
            (11, 0, None),          // Thor
            (12, 0, Some("sm120")), // RTX PRO 6000, RTX 5090
            (12, 1, Some("sm120")), // GB10
            (13, 0, None),
        ] {
            let found = chosen(&[card(major, minor)]);
            assert_eq!(found.as_deref(), family, "{major}.{minor}");
        }
    }

    #[test]
    fn of_several_cards_all_run_it_or_at_least_the_first() {
        let mixed = [card(8, 9), card(8, 6), card(8, 9)];
        assert_eq!(chosen(&mixed).as_deref(), Some("sm86"));
        let strangers = [card(9, 0), card(8, 0)];
        assert_eq!(chosen(&strangers).as_deref(), Some("sm90"));
        let unknown = [card(7, 0), card(8, 0)];
        assert_eq!(chosen(&unknown), None);
        assert_eq!(chosen(&[]), None);
        assert_eq!(family_for(&[], &mixed), None);
    }

    #[test]
    fn families_are_named_as_compilers_name_them() {
        for name in ["sm80", "sm89", "sm120", "sm103"] {
            assert_eq!(Family::named(name).unwrap().to_string(), name);
        }
        for name in [
            "",
            "sm",
            "sm8",
            "80",
            "sm8x",
            "smx0",
            "sm+80",
            "sm99999999999",
            "sm8é",
        ] {
            assert_eq!(Family::named(name), None, "{name}");
        }
    }
}
