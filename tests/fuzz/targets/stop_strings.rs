//! Stop strings: what goes out does not depend on how the answer came.

#![no_main]

use libfuzzer_sys::fuzz_target;
use vlmd_text::StopMatcher;

fuzz_target!(|input: (Vec<String>, Vec<&str>, bool)| {
    let (stops, pieces, include) = input;
    let whole = run(&stops, &[&pieces.concat()], include);
    assert_eq!(run(&stops, &pieces, include), whole);
    let (text, stopped) = whole;
    match stopped {
        Some(index) => assert!(!include || text.ends_with(&stops[index])),
        None => {
            assert_eq!(text, pieces.concat());
            let found = stops
                .iter()
                .any(|stop| !stop.is_empty() && text.contains(stop));
            assert!(!found, "a stop string went out");
        }
    }
});

fn run(stops: &[String], pieces: &[&str], include: bool) -> (String, Option<usize>) {
    let mut matcher = StopMatcher::new(stops.to_vec(), include);
    let (mut text, mut stopped) = (String::new(), None);
    for piece in pieces {
        let progress = matcher.push(piece);
        text.push_str(&progress.emit);
        stopped = progress.stopped;
    }
    text.push_str(&matcher.flush());
    (text, stopped)
}
