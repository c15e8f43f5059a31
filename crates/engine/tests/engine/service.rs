//! Who is served when, and for how long.

use std::time::Duration;

use vlmd_engine::{Event, GenerateRequest, RequestError, SubmitError};

use crate::support::{Rig, ask, collect, words};

fn with_priority(seed: u32, prompt: usize, priority: i32) -> GenerateRequest {
    let mut request = ask(words(seed, prompt), 2);
    request.service.priority = priority;
    request
}

#[tokio::test]
async fn the_urgent_enter_before_those_who_came_earlier() {
    let rig = Rig::new(|config| config.max_num_seqs = 1);
    rig.control.hold();
    let first = rig.submit(ask(words(1, 3), 2));
    rig.control.wait_entered(1);
    // Told apart by their lengths.
    let streams = [(10, 0), (20, 5), (30, -5), (40, 0)]
        .map(|(prompt, priority)| rig.submit(with_priority(2, prompt, priority)));
    rig.control.release();
    collect(first).await;
    for stream in streams {
        collect(stream).await;
    }
    let ran = rig.control.ran();
    let prompts: Vec<u32> = ran
        .iter()
        .map(|ran| ran.new[0])
        .filter(|&n| n > 1)
        .collect();
    assert_eq!(prompts, [3, 30, 10, 40, 20]);
}

#[tokio::test]
async fn who_waits_too_long_is_told_so() {
    let rig = Rig::new(|config| config.max_num_seqs = 1);
    rig.control.hold();
    let mut running = ask(words(1, 3), 5);
    // Enters at once, so that the time for that does not matter any more.
    running.service.entry_within = Some(Duration::from_secs(3600));
    let running = rig.submit(running);
    rig.control.wait_entered(1);
    let mut impatient = ask(words(2, 3), 5);
    impatient.service.entry_within = Some(Duration::ZERO);
    let impatient = rig.submit(impatient);
    let patient = rig.submit(ask(words(3, 3), 5));
    rig.control.release();
    let answer = collect(impatient).await;
    assert!(answer.ids.is_empty());
    assert_eq!(answer.end, Event::Failed(RequestError::QueuedTooLong));
    assert_eq!(collect(running).await.ids.len(), 5);
    assert_eq!(collect(patient).await.ids.len(), 5);
    let stats = rig.engine.stats();
    assert_eq!((stats.timed_out, stats.failed), (1, 1));
    rig.assert_idle();
}

#[tokio::test]
async fn an_answer_that_takes_too_long_ends_and_frees_its_blocks() {
    let rig = Rig::new(|_| ());
    rig.control.hold();
    let mut late = ask(words(1, 3), 400);
    late.service.end_within = Some(Duration::from_millis(20));
    let late = rig.submit(late);
    let other = rig.submit(ask(words(2, 3), 9));
    rig.control.wait_entered(1);
    std::thread::sleep(Duration::from_millis(30));
    rig.control.release();
    let answer = collect(late).await;
    assert!(answer.ids.len() <= 1);
    assert_eq!(answer.end, Event::Failed(RequestError::TimedOut));
    assert_eq!(collect(other).await.ids.len(), 9);
    assert_eq!(rig.engine.stats().timed_out, 1);
    rig.assert_idle();
}

#[tokio::test]
async fn prompts_that_wait_are_bounded_in_tokens() {
    let rig = Rig::new(|config| {
        config.max_num_seqs = 1;
        config.max_queued_tokens = 100;
    });
    rig.control.hold();
    let running = rig.submit(ask(words(1, 90), 2));
    rig.control.wait_entered(1);
    let waiting = rig.submit(ask(words(2, 60), 2));
    assert_eq!(
        rig.try_submit(ask(words(3, 41), 2)).unwrap_err(),
        SubmitError::QueueTokens {
            waiting: 60,
            prompt: 41,
            limit: 100
        }
    );
    let fits = rig.submit(ask(words(4, 40), 2));
    rig.control.release();
    for stream in [running, waiting, fits] {
        assert_eq!(collect(stream).await.ids.len(), 2);
    }
    // Longer than the line, but nobody is in it.
    assert_eq!(rig.run(ask(words(5, 200), 2)).await.ids.len(), 2);
    let stats = rig.engine.stats();
    assert_eq!((stats.rejected_tokens, stats.waiting_tokens), (1, 0));
}
