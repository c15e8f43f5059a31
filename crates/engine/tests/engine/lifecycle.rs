//! Cancelling, refusing, shutting down.

use std::time::Duration;

use futures::StreamExt;
use vlmd_backend::Prepared;
use vlmd_engine::{Event, RequestError, SubmitError};

use crate::support::{Answer, Rig, ask, ask_prepared, collect, expected, picture, span, words};

/// Longer than any test.
const AGES: Duration = Duration::from_secs(3600);

#[tokio::test]
async fn a_dropped_stream_frees_its_blocks_within_one_step() {
    let rig = Rig::new(|_| ());
    rig.control.hold();
    let kept = rig.submit(ask(words(1, 5), 20));
    let dropped = rig.submit(ask(words(2, 90), 60));
    rig.control.wait_entered(1);
    drop(dropped);
    rig.control.step();
    rig.control.wait_entered(2);
    let stats = rig.engine.stats();
    assert_eq!((stats.running, stats.blocks_used), (1, 1));
    assert_eq!(stats.cancelled, 1);
    rig.control.release();
    let answer = Answer::full(expected(&ask(words(1, 5), 20).prompt, 20));
    assert_eq!(collect(kept).await, answer);
    rig.assert_idle();
}

#[tokio::test]
async fn a_stream_dropped_while_it_waits_leaves_the_line_within_one_step() {
    let rig = Rig::new(|config| config.max_num_seqs = 1);
    rig.control.hold();
    let running = rig.submit(ask(words(1, 5), 5));
    let dropped = rig.submit(ask(words(2, 77), 60));
    let last = rig.submit(ask(words(3, 5), 5));
    rig.control.wait_entered(1);
    assert_eq!(rig.engine.stats().waiting, 2);
    drop(dropped);
    rig.control.step();
    rig.control.wait_entered(2);
    let stats = rig.engine.stats();
    assert_eq!((stats.waiting, stats.cancelled), (1, 1));
    rig.control.release();
    assert_eq!(collect(running).await.ids.len(), 5);
    assert_eq!(collect(last).await.ids.len(), 5);
    let ran = rig.control.ran();
    assert!(ran.iter().all(|ran| ran.new != [77]), "it was computed");
    rig.assert_idle();
}

#[tokio::test]
async fn a_stream_dropped_between_tokens_ends_its_request() {
    let rig = Rig::new(|_| ());
    rig.control.hold();
    let mut stream = rig.submit(ask(words(1, 5), 400));
    rig.control.step();
    assert!(matches!(stream.next().await, Some(Event::Token { .. })));
    // The next step is held, or the answer could end before the stream is dropped.
    rig.control.wait_entered(2);
    drop(stream);
    rig.control.release();
    // Whoever comes next finds it gone: the worker looks before each step.
    assert_eq!(rig.run(ask(words(2, 5), 1)).await.ids.len(), 1);
    let stats = rig.engine.stats();
    assert_eq!((stats.cancelled, stats.finished_length), (1, 1));
    rig.assert_idle();
}

#[tokio::test]
async fn a_full_line_refuses_and_takes_again_when_it_has_moved() {
    let rig = Rig::new(|config| {
        config.max_num_seqs = 1;
        config.max_queue = 2;
    });
    rig.control.hold();
    let request = ask(words(1, 5), 2);
    let mut streams = vec![rig.submit(request.clone())];
    rig.control.wait_entered(1);
    streams.push(rig.submit(request.clone()));
    streams.push(rig.submit(request.clone()));
    let refused = rig.engine.submit(request.clone()).unwrap_err();
    assert_eq!(
        refused,
        SubmitError::QueueFull {
            waiting: 2,
            limit: 2
        }
    );
    rig.control.release();
    for stream in streams {
        assert_eq!(collect(stream).await.ids.len(), 2);
    }
    assert_eq!(rig.run(request).await.ids.len(), 2);
}

#[tokio::test]
async fn a_prompt_that_leaves_no_room_is_refused() {
    let rig = Rig::new(|config| config.max_model_len = 100);
    assert_eq!(rig.engine.max_model_len(), 100);
    let refused = rig.engine.submit(ask(words(1, 100), 1)).unwrap_err();
    let error = SubmitError::TooLong {
        prompt: 100,
        limit: 100,
    };
    assert_eq!(refused, error);
    // The last place is one more token's.
    assert_eq!(rig.run(ask(words(1, 99), 50)).await.ids.len(), 1);
}

