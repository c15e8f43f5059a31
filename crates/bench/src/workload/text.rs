//! Drawn prompts: common words in no order, so that no two begin alike and no server has seen one.

use std::path::Path;

use rand::rngs::StdRng;
use rand::seq::IndexedRandom;
use rand::{Rng, SeedableRng};
use tokenizers::Tokenizer;

use super::mix;
use crate::error::BenchError;
use crate::files;

/// Short words that most vocabularies hold whole.
const WORDS: &str = "the of and to in is that it was for on are as with they at be this from have or by one had \
    not but what all were when we there can an your which their said if do will each about how up \
    out them then she many some so these would other into has more her two like him see time could \
    no make than first been its who now people my made over did down only way find use may water \
    long little very after words called just where most know get through back much before go good \
    new write our me man too any day same right look think also around another came come work three \
    word must because does part even place well such here take why things help put years different \
    away again off went old number great tell men say small every found still between name should";

/// Words added or taken away to meet a number of tokens, before a prompt is left as it is.
const MAX_ADJUSTMENTS: usize = 64;

/// The stream of drawn numbers that texts take.
const STREAM: u64 = 1;

/// Bytes of a tokenizer file.
const MAX_TOKENIZER_BYTES: usize = 256 << 20;

/// Draws prompts of one length.
#[derive(Debug)]
pub(crate) struct Words {
    words: Vec<&'static str>,
    length: Length,
}

#[derive(Debug)]
enum Length {
    Words(usize),
    Tokens(usize, Box<Tokenizer>),
}

impl Words {
    /// Prompts of so many words.
    pub(crate) fn of_words(count: usize) -> Self {
        Self::new(Length::Words(count))
    }

    /// Prompts of so many tokens, counted by the `tokenizer.json` that `path` is or holds.
    ///
    /// # Errors
    /// [`BenchError::File`] if there is none.
    pub(crate) fn of_tokens(count: usize, path: &Path) -> Result<Self, BenchError> {
        let path = if path.is_dir() {
            path.join("tokenizer.json")
        } else {
            path.to_owned()
        };
        let content = files::read("--tokenizer", &path, MAX_TOKENIZER_BYTES)?;
        let tokenizer = Tokenizer::from_bytes(content).map_err(|error| BenchError::File {
            flag: "--tokenizer",
            path,
            reason: error.to_string(),
        })?;
        Ok(Self::new(Length::Tokens(count, Box::new(tokenizer))))
    }

    fn new(length: Length) -> Self {
        Self {
            words: WORDS.split_whitespace().collect(),
            length,
        }
    }

    /// Prompt `number` of those that `seed` decides.
    pub(crate) fn prompt(&self, seed: u64, number: u64) -> String {
        let mut random = StdRng::seed_from_u64(mix(seed, STREAM, number));
        match &self.length {
            Length::Words(count) => self.draw(&mut random, *count).join(" "),
            Length::Tokens(count, tokenizer) => {
                let tokens = |text: &str| {
                    let encoded = tokenizer.encode_fast(text, false);
                    encoded.map_or(0, |encoding| encoding.len())
                };
                self.fit(&mut random, *count, tokens)
            }
        }
    }

    fn draw(&self, random: &mut impl Rng, count: usize) -> Vec<&'static str> {
        let draw = |_| self.words.choose(random).copied();
        (0..count).filter_map(draw).collect()
    }

    /// Words that make `wanted` tokens. Where no number of words does, the nearest below, and one
    /// word at least.
    fn fit(&self, random: &mut impl Rng, wanted: usize, tokens: impl Fn(&str) -> usize) -> String {
        let mut words = self.draw(random, wanted);
        let mut text = words.join(" ");
        for _ in 0..MAX_ADJUSTMENTS {
            let found = tokens(&text);
            if found == wanted {
                return text;
            }
            if found > wanted {
                // A word has a token at least: so many may go, but in the last steps one by one,
                // since most words have more than one where there are too many.
                let share = wanted as f64 / found as f64;
                let keep = (words.len() as f64 * share).floor() as usize;
                words.truncate(keep.clamp(1, words.len().saturating_sub(1).max(1)));
            } else {
                words.extend(self.draw(random, (wanted - found).div_ceil(2)));
            }
            text = words.join(" ");
        }
        while tokens(&text) > wanted && words.len() > 1 {
            words.pop();
            text = words.join(" ");
        }
        text
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn prompts_have_their_words() {
        let words = Words::of_words(25);
        let prompt = words.prompt(1, 0);
        assert_eq!(prompt.split(' ').count(), 25);
        assert_ne!(prompt, words.prompt(1, 1));
    }

    #[test]
    fn prompts_have_their_tokens() {
        let words = Words::of_words(1);
        // One token for each begun group of three characters of a word.
        let tokens = |text: &str| text.split(' ').map(|word| word.len().div_ceil(3)).sum();
        for wanted in [1, 2, 7, 100, 1000] {
            let mut random = StdRng::seed_from_u64(wanted as u64);
            let text = words.fit(&mut random, wanted, tokens);
            let found: usize = tokens(&text);
            assert!(found.abs_diff(wanted) <= 1, "{found} of {wanted}");
        }
    }

    #[test]
    fn a_real_tokenizer_counts() {
        let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../models/tiny");
        let words = Words::of_tokens(50, &folder).unwrap();
        let Length::Tokens(_, tokenizer) = &words.length else {
            panic!("tokens were asked for");
        };
        for number in 0..20 {
            let prompt = words.prompt(1, number);
            let found = tokenizer.encode(prompt.as_str(), false).unwrap().len();
            assert_eq!(found, 50, "{prompt}");
        }
    }

    #[test]
    fn a_file_that_is_no_tokenizer_is_named() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("tokenizer.json");
        let missing = Words::of_tokens(1, folder.path()).unwrap_err().to_string();
        std::fs::write(&path, "{}").unwrap();
        let wrong = Words::of_tokens(1, &path).unwrap_err().to_string();
        for error in [missing, wrong] {
            assert!(
                error.starts_with("--tokenizer: ") && error.contains("tokenizer.json"),
                "{error}"
            );
        }
    }
}
