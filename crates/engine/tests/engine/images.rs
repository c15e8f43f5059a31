//! Pictures: encoded once, spliced row by row, failing alone.

use vlmd_backend::Prepared;
use vlmd_engine::{Event, RequestError};

use crate::support::{
    Answer, BAD_PICTURE, PANICKING_PICTURE, Rig, SHORT_PICTURE, ask, ask_prepared, collect,
    expected, picture, span, words,
};

/// Text, a picture, text, another picture twice in a row, text.
fn two_pictures(first: f32, second: f32) -> Prepared {
    Prepared {
        tokens: words(5, 120),
        images: vec![picture(first, 40), picture(second, 13)],
        spans: vec![span(0, 3..43), span(1, 60..73), span(1, 73..86)],
        cross: Vec::new(),
    }
}

fn one_picture(value: f32) -> Prepared {
    Prepared {
        tokens: words(6, 20),
        images: vec![picture(value, 10)],
        spans: vec![span(0, 2..12)],
        cross: Vec::new(),
    }
}

#[tokio::test]
async fn features_reach_their_rows_in_chunks_of_any_size() {
    let prompt = two_pictures(17.0, 23.0);
    let answer = Answer::full(expected(&prompt, 20));
    let other = expected(&two_pictures(23.0, 17.0), 20);
    assert_ne!(answer.ids, other, "the pictures make a difference");
    for chunk in [1, 7, 32, 512] {
        let rig = Rig::new(|config| config.max_prefill_chunk = chunk);
        // Alone, then beside others.
        assert_eq!(rig.run(ask_prepared(prompt.clone(), 20)).await, answer);
        let beside: Vec<_> = (0..5).map(|s| rig.submit(ask(words(s, 30), 9))).collect();
        assert_eq!(rig.run(ask_prepared(prompt.clone(), 20)).await, answer);
        for stream in beside {
            assert_eq!(collect(stream).await.ids.len(), 9);
        }
        // The second time they are remembered.
        assert_eq!(rig.control.encoder_calls(), [2]);
        assert_eq!(rig.engine.stats().images_encoded, 2);
        rig.assert_idle();
    }
}

#[tokio::test]
async fn fillers_are_not_looked_at_whatever_they_are() {
    let rig = Rig::new(|config| config.max_prefill_chunk = 7);
    let mut prompt = one_picture(3.0);
    let answer = Answer::full(expected(&prompt, 12));
    prompt.tokens[2..12].fill(u32::MAX);
    assert_eq!(rig.run(ask_prepared(prompt, 12)).await, answer);
}

#[tokio::test]
async fn pictures_of_newcomers_are_encoded_together() {
    let rig = Rig::new(|_| ());
    rig.control.hold();
    let first = rig.submit(ask(words(1, 2), 1));
    rig.control.wait_entered(1);
    let prompts = [one_picture(1.0), two_pictures(2.0, 3.0), one_picture(4.0)];
    let streams = prompts.clone().map(|p| rig.submit(ask_prepared(p, 8)));
    rig.control.release();
    collect(first).await;
    for (prompt, stream) in prompts.iter().zip(streams) {
        assert_eq!(collect(stream).await, Answer::full(expected(prompt, 8)));
    }
    assert_eq!(rig.control.encoder_calls(), [4]);
}

#[tokio::test]
async fn a_picture_that_cannot_be_encoded_fails_its_request_alone() {
    for value in [BAD_PICTURE, PANICKING_PICTURE, SHORT_PICTURE] {
        let rig = Rig::new(|_| ());
        rig.control.hold();
        let running = rig.submit(ask(words(1, 2), 9));
        rig.control.wait_entered(1);
        let good = one_picture(1.0);
        let before = rig.submit(ask_prepared(good.clone(), 8));
        let bad = rig.submit(ask_prepared(two_pictures(1.0, value), 8));
        let after = rig.submit(ask_prepared(good.clone(), 8));
        rig.control.release();

        let bad = collect(bad).await;
        assert!(bad.ids.is_empty());
        assert_eq!(bad.end, Event::Failed(RequestError::StepFailed));
        assert_eq!(collect(running).await.ids.len(), 9);
        let answer = Answer::full(expected(&good, 8));
        assert_eq!(collect(before).await, answer);
        assert_eq!(collect(after).await, answer);
        let stats = rig.engine.stats();
        assert_eq!((stats.failed, stats.steps_failed), (1, 0));
        rig.assert_idle();
    }
}
