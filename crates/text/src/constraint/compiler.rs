//! Sources to grammars.

use std::fmt;
use std::panic::AssertUnwindSafe;
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError};

use llguidance::ParserFactory;
use llguidance::panic_utils::catch_unwind;

use super::cache::Cache;
use super::error::{GrammarError, words};
use super::limits::{MAX_CACHED_GRAMMARS, parser_limits};
use super::matcher::Grammar;
use super::source::GrammarSource;
use super::vocabulary::Vocabulary;
use crate::tokenizer::Tokenizer;

/// Compiles grammars for one model, and remembers the last [`MAX_CACHED_GRAMMARS`].
///
/// Cheap to make: the trie of the vocabulary, which takes up to a second for a large one, is made
/// with the first grammar, or by [`prepare`](Self::prepare).
pub struct GrammarCompiler {
    tokenizer: Arc<Tokenizer>,
    vocab_size: usize,
    stop_ids: Vec<u32>,
    machinery: OnceLock<Result<Machinery, GrammarError>>,
    compiled: Mutex<Cache<Grammar>>,
}

struct Machinery {
    vocabulary: Arc<Vocabulary>,
    factory: ParserFactory,
}

impl fmt::Debug for GrammarCompiler {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("GrammarCompiler")
            .field("vocab_size", &self.vocab_size)
            .field("stop_ids", &self.stop_ids)
            .finish_non_exhaustive()
    }
}

impl GrammarCompiler {
    /// For answers in tokens of `tokenizer` that are chosen from `vocab_size` logits and end with
    /// one of `stop_ids`.
    #[must_use]
    pub fn new(tokenizer: &Arc<Tokenizer>, vocab_size: usize, stop_ids: &[u32]) -> Self {
        Self {
            tokenizer: Arc::clone(tokenizer),
            vocab_size,
            stop_ids: stop_ids.to_vec(),
            machinery: OnceLock::new(),
            compiled: Mutex::new(Cache::new(MAX_CACHED_GRAMMARS)),
        }
    }

    /// Makes what all grammars share, if it is not made yet.
    ///
    /// # Errors
    /// [`GrammarError::Vocabulary`].
    pub fn prepare(&self) -> Result<(), GrammarError> {
        self.machinery().map(|_| ())
    }

    /// What [`compile`](Self::compile) gives, if it is at hand. Quick.
    #[must_use]
    pub fn cached(&self, source: &GrammarSource) -> Option<Grammar> {
        self.compiled().get(&source.key())
    }

    /// Makes a grammar. Takes milliseconds for most, and at most a second or two for the worst:
    /// not for an async worker.
    ///
    /// # Errors
    /// See [`GrammarError`].
    pub fn compile(&self, source: &GrammarSource) -> Result<Grammar, GrammarError> {
        let key = source.key();
        if let Some(grammar) = self.compiled().get(&key) {
            return Ok(grammar);
        }
        let grammar = source.grammar()?;
        let machinery = self.machinery()?;
        let parser = machinery.factory.create_parser(grammar);
        let parser = parser.map_err(|error| GrammarError::Invalid(words(error)))?;
        let grammar = Grammar::new(parser, Arc::clone(&machinery.vocabulary))?;
        self.compiled().insert(key, grammar.clone());
        Ok(grammar)
    }

    fn compiled(&self) -> MutexGuard<'_, Cache<Grammar>> {
        // Nothing that can panic is done under it.
        self.compiled.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn machinery(&self) -> Result<&Machinery, GrammarError> {
        self.machinery
            .get_or_init(|| {
                let vocabulary = Vocabulary::new(&self.tokenizer, self.vocab_size, &self.stop_ids)?;
                let make = || ParserFactory::new_simple(&vocabulary.environment);
                let mut factory = catch_unwind(AssertUnwindSafe(make))
                    .map_err(|error| GrammarError::Vocabulary(words(error)))?;
                factory.quiet();
                *factory.limits_mut() = parser_limits();
                Ok(Machinery {
                    vocabulary: Arc::new(vocabulary),
                    factory,
                })
            })
            .as_ref()
            .map_err(Clone::clone)
    }
}
