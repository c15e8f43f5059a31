//! How much beside the running answers a step may carry.
//!
//! A prompt's chunk or a picture's layers make a step longer for every answer in it. How much
//! longer depends on the machine, the model and the type of weights by orders of magnitude, so no
//! constant serves: the pacer watches what steps cost, and allows as much as keeps a step within
//! a multiple of one that only decodes.

use std::time::Duration;

/// Weight of a new measurement against all before it.
const NEW: f64 = 0.3;

/// Tokens of a prompt that are always allowed: what they cost beside a decode is lost in it.
const LEAST_TOKENS: usize = 8;

/// Time for which pictures are encoded at once while nobody is answered: newcomers and those who
/// give up are looked after in between.
const ENCODE_ALONE: f64 = 0.25;

/// Pieces of an encoding before any has been measured.
const FIRST_UNITS: usize = 4;

/// What a step may carry beside decodes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Allowance {
    /// Tokens of prompts; a plan has one in any case.
    pub(crate) tokens: usize,
    /// Units of encoding; none where it is not the pictures' turn.
    pub(crate) units: usize,
}

/// What waits for being allowed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Waits {
    /// Sequences that decode.
    pub(crate) decodes: usize,
    /// A prompt.
    pub(crate) prompt: bool,
    /// A picture.
    pub(crate) picture: bool,
}

/// What a forward pass was made of.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Forward {
    /// Sequences that decoded.
    pub(crate) decodes: usize,
    /// Tokens beside one for each of them.
    pub(crate) tokens: usize,
}

/// The costs so far, in seconds.
#[derive(Debug)]
pub(crate) struct Pacer {
    /// How many times as long as a decode a step may take, above 1.
    stretch: f64,
    /// Of a step in which so many decode and nothing else happens, by their number.
    decode: Vec<Option<f64>>,
    /// Of a token beside decodes.
    token: Option<f64>,
    /// Of a unit of encoding.
    unit: Option<f64>,
    /// Where a prompt and a picture wait, whether it is the picture's turn.
    picture_is_next: bool,
}

impl Pacer {
    /// For at most `seats` that decode.
    pub(crate) fn new(stretch: f64, seats: usize) -> Self {
        Self {
            stretch,
            decode: vec![None; seats.saturating_add(1)],
            token: None,
            unit: None,
            picture_is_next: false,
        }
    }

    /// What the next step may carry. Whatever waits moves on by something, in this step or in the
    /// next: prompts and pictures take turns, because a piece of an encoding may be all that there
    /// is room for.
    pub(crate) fn allow(&mut self, waits: Waits) -> Allowance {
        if waits.decodes == 0 {
            let units = match self.unit {
                Some(unit) => quotient(ENCODE_ALONE, unit).max(1),
                None => FIRST_UNITS,
            };
            return Allowance {
                tokens: usize::MAX,
                units,
            };
        }
        if self.stretch == f64::INFINITY {
            return Allowance {
                tokens: usize::MAX,
                units: usize::MAX,
            };
        }
        let decode = self.decode_of(waits.decodes);
        let slack = decode.map_or(0.0, |decode| decode * (self.stretch - 1.0));
        let fits = |cost: Option<f64>| cost.map_or(0, |cost| quotient(slack, cost));
        let allowance = Allowance {
            tokens: fits(self.token).max(LEAST_TOKENS),
            units: fits(self.unit).max(1),
        };
        if !(waits.prompt && waits.picture) {
            return allowance;
        }
        self.picture_is_next = !self.picture_is_next;
        if self.picture_is_next {
            Allowance {
                tokens: 0,
                ..allowance
            }
        } else {
            Allowance {
                units: 0,
                ..allowance
            }
        }
    }

    /// Takes note of a forward pass.
    pub(crate) fn observe_forward(&mut self, forward: Forward, took: Duration) {
        let took = took.as_secs_f64();
        let Forward { decodes, tokens } = forward;
        if tokens == 0 {
            if let Some(known) = self.decode.get_mut(decodes) {
                learn(known, took);
            }
            return;
        }
        let decode = if decodes == 0 {
            0.0
        } else {
            // Without a measurement of decodes alone nothing can be told of the rest.
            let Some(decode) = self.decode_of(decodes) else {
                return;
            };
            decode
        };
        learn(&mut self.token, (took - decode).max(0.0) / tokens as f64);
    }

    /// Takes note of `units` of encoding.
    pub(crate) fn observe_encoding(&mut self, units: usize, took: Duration) {
        if units > 0 {
            learn(&mut self.unit, took.as_secs_f64() / units as f64);
        }
    }

