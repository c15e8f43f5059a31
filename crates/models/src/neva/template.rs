//! Conversations as NeMo's templates write them
//! (`nemo/collections/multimodal/data/neva/{conversation,neva_dataset}.py`, version 2.2).

use std::collections::BTreeMap;

use vlmd_text::{cut_at_mark, mark_end};

use crate::{Chat, Ending, Message, Part, PrepareError};

/// Ends a message, and stands before the next one's role.
pub(super) const SEPARATOR: &str = "<extra_id_1>";

/// Ends an answer in Llama's templates.
const END: &str = "<extra_id_7>";

/// What the models were trained with where a conversation has no system message.
const SYSTEM_CHAT: &str = "A chat between a curious user and an artificial intelligence \
    assistant. The assistant gives helpful, detailed, and polite answers to the user's questions.";
const SYSTEM_LLAMA: &str = "You are a helpful language and vision assistant. You are able to \
    understand the visual content that the user provides, and assist the user with a variety of \
    tasks using natural language.";

/// What an answer may be steered by (Dong et al. 2023), in the order of the label line, and the
/// values where a request does not say them.
const LABELS: [(&str, u8); 9] = [
    ("quality", 4),
    ("toxicity", 0),
    ("humor", 0),
    ("creativity", 0),
    ("helpfulness", 4),
    ("correctness", 4),
    ("coherence", 4),
    ("complexity", 4),
    ("verbosity", 4),
];

/// How a conversation is written down.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Template {
    /// `nv_steerlm` and `nvgpt`: a line of labels before each answer.
    SteerLm,
    /// `nv_dpo`.
    Dpo,
    /// `v1`: Vicuna's.
    Vicuna,
    /// `llama_2`.
    Llama2,
}

/// What a user said, and the answer.
struct Round {
    user: String,
    /// `None` for the answer that is to be made.
    assistant: Option<String>,
    labels: String,
}

impl Template {
    /// By the names in `data.conv_template`.
    pub(super) const NAMED: [(&str, Self); 5] = [
        ("nv_steerlm", Self::SteerLm),
        ("nvgpt", Self::SteerLm),
        ("nv_dpo", Self::Dpo),
        ("v1", Self::Vicuna),
        ("llama_2", Self::Llama2),
    ];

    /// Whether it was made for models with a tokenizer of Llama's.
    pub(super) fn is_llamas(self) -> bool {
        matches!(self, Self::Vicuna | Self::Llama2)
    }

    /// The prompt, up to where the answer begins or goes on. `image` stands for a picture;
    /// `written` is applied to all that users wrote.
    ///
    /// # Errors
    /// When the messages do not take turns, or labels are not the model's; for
    /// [`Ending::Message`], and where other messages than an assistant's are to be continued.
    pub(super) fn render(
        self,
        chat: &Chat,
        image: &str,
        written: impl Fn(&str) -> String,
    ) -> Result<String, PrepareError> {
        check(chat)?;
        let continued = chat.messages.last().filter(|_| chat.ending == Ending::Text);
        let words = |message: &Message| {
            let word = |part: &Part| match part {
                Part::Text(text) => written(text),
                Part::Image(_) => format!("{image}\n"),
            };
            let mut words = message.parts.iter().map(word).collect::<String>();
            if continued.is_some_and(|last| std::ptr::eq(last, message)) {
                mark_end(&mut words);
            }
            words
        };
        let (system, messages) = match chat.messages.as_slice() {
            [first, rest @ ..] if first.role == "system" => (words(first), rest),
            all => (String::new(), all),
        };
        let rounds = rounds(messages, words)?;
        let is_open = matches!(rounds.last(), Some(round) if round.assistant.is_none());
        if !is_open && continued.is_none() {
            return refused(
                "the last message must be a user's, or an assistant's without content, which may \
                 carry labels",
            );
        }
        let system = if system.is_empty() {
            match self {
                Self::SteerLm | Self::Vicuna => SYSTEM_CHAT.to_owned(),
                Self::Llama2 => SYSTEM_LLAMA.to_owned(),
                Self::Dpo => system,
            }
        } else {
            system
        };
        let prompt = match self {
            Self::SteerLm => nvidia(&format!("{system}\n\n"), &rounds, true),
            Self::Dpo => nvidia(&format!("{system}\n"), &rounds, false),
            Self::Vicuna => vicuna(&system, &rounds),
            Self::Llama2 => llama_2(&system, &rounds),
        };
        // The mark is there: it stands behind the last answer.
        let cut = continued.and_then(|_| cut_at_mark(&prompt));
        Ok(cut.map(str::to_owned).unwrap_or(prompt))
    }
}

