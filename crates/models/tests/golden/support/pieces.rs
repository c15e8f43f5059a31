//! Encodings in pieces against encodings in one go.

use candle_core::Tensor;
use vlmd_backend::{Encoding, ImageInput};

use super::suite::Suite;

/// Units of the largest piece. Towers of goldens are narrow: what comes behind them is more work
/// than a layer.
const LARGEST_PIECE: usize = 12;

/// Advances by so many units until the end, and gives the features.
fn in_pieces(mut encoding: Box<dyn Encoding>, units: usize) -> Vec<Tensor> {
    let mut remaining = encoding.remaining();
    while remaining > 0 {
        encoding.advance(units).unwrap();
        let left = encoding.remaining();
        // What is small is not worth a unit: some calls do less than one.
        assert!(left <= remaining, "{left} of {remaining} units are left");
        assert!(
            remaining - left <= units + LARGEST_PIECE,
            "{remaining} - {left} units"
        );
        remaining = left;
    }
    encoding.finish().unwrap()
}

fn bits(features: &[Tensor]) -> Vec<Vec<u32>> {
    let bits = |tensor: &Tensor| {
        let values = tensor.flatten_all().unwrap().to_vec1::<f32>().unwrap();
        values.into_iter().map(f32::to_bits).collect()
    };
    features.iter().map(bits).collect()
}

impl Suite {
    fn begin(&self, images: &[ImageInput]) -> Box<dyn Encoding> {
        let images: Vec<&ImageInput> = images.iter().collect();
        self.model.begin_encoding(&images).unwrap()
    }

    /// Pieces of any size give the same bits as the whole.
    pub(crate) fn check_encoded_in_pieces(&self) {
        for (case, (prompt, whole)) in self.golden.cases.iter().zip(&self.prompts) {
            for units in [1, 3, 7, 1000] {
                let pieces = in_pieces(self.begin(&prompt.images), units);
                assert!(
                    bits(&pieces) == bits(whole),
                    "{}: pieces of {units} units change features",
                    self.label(case)
                );
            }
        }
        self.check_encoded_in_turn();
    }

    /// Encodings know nothing of each other, and one may end before its time.
    fn check_encoded_in_turn(&self) {
        let mut shown = self.prompts.iter().filter(|(p, _)| !p.images.is_empty());
        let (first, second) = (shown.next().unwrap(), shown.next_back().unwrap());
        let [mut one, mut other, mut given_up] =
            [first, second, first].map(|(prompt, _)| self.begin(&prompt.images));
        given_up.advance(1).unwrap();
        one.advance(1).unwrap();
        assert!(given_up.remaining() > 0);
        drop(given_up);
        while one.remaining() > 0 || other.remaining() > 0 {
            other.advance(1).unwrap();
            one.advance(1).unwrap();
        }
        assert!(bits(&one.finish().unwrap()) == bits(&first.1));
        assert!(bits(&other.finish().unwrap()) == bits(&second.1));
    }
}
