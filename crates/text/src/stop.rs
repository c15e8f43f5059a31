//! Stop strings in streamed text.

/// What one piece of text led to.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Progress {
    /// Text that may go out.
    pub emit: String,
    /// Set once a stop string is complete: its index in the list given to [`StopMatcher::new`].
    pub stopped: Option<usize>,
}

/// Cuts streamed text at the first stop string.
///
/// The stop string that is *complete* first ends the text; of several complete at the same
/// character the longest (of equal ones the first in the list) wins, so nothing of it has gone
/// out. The result does not depend on how the text was divided into pieces. What may still become a
/// stop string is held back, and no more than that: the longest end of the text that is the
/// beginning of a stop string.
///
/// OpenAI's API leaves the stop string out of the answer; `include` keeps it, which vLLM calls
/// `include_stop_str_in_output`.
#[derive(Debug, Clone)]
pub struct StopMatcher {
    stops: Vec<Stop>,
    include: bool,
    held: String,
    stopped: Option<usize>,
}

/// A stop string with its Knuth-Morris-Pratt automaton.
#[derive(Debug, Clone)]
struct Stop {
    index: usize,
    text: Vec<u8>,
    /// For each length of a beginning of `text`: the longest shorter beginning that ends it.
    fallback: Vec<usize>,
    /// How much of `text` the stream ends with.
    matched: usize,
}

impl StopMatcher {
    /// A matcher for `stops`; empty ones never match.
    #[must_use]
    pub fn new(stops: Vec<String>, include: bool) -> Self {
        let stops = stops
            .into_iter()
            .enumerate()
            .filter(|(_, text)| !text.is_empty())
            .map(|(index, text)| Stop::new(index, text.into_bytes()))
            .collect();
        Self {
            stops,
            include,
            held: String::new(),
            stopped: None,
        }
    }

    /// Takes the next piece of text.
    ///
    /// After a stop string, all further text is dropped and the same index is reported again.
    pub fn push(&mut self, text: &str) -> Progress {
        if self.stopped.is_some() {
            return Progress {
                emit: String::new(),
                stopped: self.stopped,
            };
        }
        let before = self.held.len();
        self.held.push_str(text);
        for (offset, &byte) in text.as_bytes().iter().enumerate() {
            if let Some((index, length)) = self.advance(byte) {
                let end = before + offset + 1;
                let keep = if self.include { end } else { end - length };
                let mut emit = std::mem::take(&mut self.held);
                emit.truncate(keep);
                self.stopped = Some(index);
                return Progress {
                    emit,
                    stopped: self.stopped,
                };
            }
        }
        let hold = self.stops.iter().map(|stop| stop.matched).max();
        let held = self.held.split_off(self.held.len() - hold.unwrap_or(0));
        Progress {
            emit: std::mem::replace(&mut self.held, held),
            stopped: None,
        }
    }

    /// The text that was held back, once no more comes.
    pub fn flush(&mut self) -> String {
        for stop in &mut self.stops {
            stop.matched = 0;
        }
        std::mem::take(&mut self.held)
    }

    /// Moves all automata by one byte; index and length of the stop string that this completes.
    fn advance(&mut self, byte: u8) -> Option<(usize, usize)> {
        let mut complete: Option<(usize, usize)> = None;
        for stop in &mut self.stops {
            if stop.advance(byte) && complete.is_none_or(|(_, length)| stop.text.len() > length) {
                complete = Some((stop.index, stop.text.len()));
            }
        }
        complete
    }
}

impl Stop {
    fn new(index: usize, text: Vec<u8>) -> Self {
        let mut stop = Self {
            index,
            fallback: vec![0; text.len() + 1],
            matched: 0,
            text,
        };
        for length in 2..=stop.text.len() {
            stop.advance(stop.text[length - 1]);
            stop.fallback[length] = stop.matched;
        }
        stop.matched = 0;
        stop
    }