    /// The cost of a step that decodes so many, or the nearest number that was measured.
    fn decode_of(&self, decodes: usize) -> Option<f64> {
        let known = self.decode.iter().enumerate();
        let known = known.filter_map(|(count, cost)| cost.map(|cost| (count, cost)));
        known
            .min_by_key(|(count, _)| count.abs_diff(decodes))
            .map(|(_, cost)| cost)
    }
}

fn learn(known: &mut Option<f64>, new: f64) {
    *known = Some(known.map_or(new, |old| old + NEW * (new - old)));
}

/// How often `part` goes into `whole`.
fn quotient(whole: f64, part: f64) -> usize {
    // Saturates, and is 0 for what is no number.
    (whole / part) as usize
}

#[cfg(test)]
mod tests {
    use super::*;

    const MILLI: Duration = Duration::from_millis(1);

    fn decoding(decodes: usize) -> Waits {
        Waits {
            decodes,
            prompt: true,
            picture: false,
        }
    }

    fn forward(decodes: usize, tokens: usize) -> Forward {
        Forward { decodes, tokens }
    }

    #[test]
    fn without_answers_prompts_are_unbounded_and_pictures_take_short_turns() {
        let mut pacer = Pacer::new(2.0, 8);
        assert_eq!(pacer.allow(decoding(0)).tokens, usize::MAX);
        assert_eq!(pacer.allow(decoding(0)).units, FIRST_UNITS);
        pacer.observe_encoding(5, 50 * MILLI);
        assert_eq!(pacer.allow(decoding(0)).units, 25);
        pacer.observe_encoding(1, 100_000 * MILLI);
        assert_eq!(pacer.allow(decoding(0)).units, 1);
    }

    #[test]
    fn beside_answers_a_step_stays_within_its_stretch() {
        let mut pacer = Pacer::new(3.0, 8);
        assert_eq!(
            pacer.allow(decoding(2)),
            Allowance {
                tokens: LEAST_TOKENS,
                units: 1
            }
        );
        pacer.observe_forward(forward(2, 0), 100 * MILLI);
        pacer.observe_forward(forward(2, 50), 200 * MILLI);
        // A token costs 2 ms, and 200 ms are left.
        assert_eq!(pacer.allow(decoding(2)).tokens, 100);
        assert_eq!(
            pacer.allow(decoding(5)).tokens,
            100,
            "the nearest number known"
        );
        pacer.observe_encoding(10, 250 * MILLI);
        let both = Waits {
            picture: true,
            ..decoding(2)
        };
        let turns = [0; 4].map(|_| {
            let Allowance { tokens, units } = pacer.allow(both);
            (tokens, units)
        });
        assert_eq!(turns, [(0, 8), (100, 0), (0, 8), (100, 0)], "in turns");
        let picture = Waits {
            prompt: false,
            ..both
        };
        assert_eq!(pacer.allow(picture).units, 8);
    }

    #[test]
    fn measurements_of_no_use_change_nothing_for_the_worse() {
        let mut pacer = Pacer::new(2.0, 2);
        // Decodes that were never measured alone, more than there are seats, no time at all.
        pacer.observe_forward(forward(1, 100), 900 * MILLI);
        pacer.observe_forward(forward(9, 0), MILLI);
        assert_eq!(pacer.allow(decoding(1)).tokens, LEAST_TOKENS);
        pacer.observe_forward(forward(1, 0), 10 * MILLI);
        pacer.observe_forward(forward(1, 1), MILLI);
        assert_eq!(pacer.allow(decoding(1)).tokens, usize::MAX);
    }

    #[test]
    fn without_a_stretch_everything_is_allowed() {
        let mut pacer = Pacer::new(f64::INFINITY, 2);
        let Allowance { tokens, units } = pacer.allow(decoding(1));
        assert_eq!((tokens, units), (usize::MAX, usize::MAX));
    }

    #[test]
    fn costs_follow_a_change() {
        let mut pacer = Pacer::new(2.0, 1);
        for _ in 0..20 {
            pacer.observe_forward(forward(1, 0), 10 * MILLI);
        }
        pacer.observe_forward(forward(1, 100), 20 * MILLI);
        assert_eq!(pacer.allow(decoding(1)).tokens, 100);
        for _ in 0..30 {
            pacer.observe_forward(forward(1, 0), 20 * MILLI);
        }
        assert_eq!(pacer.allow(decoding(1)).tokens, 199);
    }
}