#[tokio::test]
async fn what_the_whole_cache_could_not_hold_is_refused_at_once() {
    let rig = Rig::new(|config| config.kv_blocks = 3);
    assert_eq!(rig.engine.max_model_len(), 96);
    let refused = rig.engine.submit(ask(words(1, 96), 1)).unwrap_err();
    assert!(matches!(refused, SubmitError::TooLong { limit: 96, .. }));
    let answer = rig.run(ask(words(1, 90), usize::MAX)).await;
    assert_eq!(
        answer,
        Answer::full(expected(&ask(words(1, 90), 6).prompt, 6))
    );
    rig.assert_idle();
}

#[tokio::test]
async fn a_prompt_that_contradicts_itself_is_refused() {
    let rig = Rig::new(|_| ());
    let prompt = Prepared {
        tokens: words(1, 8),
        images: vec![picture(1.0, 5)],
        spans: vec![span(0, 1..5)],
        cross: Vec::new(),
    };
    let refused = rig.engine.submit(ask_prepared(prompt, 1)).unwrap_err();
    assert_eq!(
        refused.to_string(),
        "the prepared prompt cannot be computed: its image span has 4 tokens for 5 features"
    );
    assert!(rig.engine.submit(ask(vec![], 1)).is_err());
    assert!(rig.engine.submit(ask(vec![64], 1)).is_err());
    assert_eq!(rig.engine.stats().failed, 0);
}

#[tokio::test]
async fn shutdown_lets_everything_that_was_taken_finish() {
    let rig = Rig::new(|config| config.max_num_seqs = 1);
    rig.control.hold();
    let running = rig.submit(ask(words(1, 5), 9));
    let waiting = rig.submit(ask(words(2, 5), 9));
    assert!(rig.engine.is_ready());
    rig.engine.shutdown(AGES);
    assert!(!rig.engine.is_ready());
    let refused = rig.engine.submit(ask(words(3, 5), 9)).unwrap_err();
    assert_eq!(refused, SubmitError::NotRunning);
    rig.control.release();
    assert_eq!(collect(running).await.ids.len(), 9);
    assert_eq!(collect(waiting).await.ids.len(), 9);
    rig.engine.stopped().await;
    assert_eq!(rig.engine.stats().finished_length, 2);
}

#[tokio::test]
async fn what_is_left_at_the_deadline_fails_and_a_second_call_brings_it_forward() {
    let rig = Rig::new(|config| config.max_num_seqs = 1);
    rig.control.hold();
    let running = rig.submit(ask(words(1, 5), 9));
    let waiting = rig.submit(ask(words(2, 5), 9));
    rig.control.wait_entered(1);
    rig.engine.shutdown(AGES);
    rig.engine.shutdown(Duration::ZERO);
    rig.engine.shutdown(Duration::MAX);
    rig.control.release();
    let end = Event::Failed(RequestError::ShuttingDown);
    // The step that was under way still counts.
    let running = collect(running).await;
    assert_eq!((running.ids.len(), &running.end), (1, &end));
    let waiting = collect(waiting).await;
    assert_eq!((waiting.ids.len(), &waiting.end), (0, &end));
    rig.engine.stopped().await;
    rig.assert_idle();
    assert_eq!(rig.engine.stats().failed, 2);
}

#[tokio::test]
async fn an_idle_engine_stops_at_once() {
    let rig = Rig::new(|_| ());
    rig.engine.shutdown(AGES);
    rig.engine.stopped().await;
}

#[tokio::test]
async fn streams_outlive_the_last_handle() {
    let mut rig = Rig::new(|_| ());
    let stream = rig.submit(ask(words(1, 5), 30));
    // The rig's handle is replaced by another engine's: the first has none left.
    rig.engine = Rig::new(|_| ()).engine.clone();
    let answer = Answer::full(expected(&ask(words(1, 5), 30).prompt, 30));
    assert_eq!(collect(stream).await, answer);
}
