//! One answer under its grammar.

use std::fmt;
use std::panic::AssertUnwindSafe;
use std::sync::{Arc, Mutex, PoisonError};

use llguidance::TokenParser;
use llguidance::api::StopReason;
use llguidance::panic_utils::catch_unwind;

use super::error::{GrammarError, MatchError, words};
use super::vocabulary::Vocabulary;

/// A compiled language. Clones share it.
#[derive(Clone)]
pub struct Grammar {
    /// At the start of an answer, and never further.
    template: Arc<Mutex<llguidance::Matcher>>,
    vocabulary: Arc<Vocabulary>,
}

impl fmt::Debug for Grammar {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Grammar").finish_non_exhaustive()
    }
}

impl Grammar {
    pub(super) fn new(
        parser: TokenParser,
        vocabulary: Arc<Vocabulary>,
    ) -> Result<Self, GrammarError> {
        // What cannot even begin is told now, and not in the middle of an answer.
        let mut trial = parser.deep_clone();
        trial.start_without_prompt();
        catch_unwind(AssertUnwindSafe(|| trial.compute_mask())).map_err(|error| {
            match trial.stop_reason() {
                StopReason::NoExtensionBias => GrammarError::Unwritable,
                _ => GrammarError::Invalid(words(error)),
            }
        })?;
        let template = llguidance::Matcher::new(Ok(parser));
        Ok(Self {
            template: Arc::new(Mutex::new(template)),
            vocabulary,
        })
    }

    /// A matcher for a new answer, which shares nothing that changes with others.
    #[must_use]
    pub fn start(&self) -> Matcher {
        let template = self.template.lock().unwrap_or_else(PoisonError::into_inner);
        Matcher {
            inner: template.deep_clone(),
            vocabulary: Arc::clone(&self.vocabulary),
            at_start: true,
        }
    }
}

/// The place that one answer has reached in its language.
pub struct Matcher {
    inner: llguidance::Matcher,
    vocabulary: Arc<Vocabulary>,
    at_start: bool,
}

impl fmt::Debug for Matcher {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Matcher")
            .field("stop_reason", &self.inner.stop_reason())
            .field("at_start", &self.at_start)
            .finish_non_exhaustive()
    }
}

impl Matcher {
    /// Sets the logits, one for each id, of tokens that must not come next to negative infinity.
    /// Tokens that end an answer stay exactly where the language allows an end.
    ///
    /// # Errors
    /// [`MatchError::Parser`] where the parser's bounds are reached, or no token can come.
    pub fn mask(&mut self, logits: &mut [f32]) -> Result<(), MatchError> {
        let mut allowed = self
            .inner
            .compute_mask_or_eos()
            .map_err(|error| MatchError::Parser(words(error)))?;
        // Only then: what is looked at must not change on the way.
        let mut firsts = Vec::new();
        if self.at_start {
            for (id, tokens) in self.vocabulary.firsts() {
                let fits = match tokens {
                    [] => false,
                    [token] => allowed.is_allowed(*token),
                    tokens => self
                        .inner
                        .validate_tokens(tokens)
                        .map_err(|error| MatchError::Parser(words(error)))
                        .map(|valid| valid == tokens.len())?,
                };
                if fits {
                    firsts.push(id);
                } else {
                    allowed.disallow_token(id);
                }
            }
        }
        for id in firsts {
            allowed.allow_token(id);
        }
        for (id, logit) in logits.iter_mut().enumerate() {
            if id >= allowed.len() || !allowed.get(id) {
                *logit = f32::NEG_INFINITY;
            }
        }
        Ok(())
    }

    /// Notes the next token of the answer. After the end, another stop token changes nothing.
    ///
    /// # Errors
    /// [`MatchError::Token`] where the language does not allow it here.
    pub fn accept(&mut self, id: u32) -> Result<(), MatchError> {
        let refused = |reason: String| MatchError::Token { id, reason };
        let trie = self.vocabulary.environment.tok_trie();
        if self.is_complete() && trie.eos_tokens().contains(&id) {
            return Ok(());
        }
        if usize::try_from(id).map_or(true, |id| id >= trie.vocab_size()) {
            return Err(refused("there is no such token".into()));
        }
        let meant = match self.vocabulary.at_start(id) {
            Some([]) if self.at_start => return Err(refused("it is no text at the start".into())),
            Some(tokens) if self.at_start => tokens,
            _ => &[id],
        };
        self.inner
            .consume_tokens(meant)
            .map_err(|error| refused(words(error)))?;
        self.at_start = false;
        Ok(())
    }

    /// The tokens that must come next in any case, in order; empty where there is a choice.
    ///
    /// # Errors
    /// As [`mask`](Self::mask).
    pub fn forced(&mut self) -> Result<Vec<u32>, MatchError> {
        if self.inner.is_stopped() && !self.inner.is_error() {
            return Ok(Vec::new());
        }
        let mut forced = self.inner.compute_ff_tokens();
        if let Some(error) = self.inner.get_error() {
            return Err(MatchError::Parser(words(error)));
        }
        if self.at_start
            && let Some(first) = forced.first_mut()
        {
            *first = self.vocabulary.usual_start(*first);
        }
        Ok(forced)
    }

    /// Whether nothing may follow any more.
    #[must_use]
    pub fn is_complete(&self) -> bool {
        matches!(
            self.inner.stop_reason(),
            StopReason::NoExtension | StopReason::EndOfSentence
        )
    }

    /// Another one at the same place, for an answer that goes on by itself from here.
    #[must_use]
    pub fn fork(&self) -> Self {
        Self {
            inner: self.inner.deep_clone(),
            vocabulary: Arc::clone(&self.vocabulary),
            at_start: self.at_start,
        }
    }
}
