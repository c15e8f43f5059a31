//! Conversations with pictures through every architecture's processor: a prompt that the engine
//! takes, or a refusal that the client can mend. Words are never control tokens.

#![no_main]

use arbitrary::{Arbitrary, Result, Unstructured};
use libfuzzer_sys::fuzz_target;
use vlmd_fuzz::{CHECKPOINTS, checkpoint, is_control};
use vlmd_media::Picture;
use vlmd_models::{Chat, LoadedModel, Message, Part, PrepareError, Processor};

/// Roles that the server lets through.
const ROLES: [&str; 4] = ["user", "assistant", "system", "tool"];

/// Pixels of a picture: enough for every way of cutting it.
const MOST_PIXELS: u32 = 1 << 19;

#[derive(Debug, Arbitrary)]
enum Piece {
    Text(String),
    Image(u8),
}

#[derive(Debug)]
struct Input {
    architecture: usize,
    /// Width, height and a colour.
    pictures: Vec<(u16, u16, u8)>,
    /// Roles and what they say.
    messages: Vec<(usize, Vec<Piece>)>,
}

impl<'a> Arbitrary<'a> for Input {
    fn arbitrary(u: &mut Unstructured<'a>) -> Result<Self> {
        let architecture = u.choose_index(CHECKPOINTS.len())?;
        let pictures = u.int_in_range(0..=3)?;
        let pictures = (0..pictures).map(|_| u.arbitrary());
        let pictures = pictures.collect::<Result<_>>()?;
        let messages = u.int_in_range(1..=4)?;
        let messages = (0..messages).map(|_| Ok((u.choose_index(ROLES.len())?, u.arbitrary()?)));
        let messages = messages.collect::<Result<_>>()?;
        Ok(Self {
            architecture,
            pictures,
            messages,
        })
    }
}

thread_local! {
    static MODELS: Vec<LoadedModel> = CHECKPOINTS.map(checkpoint).into();
}

fuzz_target!(|input: Input| {
    MODELS.with(|models| run(&models[input.architecture], &input));
});

fn run(model: &LoadedModel, input: &Input) {
    let pictures: Vec<_> = input.pictures.iter().copied().map(picture).collect();
    let processor = &*model.processor;
    let prompt = match processor.prepare(&chat(input, &pictures, str::to_owned), &pictures) {
        Ok(prompt) => prompt,
        Err(PrepareError::Tensor(error)) => panic!("not the client's to mend: {error}"),
        Err(_) => return,
    };
    if let Err(problem) = vlmd_engine::fuzzing::check_prompt(&prompt, model.model.spec()) {
        panic!("the engine refuses the prompt: {problem}");
    }
    // However the words are chosen, the control tokens are those of plain words.
    let plain = |text: &str| if text.trim().is_empty() { "" } else { "x" }.to_owned();
    let Ok(other) = processor.prepare(&chat(input, &pictures, plain), &pictures) else {
        return;
    };
    let controls = controls(processor, &prompt.tokens);
    assert_eq!(controls, self::controls(processor, &other.tokens));
}

fn picture((width, height, colour): (u16, u16, u8)) -> Picture {
    let width = u32::from(width).clamp(1, MOST_PIXELS);
    let height = u32::from(height).clamp(1, (MOST_PIXELS / width).max(1));
    let bytes = (width * height * 3) as usize;
    let rgb = (0..bytes).map(|at| colour.wrapping_mul(at as u8)).collect();
    Picture::from_rgb(width, height, rgb).expect("it has all pixels")
}

fn chat(input: &Input, pictures: &[Picture], words: impl Fn(&str) -> String) -> Chat {
    let part = |piece: &Piece| match piece {
        Piece::Text(text) => Some(Part::Text(words(text))),
        Piece::Image(index) => {
            let index = usize::from(*index).checked_rem(pictures.len())?;
            Some(Part::Image(index))
        }
    };
    let message = |(role, pieces): &(usize, Vec<Piece>)| Message {
        role: ROLES[*role].to_owned(),
        parts: pieces.iter().filter_map(part).collect(),
        ..Message::default()
    };
    Chat {
        messages: input.messages.iter().map(message).collect(),
        ..Chat::default()
    }
}

fn controls(processor: &dyn Processor, tokens: &[u32]) -> Vec<u32> {
    let tokenizer = processor.tokenizer();
    let mut controls = tokens.to_vec();
    controls.retain(|id| is_control(tokenizer, *id));
    controls
}
