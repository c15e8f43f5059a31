//! Draws that the CPU's tests and those of the card share: rows of all kinds, and terms at their
//! ends and between them.

use super::Terms;

/// One draw.
#[derive(Debug)]
pub(crate) struct Case {
    pub(crate) logits: Vec<f32>,
    pub(crate) terms: Terms,
    pub(crate) number: u64,
}

/// Marsaglia's xorshift.
struct Noise(u64);

impl Noise {
    fn next(&mut self) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        self.0
    }

    fn one_of<T: Copy>(&mut self, all: &[T]) -> T {
        all[(self.next() >> 20) as usize % all.len()]
    }

    /// Within -1..1.
    fn number(&mut self) -> f32 {
        (self.next() >> 40) as f32 / (1 << 23) as f32 - 1.0
    }

    fn row(&mut self, width: usize) -> Vec<f32> {
        let kind = self.next() >> 20;
        let spread = self.one_of(&[0.0, 0.3, 4.0, 12.0, 60.0]);
        let shift = self.one_of(&[0.0, -9.0, 20.0]);
        let mut row: Vec<f32> = (0..width)
            .map(|_| {
                // A sum of several, as logits gather in the middle.
                let number = (self.number() + self.number() + self.number()) / 2.0;
                shift + spread * number
            })
            .collect();
        match kind % 8 {
            // Many are equal, zeros of both signs among them.
            0 | 1 => row.iter_mut().for_each(|l| *l = (*l / 2.0).round() * 2.0),
            2 => row.fill(-3.5),
            // One is possible, somewhere.
            3 => {
                row.fill(f32::NEG_INFINITY);
                let at = (self.next() >> 20) as usize % width;
                row[at] = -2.0;
            }
            // Every third is impossible.
            4 => {
                let thirds = row.iter_mut().skip(2).step_by(3);
                thirds.for_each(|l| *l = f32::NEG_INFINITY);
            }
            // The ends of f32.
            5 => {
                let ends = [
                    f32::MAX,
                    f32::MIN,
                    1e-45,
                    -1e-45,
                    0.0,
                    -0.0,
                    f32::MIN_POSITIVE,
                ];
                row.iter_mut().for_each(|l| *l = self.one_of(&ends));
            }
            _ => {}
        }
        row
    }

    fn terms(&mut self, width: usize) -> Terms {
        let wide = width as u32;
        Terms {
            temperature: self.one_of(&[
                0.0,
                f32::from_bits(1),
                f32::MIN_POSITIVE,
                0.3,
                0.7,
                1.0,
                1.0,
                2.0,
                f32::MAX,
            ]),
            top_k: self.one_of(&[
                None,
                None,
                None,
                Some(0),
                Some(1),
                Some(2),
                Some(20),
                Some(wide / 2 + 1),
                Some(wide),
                Some(wide + 5),
                Some(u32::MAX),
            ]),
            top_p: self.one_of(&[1.0, 1.0, 0.95, 0.9, 0.5, 0.1, 1e-30, 0.999_999_94]),
            min_p: self.one_of(&[0.0, 0.0, 0.05, 0.5, 1.0, 1e-12]),
        }
    }
}

/// All of them, the same in every run.
pub(crate) fn cases() -> Vec<Case> {
    let mut noise = Noise(0x9e37_79b9_7f4a_7c15);
    let mut cases = Vec::new();
    for (width, count) in [
        (1, 20),
        (2, 40),
        (3, 60),
        (31, 60),
        (33, 60),
        (257, 100),
        (1023, 60),
        (1025, 60),
        (5000, 60),
        (32_064, 16),
        (128_256, 8),
    ] {
        for _ in 0..count {
            let logits = noise.row(width);
            let terms = noise.terms(width);
            let random = noise.next();
            let number = noise.one_of(&[0, u64::MAX, 1 << 63, random, random, random, random]);
            cases.push(Case {
                logits,
                terms,
                number,
            });
        }
    }
    cases
}
