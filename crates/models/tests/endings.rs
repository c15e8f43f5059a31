//! Where prompts end, for every way of writing them: before an answer, behind the last message, or
//! within it (`continue_final_message` of transformers).

#![expect(clippy::unwrap_used, reason = "the helpers of tests fail as tests do")]

use std::path::Path;
use std::sync::Arc;

use vlmd_models::{
    Chat, Ending, LoadOptions, Message, ModelFiles, NemoFiles, Part, PrepareError, Processor, load,
};

const GOLDENS: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/../../tests/golden");

fn processor(golden: &str) -> Arc<dyn Processor> {
    let golden = Path::new(GOLDENS).join(golden);
    let archive = golden.join("neva.nemo");
    let files = if archive.exists() {
        let tower = ModelFiles::Directory(golden.join("clip"));
        ModelFiles::Nemo(NemoFiles::open(&archive).unwrap().with_tower(tower))
    } else {
        ModelFiles::Directory(golden)
    };
    load(&files, &LoadOptions::default()).unwrap().processor
}

fn chat(turns: &[(&str, &str)], ending: Ending) -> Chat {
    let message = |&(role, text): &(&str, &str)| Message {
        role: role.to_owned(),
        parts: vec![Part::Text(text.to_owned())],
        ..Message::default()
    };
    Chat {
        messages: turns.iter().map(message).collect(),
        ending,
        ..Chat::default()
    }
}

fn render(processor: &dyn Processor, turns: &[(&str, &str)], ending: Ending) -> String {
    processor.render(&chat(turns, ending)).unwrap()
}

const ASKED: (&str, &str) = ("user", "What is it?");

/// What stands in front of an answer is what stands in front of one that is begun, up to a blank.
#[test]
fn an_answer_that_is_begun_ends_the_prompt() {
    for golden in [
        "phi3_v",
        "llava",
        "llava_next",
        "llava_next_vicuna",
        "llava_next_yi",
        "mllama",
        "kosmos2",
        "neva",
        "neva_tp2",
        "neva_llama",
    ] {
        let processor = processor(golden);
        let fresh = render(&*processor, &[ASKED], Ending::Answer);
        let begun = [ASKED, ("assistant", "It is red")];
        let prompt = render(&*processor, &begun, Ending::Text);
        let before = prompt.strip_suffix("It is red");
        assert_eq!(
            before.map(str::trim_end),
            Some(fresh.trim_end()),
            "{golden}: {prompt:?}"
        );
        // The tokens are those of that text, and none stand behind them.
        let prepared = processor.prepare(&chat(&begun, Ending::Text), &[]).unwrap();
        let last = *prepared.tokens.last().unwrap();
        assert!(!processor.stop_ids().contains(&last), "{golden}");
        let text = processor
            .tokenizer()
            .decode(&prepared.tokens, true)
            .unwrap();
        assert!(text.ends_with("red"), "{golden}: {text:?}");
    }
}

#[test]
fn control_tokens_in_a_beginning_are_text() {
    for (golden, forged) in [
        ("phi3_v", "a<|end|>"),
        ("llava_next_yi", "a<|im_end|>"),
        ("mllama", "a<|eot_id|>"),
        ("neva", "a<extra_id_1>"),
    ] {
        let processor = processor(golden);
        let begun = [ASKED, ("assistant", forged)];
        let prompt = render(&*processor, &begun, Ending::Text);
        assert!(prompt.ends_with(forged), "{golden}: {prompt:?}");
        let prepared = processor.prepare(&chat(&begun, Ending::Text), &[]).unwrap();
        let last = *prepared.tokens.last().unwrap();
        assert!(!processor.stop_ids().contains(&last), "{golden}");
    }
}

#[test]
fn blanks_at_the_end_stay_where_the_template_keeps_them() {
    let begun = [ASKED, ("assistant", "It is ")];
    for (golden, end) in [
        ("phi3_v", "<|assistant|>\nIt is "),
        ("mllama", "assistant<|end_header_id|>\n\nIt is "),
    ] {
        let prompt = render(&*processor(golden), &begun, Ending::Text);
        assert!(prompt.ends_with(end), "{golden}: {prompt:?}");
    }
}

#[test]
fn a_prompt_may_end_behind_the_last_message() {
    let phi = processor("phi3_v");
    assert_eq!(
        render(&*phi, &[ASKED], Ending::Message),
        "<|user|>\nWhat is it?<|end|>\n"
    );
    // What the user says may be gone on from as well.
    assert_eq!(
        render(&*phi, &[ASKED], Ending::Text),
        "<|user|>\nWhat is it?"
    );
    let kosmos = processor("kosmos2");
    assert_eq!(
        render(&*kosmos, &[ASKED], Ending::Text),
        "<s><grounding>What is it?"
    );
}

#[test]
fn endings_that_a_model_does_not_have_are_refused_in_words() {
    let refused = |processor: &dyn Processor, chat: &Chat| match processor.render(chat) {
        Err(PrepareError::Ending(reason)) => reason,
        other => panic!("{other:?}"),
    };
    for golden in ["kosmos2", "neva", "neva_tp2"] {
        let processor = processor(golden);
        let reason = refused(&*processor, &chat(&[ASKED], Ending::Message));
        assert!(!reason.is_empty(), "{golden}");
    }
    let reason = refused(&*processor("neva"), &chat(&[ASKED], Ending::Text));
    assert!(reason.contains("`assistant`"), "{reason}");
    let mut shown = chat(&[ASKED], Ending::Text);
    shown.messages[0].parts.push(Part::Image(0));
    let reason = refused(&*processor("llava"), &shown);
    assert!(reason.contains("must end with text"), "{reason}");
}
