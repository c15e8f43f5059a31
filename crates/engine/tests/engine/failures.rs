//! A request can fail, a step can fail its requests; the engine goes on.

use std::sync::Arc;

use vlmd_engine::{Event, RequestError, StartError, SubmitError};

use crate::support::{
    Answer, CONFUSES, Control, FAILS, MISSHAPES, PANICS, Rig, ask, collect, expected, words,
};

fn failed(error: RequestError) -> Event {
    Event::Failed(error)
}

/// A prompt that ends in a token with a meaning.
fn ending_in(token: u32) -> Vec<u32> {
    let mut tokens = words(9, 8);
    tokens.push(token);
    tokens
}

#[tokio::test]
async fn a_step_that_fails_or_panics_ends_its_requests_and_no_others() {
    for token in [FAILS, PANICS, MISSHAPES] {
        let rig = Rig::new(|config| config.max_num_seqs = 2);
        rig.control.hold();
        // Its answer is under way when the bad one joins it.
        let beside = rig.submit(ask(words(1, 5), 50));
        rig.control.wait_entered(1);
        let bad = rig.submit(ask(ending_in(token), 10));
        // Waits for a seat meanwhile.
        let later = ask(words(2, 40), 30);
        let waiting = rig.submit(later.clone());
        rig.control.release();

        let lost = failed(RequestError::StepFailed);
        let bad = collect(bad).await;
        assert_eq!((bad.ids, &bad.end), (vec![], &lost));
        let beside = collect(beside).await;
        assert_eq!((beside.ids.len(), &beside.end), (1, &lost));
        let answer = Answer::full(expected(&later.prompt, 30));
        assert_eq!(collect(waiting).await, answer);
        assert_eq!(rig.run(later).await, answer);

        let stats = rig.engine.stats();
        assert_eq!((stats.failed, stats.steps_failed), (2, 1));
        assert_eq!(stats.finished_length, 2);
        assert!(rig.engine.is_ready());
        rig.assert_idle();
    }
}

#[tokio::test]
async fn a_running_request_outside_of_the_failing_step_is_unharmed() {
    // A budget that leaves the younger of two prompts out of the first steps.
    let rig = Rig::new(|config| {
        config.max_num_seqs = 2;
        config.max_num_batched_tokens = 9;
    });
    rig.control.hold();
    let good = ask(words(3, 30), 10);
    let gate = rig.submit(ask(words(1, 2), 1));
    rig.control.wait_entered(1);
    let bad = rig.submit(ask(ending_in(FAILS), 10));
    let stream = rig.submit(good.clone());
    rig.control.release();
    assert_eq!(collect(gate).await.ids.len(), 1);
    assert_eq!(collect(bad).await.end, failed(RequestError::StepFailed));
    let answer = Answer::full(expected(&good.prompt, 10));
    assert_eq!(collect(stream).await, answer);
    assert_eq!(rig.engine.stats().failed, 1);
}

#[tokio::test]
async fn logits_that_are_no_numbers_end_that_request_alone() {
    let rig = Rig::new(|_| ());
    rig.control.hold();
    let good = ask(words(4, 20), 30);
    let stream = rig.submit(good.clone());
    let confused = rig.submit(ask(ending_in(CONFUSES), 30));
    rig.control.release();
    let confused = collect(confused).await;
    assert!(confused.ids.is_empty());
    assert_eq!(confused.end, failed(RequestError::InvalidLogits));
    let answer = Answer::full(expected(&good.prompt, 30));
    assert_eq!(collect(stream).await, answer);
    rig.assert_idle();
}

#[tokio::test]
async fn an_engine_whose_model_is_gone_is_not_ready_and_every_stream_ends() {
    let rig = Rig::new(|config| config.max_num_seqs = 1);
    rig.control.hold();
    let running = rig.submit(ask(words(1, 5), 50));
    let waiting = rig.submit(ask(words(2, 5), 50));
    rig.control.wait_entered(1);
    rig.control.kill();
    rig.control.release();
    let lost = failed(RequestError::StepFailed);
    assert_eq!(collect(running).await.end, lost);
    assert_eq!(collect(waiting).await.end, lost);
    assert!(!rig.engine.is_ready());
    let refused = rig.engine.submit(ask(words(3, 5), 5)).unwrap_err();
    assert_eq!(refused, SubmitError::NotRunning);
    rig.engine.stopped().await;
    rig.assert_idle();
    assert_eq!(rig.engine.stats().failed, 2);
}

#[test]
fn a_model_that_does_not_answer_starts_no_engine() {
    let control = Arc::new(Control::default());
    control.kill();
    let error = Rig::try_new(control, |_| ()).map(drop).unwrap_err();
    assert!(matches!(error, StartError::WarmUp(_)));
    // candle appends a backtrace where the environment asks for one.
    let message = error.to_string();
    assert!(message.starts_with("the model does not answer: a step that fails"));
}

#[test]
fn a_configuration_out_of_bounds_starts_no_engine() {
    let start = Rig::try_new(Arc::default(), |config| config.max_num_batched_tokens = 3);
    let error = start.map(drop).unwrap_err();
    assert_eq!(
        error.to_string(),
        "`max_num_batched_tokens` must be at least 16, not 3"
    );
}
