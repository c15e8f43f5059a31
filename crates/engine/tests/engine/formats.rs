//! Answers that are held to a constraint, and answers that are guessed at.

use vlmd_engine::{
    Constraint, ConstraintError, Event, FinishReason, GenerateRequest, Logprobs, RequestError,
    Speculation,
};

use crate::support::{Rig, WORDS, ask, ask_prepared, collect, expected, seeded, words};

/// Allows the tokens of a pattern in turn: one, or several to choose from.
#[derive(Debug, Clone)]
struct Pattern {
    places: Vec<Vec<u32>>,
    at: usize,
    /// Says what must come without asking the model.
    forces: bool,
}

impl Constraint for Pattern {
    fn mask(&mut self, logits: &mut [f32]) -> Result<(), ConstraintError> {
        let allowed = self.places.get(self.at).map_or(&[][..], Vec::as_slice);
        for (id, logit) in (0..).zip(logits) {
            if !allowed.contains(&id) {
                *logit = f32::NEG_INFINITY;
            }
        }
        Ok(())
    }

    fn accept(&mut self, id: u32) -> Result<(), ConstraintError> {
        match self.places.get(self.at) {
            Some(allowed) if allowed.contains(&id) => {
                self.at += 1;
                Ok(())
            }
            _ => Err(ConstraintError(format!("{id} at {}", self.at))),
        }
    }

    fn forced(&mut self) -> Result<Vec<u32>, ConstraintError> {
        let rest = self.places[self.at..].iter().filter(|_| self.forces);
        let only = rest.map_while(|allowed| match allowed[..] {
            [only] => Some(only),
            _ => None,
        });
        Ok(only.collect())
    }

    fn is_complete(&self) -> bool {
        self.at == self.places.len()
    }

    fn fork(&self) -> Box<dyn Constraint> {
        Box::new(self.clone())
    }
}

fn pattern(forces: bool) -> Pattern {
    let choice = (10..20).collect();
    let places = [vec![1], vec![2], vec![3], choice, vec![4], vec![5]];
    let at = 0;
    let places = places.into();
    Pattern { places, at, forces }
}

#[tokio::test]
async fn what_must_come_is_not_asked_of_the_model() {
    let mut steps = Vec::new();
    let mut answers = Vec::new();
    for forces in [false, true] {
        let rig = Rig::new(|_| ());
        let mut request = ask(words(1, 40), 50);
        request.constraint = Some(Box::new(pattern(forces)));
        let answer = rig.run(request).await;
        assert_eq!(answer.end, Event::Finished(FinishReason::Complete));
        assert_eq!(answer.ids.len(), 6);
        assert_eq!(answer.ids[..3], [1, 2, 3]);
        assert!((10..20).contains(&answer.ids[3]));
        assert_eq!(answer.ids[4..], [4, 5]);
        steps.push(rig.control.ran().len());
        answers.push(answer);
        rig.assert_idle();
    }
    assert_eq!(answers[0], answers[1]);
    // The prompt and one in the middle, instead of one for each token.
    assert_eq!(steps, [6, 2]);
}

#[tokio::test]
async fn probabilities_are_the_models_even_where_there_is_no_choice() {
    let rig = Rig::new(|_| ());
    let mut request = ask(words(1, 40), 50);
    request.sampling.logprobs = Some(0);
    request.constraint = Some(Box::new(pattern(true)));
    let events = rig.events(request).await;
    let told = |event: &&Event| {
        matches!(
            event,
            Event::Token {
                logprobs: Some(Logprobs { .. }),
                ..
            }
        )
    };
    assert_eq!(events.iter().filter(told).count(), 6);
}

#[tokio::test]
async fn constrained_answers_to_one_prompt_go_their_own_ways() {
    let rig = Rig::new(|_| ());
    let request = GenerateRequest {
        choices: 8,
        constraint: Some(Box::new(pattern(true))),
        ..seeded(3, words(1, 40), 50)
    };
    let mut middles = std::collections::BTreeSet::new();
    for stream in rig.engine.submit(request).unwrap() {
        let answer = collect(stream).await;
        assert_eq!(answer.end, Event::Finished(FinishReason::Complete));
        middles.insert(answer.ids[3]);
    }
    assert!(middles.len() > 1, "{middles:?}");
    rig.assert_idle();
}