/// Refuses prompts that end where no template of NeMo's can.
fn check(chat: &Chat) -> Result<(), PrepareError> {
    let is_answer = chat.messages.last().is_some_and(|m| m.role == "assistant");
    let problem = match chat.ending {
        Ending::Message => {
            "NeVA's templates write a user's message and the beginning of the answer in one"
        }
        Ending::Text if !is_answer => "NeVA continues messages of role `assistant` alone",
        Ending::Text | Ending::Answer => return Ok(()),
    };
    Err(PrepareError::Ending(problem.to_owned()))
}

fn refused<T>(reason: &str) -> Result<T, PrepareError> {
    Err(PrepareError::Template(reason.to_owned()))
}

/// Users' messages with their answers.
fn rounds(
    messages: &[Message],
    words: impl Fn(&Message) -> String,
) -> Result<Vec<Round>, PrepareError> {
    let mut rounds: Vec<Round> = Vec::new();
    for message in messages {
        let answered = rounds.last().is_none_or(|round| round.assistant.is_some());
        match message.role.as_str() {
            "user" if answered => rounds.push(Round {
                user: words(message),
                assistant: None,
                labels: labels(&BTreeMap::new())?,
            }),
            "assistant" => match rounds.last_mut() {
                Some(round) if !answered => {
                    round.labels = labels(&message.labels)?;
                    let said = words(message);
                    round.assistant = (!said.is_empty()).then_some(said);
                }
                _ => return refused("an assistant's message must follow a user's"),
            },
            "user" => return refused("a user's message must follow an assistant's answer"),
            "system" => return refused("a system message must be the first one"),
            other => {
                return refused(&format!(
                    "its roles are system, user and assistant, but a message has `{other}`"
                ));
            }
        }
    }
    Ok(rounds)
}

/// A line of labels; `given` replaces the usual values.
fn labels(given: &BTreeMap<String, u8>) -> Result<String, PrepareError> {
    if let Some(name) = given
        .keys()
        .find(|name| LABELS.iter().all(|(known, _)| known != name))
    {
        let known = LABELS.map(|(name, _)| name).join(", ");
        return Err(PrepareError::Template(format!(
            "`labels` must be of {known}, but one is `{name}`"
        )));
    }
    let value = |(name, usual): (&str, u8)| {
        let value = given.get(name).copied().unwrap_or(usual);
        format!("{name}:{value}")
    };
    Ok(LABELS.map(value).join(","))
}

/// `nv_steerlm`, with labels, and `nv_dpo`, without.
fn nvidia(system: &str, rounds: &[Round], labelled: bool) -> String {
    let mut text = format!("<extra_id_0>System\n{system}{SEPARATOR}");
    for round in rounds {
        text += &format!("User\n{}\n{SEPARATOR}Assistant\n", round.user);
        if labelled {
            text += &format!("<extra_id_2>{}\n", round.labels);
        }
        if let Some(answer) = &round.assistant {
            text += &format!("{answer}\n{SEPARATOR}");
        }
    }
    text
}

fn vicuna(system: &str, rounds: &[Round]) -> String {
    let mut text = format!("{system} ");
    for (index, round) in rounds.iter().enumerate() {
        let blank = if index == 0 { "" } else { " " };
        text += &format!("{blank}USER: {} ASSISTANT:", round.user);
        if let Some(answer) = &round.assistant {
            text += &format!(" {answer}{END}");
        }
    }
    text
}

/// The first beginning-of-sequence mark is missing in NeMo, too; the blank behind it is not.
fn llama_2(system: &str, rounds: &[Round]) -> String {
    let mut text = String::new();
    for (index, round) in rounds.iter().enumerate() {
        if index == 0 {
            text += &format!(" [INST] <<SYS>>\n{system}\n<</SYS>>\n\n");
        } else {
            text += "<extra_id_6> [INST] ";
        }
        text += &format!("{} [/INST]", round.user);
        if let Some(answer) = &round.assistant {
            text += &format!(" {answer} {END}");
        }
    }
    text
}