    /// Whether `byte` completes the stop string.
    fn advance(&mut self, byte: u8) -> bool {
        while self.matched > 0 && self.text.get(self.matched) != Some(&byte) {
            self.matched = self.fallback[self.matched];
        }
        if self.text[self.matched] == byte {
            self.matched += 1;
        }
        self.matched == self.text.len()
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    /// The stop that is complete first, the longest of those: (index, start, end).
    fn search(text: &str, stops: &[String]) -> Option<(usize, usize, usize)> {
        (1..=text.len()).find_map(|end| {
            stops
                .iter()
                .enumerate()
                .filter(|(_, stop)| !stop.is_empty())
                .filter(|(_, stop)| text.as_bytes()[..end].ends_with(stop.as_bytes()))
                .map(|(index, stop)| (index, end - stop.len(), end))
                .min_by_key(|&(index, start, _)| (start, index))
        })
    }

    /// The longest end of `text` that is a proper beginning of a stop.
    fn unfinished(text: &str, stops: &[String]) -> usize {
        (0..=text.len())
            .rev()
            .filter(|&length| text.is_char_boundary(text.len() - length))
            .find(|&length| {
                let tail = &text[text.len() - length..];
                length == 0
                    || stops
                        .iter()
                        .any(|stop| stop.len() > length && stop.starts_with(tail))
            })
            .unwrap_or(0)
    }

    fn letters(length: std::ops::Range<usize>) -> impl Strategy<Value = String> {
        prop::collection::vec(prop::sample::select(vec!['a', 'b', 'é', '你']), length)
            .prop_map(|letters| letters.into_iter().collect())
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(2000))]

        #[test]
        fn any_division_gives_the_result_of_a_search_in_the_whole(
            pieces in prop::collection::vec(letters(0..5), 0..12),
            stops in prop::collection::vec(letters(0..5), 0..4),
            include in any::<bool>(),
        ) {
            let text = pieces.concat();
            let mut matcher = StopMatcher::new(stops.clone(), include);
            let (mut output, mut taken, mut stopped) = (String::new(), String::new(), None);
            for piece in &pieces {
                let progress = matcher.push(piece);
                output.push_str(&progress.emit);
                taken.push_str(piece);
                stopped = progress.stopped;
                if stopped.is_none() {
                    let held = unfinished(&taken, &stops);
                    prop_assert_eq!(&output, &taken[..taken.len() - held]);
                }
            }
            output.push_str(&matcher.flush());
            match search(&text, &stops) {
                Some((index, start, end)) => {
                    prop_assert_eq!(output, &text[..if include { end } else { start }]);
                    prop_assert_eq!(stopped, Some(index));
                }
                None => {
                    prop_assert_eq!(output, text);
                    prop_assert_eq!(stopped, None);
                }
            }
        }
    }

    fn matcher(stops: &[&str], include: bool) -> StopMatcher {
        StopMatcher::new(stops.iter().map(|&stop| stop.to_owned()).collect(), include)
    }

    #[test]
    fn a_stop_that_spans_pieces_is_held_back_and_dropped() {
        let mut matcher = matcher(&["\nUser:"], false);
        assert_eq!(matcher.push("hello\nUs").emit, "hello");
        let progress = matcher.push("er: again");
        assert_eq!((progress.emit.as_str(), progress.stopped), ("", Some(0)));
        assert_eq!(matcher.push("more").emit, "");
        assert_eq!(matcher.flush(), "");
    }

    #[test]
    fn text_that_turns_out_to_be_no_stop_goes_out() {
        let mut matcher = matcher(&["abc"], false);
        assert_eq!(matcher.push("ab").emit, "");
        assert_eq!(matcher.push("d ab").emit, "abd ");
        assert_eq!(matcher.flush(), "ab");
    }

    #[test]
    fn the_stop_may_be_kept() {
        let mut matcher = matcher(&["END"], true);
        assert_eq!(matcher.push("the EN").emit, "the ");
        let progress = matcher.push("D of it");
        assert_eq!((progress.emit.as_str(), progress.stopped), ("END", Some(0)));
    }

    #[test]
    fn of_two_stops_the_one_complete_first_wins_then_the_longer() {
        let progress = matcher(&["abcd", "bc"], false).push("abcd");
        assert_eq!((progress.emit.as_str(), progress.stopped), ("a", Some(1)));
        let progress = matcher(&["c", "bc", "bc"], false).push("abc");
        assert_eq!((progress.emit.as_str(), progress.stopped), ("a", Some(1)));
    }
}
