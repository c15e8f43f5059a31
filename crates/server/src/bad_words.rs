//! Texts that an answer must not have, as the model's tokens.

use vlmd_text::{TextError, Tokenizer};

/// The runs of tokens that spell each of `words`, as vLLM's `bad_words` finds them: as the
/// beginning of a text, and behind a blank. Both count wherever they differ; vLLM leaves the
/// second one out where it takes another number of tokens, and such a word can then be said in the
/// middle of a sentence.
///
/// # Errors
/// When the tokenizer cannot represent a word.
pub(crate) fn tokens(tokenizer: &Tokenizer, words: &[String]) -> Result<Vec<Vec<u32>>, TextError> {
    let mut runs: Vec<Vec<u32>> = Vec::new();
    for word in words {
        let word = word.trim_start();
        for text in [word, &format!(" {word}")] {
            let run = tokenizer.encode(text, false)?;
            if !runs.contains(&run) {
                runs.push(run);
            }
        }
    }
    Ok(runs)
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    /// Letters are tokens, as are the words that `merges` put together.
    fn tokenizer() -> Tokenizer {
        let file = json!({
            "version": "1.0", "added_tokens": [], "decoder": null,
            "pre_tokenizer": {"type": "ByteLevel", "add_prefix_space": false,
                "trim_offsets": true, "use_regex": false},
            "model": {
                "type": "BPE",
                "vocab": {"a": 0, "b": 1, "c": 2, "Ġ": 3, "ab": 4, "Ġa": 5, "Ġab": 6},
                "merges": ["a b", "Ġ ab"],
            },
        });
        Tokenizer::from_bytes(file.to_string().as_bytes()).unwrap()
    }

    fn runs(words: &[&str]) -> Vec<Vec<u32>> {
        let words: Vec<String> = words.iter().map(|&word| word.to_owned()).collect();
        tokens(&tokenizer(), &words).unwrap()
    }

    #[test]
    fn a_word_is_ruled_out_with_and_without_a_blank_in_front() {
        assert_eq!(runs(&["ab"]), [vec![4], vec![6]]);
        assert_eq!(runs(&["abc"]), [vec![4, 2], vec![6, 2]]);
        // Of other numbers of tokens.
        assert_eq!(runs(&["cab"]), [vec![2, 4], vec![3, 2, 4]]);
    }

    #[test]
    fn blanks_in_front_and_repeats_make_no_difference() {
        assert_eq!(runs(&["  ab", "ab", "\tab"]), runs(&["ab"]));
        assert!(runs(&[]).is_empty());
    }
}