#[tokio::test]
async fn a_constraint_that_breaks_fails_its_request_alone() {
    #[derive(Debug, Clone)]
    struct Broken;
    impl Constraint for Broken {
        fn mask(&mut self, _: &mut [f32]) -> Result<(), ConstraintError> {
            Err(ConstraintError("cannot go on".into()))
        }
        fn accept(&mut self, _: u32) -> Result<(), ConstraintError> {
            Ok(())
        }
        fn forced(&mut self) -> Result<Vec<u32>, ConstraintError> {
            Ok(Vec::new())
        }
        fn is_complete(&self) -> bool {
            false
        }
        fn fork(&self) -> Box<dyn Constraint> {
            Box::new(self.clone())
        }
    }
    let rig = Rig::new(|_| ());
    let mut bad = ask(words(1, 40), 50);
    bad.constraint = Some(Box::new(Broken));
    let (bad, good) = (rig.submit(bad), rig.submit(ask(words(2, 40), 20)));
    let end = collect(bad).await.end;
    assert_eq!(end, Event::Failed(RequestError::ConstraintFailed));
    assert_eq!(collect(good).await.ids.len(), 20);
    rig.assert_idle();
}

/// A prompt that repeats itself, so that something is found.
fn repeating(seed: u32) -> Vec<u32> {
    let piece = words(seed, 12);
    [&piece[..], &words(seed + 1, 9), &piece, &piece[..4]].concat()
}

#[tokio::test]
async fn guesses_change_no_answer() {
    for tokens in [1, 3, 8] {
        let plain = Rig::new(|_| ());
        let guessing = Rig::new(|config| {
            config.speculation = Some(Speculation {
                tokens,
                min_ngram: 1,
                max_ngram: 3,
            });
        });
        let mut requests: Vec<_> = (0..6)
            .map(|seed| seeded(u64::from(seed), repeating(seed), 40))
            .collect();
        requests.extend((0..6).map(|seed| ask(repeating(seed), 40)));
        // Few words make repetitions likely, and guesses right.
        for (number, request) in requests.iter_mut().enumerate() {
            if number % 2 == 0 {
                request.sampling.allowed_tokens = Some(vec![1, 2]);
            } else {
                // Among few, too, but drawn where the logits are.
                request.sampling.top_k = Some(2);
            }
            if number % 3 == 0 {
                request.sampling.repetition_penalty = 1.3;
                request.sampling.logprobs = Some(2);
            }
        }
        let streams: Vec<_> = requests
            .iter()
            .map(|r| guessing.submit(r.clone()))
            .collect();
        for (request, stream) in requests.into_iter().zip(streams) {
            assert_eq!(collect(stream).await, plain.run(request).await);
        }
        let stats = guessing.engine.stats();
        assert!(stats.spec_drafts > 0 && stats.spec_accepted_tokens > 0);
        assert!(stats.spec_accepted_tokens < stats.spec_draft_tokens);
        let counted: u64 = stats.spec_accepted_per_position.iter().sum();
        assert_eq!(counted, stats.spec_accepted_tokens);
        assert!(stats.steps < plain.engine.stats().steps);
        guessing.assert_idle();
    }
}

#[tokio::test]
async fn guesses_stop_where_the_answer_does() {
    let rig = Rig::new(|config| {
        config.speculation = Some(Speculation {
            tokens: 8,
            min_ngram: 1,
            max_ngram: 2,
        });
    });
    for most in 1..12 {
        let mut request = ask(repeating(3), most);
        request.sampling.allowed_tokens = Some(vec![7]);
        let answer = rig.run(request).await;
        assert_eq!(answer.ids, vec![7; most]);
        assert_eq!(answer.end, Event::Finished(FinishReason::Length));
    }
    let mut stopped = ask(repeating(3), 30);
    stopped.limits.stop_ids = (0..WORDS).collect();
    stopped.limits.min_tokens = 0;
    assert_eq!(rig.run(stopped).await.ids.len(), 1);
    let prompt = ask(repeating(4), 30);
    let answer = expected(&prompt.prompt, 30);
    assert_eq!(rig.run(ask_prepared(prompt.prompt, 30)).await.ids, answer);
    rig.assert_idle();
}
