//! Which inputs make an output, and with which weights.

use std::ops::Range;

use super::{Filter, WEIGHT_BITS};

/// The inputs and weights of each output along one axis.
#[derive(Debug)]
pub(super) struct Taps {
    /// One per output, with inputs that never move backwards.
    pub(super) spans: Vec<Span>,
    pub(super) weights: Vec<i32>,
    /// The axis keeps its length, so every output is its own input.
    pub(super) identity: bool,
}

#[derive(Debug)]
pub(super) struct Span {
    /// First input.
    pub(super) from: usize,
    /// First weight in [`Taps::weights`].
    pub(super) start: usize,
    /// Inputs, and as many weights.
    pub(super) len: usize,
}

impl Taps {
    /// Weights for the outputs `window` of scaling an axis from `input` to `output` pixels.
    pub(super) fn new(input: usize, output: usize, window: Range<usize>, filter: Filter) -> Self {
        let identity = input == output;
        if identity {
            // What the computation below comes to, less the weights that are exactly 0.
            let span = |from| Span {
                from,
                start: 0,
                len: 1,
            };
            return Self {
                spans: window.map(span).collect(),
                weights: vec![1 << WEIGHT_BITS],
                identity,
            };
        }
        let scale = input as f64 / output as f64;
        let widened = scale.max(1.0);
        let radius = filter.radius() * widened;
        let mut spans = Vec::with_capacity(window.len());
        let mut weights = Vec::new();
        let mut exact = Vec::new();
        for index in window {
            let centre = (index as f64 + 0.5) * scale;
            // Float to integer conversion saturates, so a negative bound becomes 0.
            let from = (centre - radius + 0.5) as usize;
            let end = ((centre + radius + 0.5) as usize).min(input);
            exact.clear();
            exact.extend((from..end).map(|x| {
                let distance = x as f64 - centre + 0.5;
                filter.at(distance * (1.0 / widened))
            }));
            let sum: f64 = exact.iter().sum();
            spans.push(Span {
                from,
                start: weights.len(),
                len: exact.len(),
            });
            weights.extend(exact.iter().map(|weight| {
                let weight = if sum == 0.0 { *weight } else { weight / sum };
                let half = if weight < 0.0 { -0.5 } else { 0.5 };
                (weight * f64::from(1 << WEIGHT_BITS) + half) as i32
            }));
        }
        Self {
            spans,
            weights,
            identity,
        }
    }

    /// First input and weights of the `index`-th output of the window.
    #[inline(always)]
    pub(super) fn of(&self, index: usize) -> (usize, &[i32]) {
        let span = &self.spans[index];
        (span.from, &self.weights[span.start..][..span.len])
    }

    /// The inputs that a range of outputs needs. `outputs` must not be empty.
    #[inline(always)]
    pub(super) fn inputs(&self, outputs: Range<usize>) -> Range<usize> {
        let (first, last) = (&self.spans[outputs.start], &self.spans[outputs.end - 1]);
        first.from..last.from + last.len
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const FILTERS: [Filter; 2] = [Filter::Bilinear, Filter::Bicubic];
    const LENGTHS: [usize; 10] = [1, 2, 3, 5, 7, 64, 97, 336, 1000, 65_535];

    #[test]
    fn sums_of_weights_cannot_overflow() {
        for filter in FILTERS {
            for input in LENGTHS {
                for output in LENGTHS {
                    let taps = Taps::new(input, output, 0..output, filter);
                    for index in 0..output {
                        let (_, weights) = taps.of(index);
                        let magnitude: i64 = weights.iter().map(|w| i64::from(w.abs())).sum();
                        assert!(
                            magnitude <= 2 << WEIGHT_BITS,
                            "{filter:?} {input} -> {output}: {magnitude}"
                        );
                    }
                }
            }
        }
    }

    #[test]
    fn inputs_lie_in_the_picture_and_never_move_backwards() {
        for filter in FILTERS {
            for input in LENGTHS {
                for output in LENGTHS {
                    let taps = Taps::new(input, output, 0..output, filter);
                    let mut last = 0;
                    for index in 0..output {
                        let (from, weights) = taps.of(index);
                        assert!(from >= last && !weights.is_empty());
                        assert!(from + weights.len() <= input);
                        last = from;
                    }
                }
            }
        }
    }
}
