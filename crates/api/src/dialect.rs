//! What the dialects beside OpenAI's chat share: a conversation is put together as a chat request,
//! so that one set of rules holds for all, and its errors name the fields of the dialect.

use std::collections::BTreeMap;

use serde_json::{Map, Value};

use crate::reader::Fields;
use crate::{ChatRequest, RequestError};

/// Settings that chat has and a dialect has not, taken under chat's names: of vLLM and vlmd.
const EXTRAS: [&str; 8] = [
    "cache_salt",
    "chat_template_kwargs",
    "frequency_penalty",
    "min_p",
    "presence_penalty",
    "priority",
    "repetition_penalty",
    "seed",
];

/// What the fields of a [`ChatRequest`] are called in the request that it was made from.
///
/// ```
/// # use vlmd_api::FieldNames;
/// let mut names = FieldNames::default();
/// names.add("messages[1]", "messages[0]");
/// names.add("messages[1].content[0].image_url", "messages[0].content[2].source");
/// assert_eq!(names.of("messages[1].content[0].image_url.url"), "messages[0].content[2].source.url");
/// assert_eq!(names.of("messages[1].role"), "messages[0].role");
/// assert_eq!(names.of("temperature"), "temperature");
/// ```
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct FieldNames(BTreeMap<String, String>);

impl FieldNames {
    /// The field `chat` and all within it came from `own`.
    pub fn add(&mut self, chat: impl Into<String>, own: impl Into<String>) {
        self.0.insert(chat.into(), own.into());
    }

    /// Takes in others.
    pub(crate) fn extend(&mut self, others: Self) {
        self.0.extend(others.0);
    }

    /// The name of the field `chat`: that of the longest part of its path that has one.
    #[must_use]
    pub fn of(&self, chat: &str) -> String {
        let mut end = chat.len();
        loop {
            let (head, rest) = chat.split_at(end);
            if let Some(own) = self.0.get(head) {
                return format!("{own}{rest}");
            }
            match head.rfind(['.', '[']) {
                Some(cut) => end = cut,
                None => return chat.to_owned(),
            }
        }
    }
}

/// A chat request and what it is made from.
#[derive(Debug, Clone, PartialEq)]
pub struct Translated {
    /// The request.
    pub chat: ChatRequest,
    /// What its fields are called where it came from.
    pub names: FieldNames,
}

impl Translated {
    /// Reads and checks a chat request, and says what is wrong with it in terms of `names`.
    pub(crate) fn read(chat: Map<String, Value>, names: FieldNames) -> Result<Self, RequestError> {
        match ChatRequest::from_value(Value::Object(chat)) {
            Ok(chat) => Ok(Self { chat, names }),
            Err(error) => Err(error.renamed(&names)),
        }
    }
}

/// Moves the fields that chat has under the same name.
pub(crate) fn take_extras(fields: &mut Fields, chat: &mut Map<String, Value>) {
    take(fields, chat, &EXTRAS);
}

/// Moves fields as they are; chat's reader checks them.
pub(crate) fn take(fields: &mut Fields, chat: &mut Map<String, Value>, names: &[&str]) {
    for name in names {
        if let Some(value) = fields.take(name) {
            chat.insert((*name).to_owned(), value);
        }
    }
}

/// An object of these fields, which are moved: pictures are too large to be copied.
pub(crate) fn object<const N: usize>(fields: [(&str, Value); N]) -> Value {
    let fields = fields.map(|(name, value)| (name.to_owned(), value));
    Value::Object(Map::from_iter(fields))
}

/// A picture on its way into a chat message.
#[derive(Debug)]
pub(crate) struct Shown {
    /// A `data:` URI or a URL.
    pub(crate) url: String,
    /// OpenAI's `detail`.
    pub(crate) detail: Option<String>,
    /// Path of its data in the dialect's request.
    pub(crate) field: String,
    /// Path of the part that shows it.
    pub(crate) part: String,
}

/// A call in the conversation so far.
#[derive(Debug)]
pub(crate) struct Called {
    pub(crate) id: Option<String>,
    pub(crate) name: String,
    /// An object, or its JSON in a string.
    pub(crate) arguments: Value,
    /// Path of the call in the dialect's request.
    pub(crate) field: String,
    /// Name of the field with the arguments.
    pub(crate) arguments_name: &'static str,
}

/// The messages of a chat request, put together one after the other.
///
/// Turns of one speaker in a row become one message: templates of many models know no others.
/// Pictures in the result of a tool are shown in the user's message after it, before what the
/// user says and shows: no template has a place for them in a result.
#[derive(Debug, Default)]
pub(crate) struct Conversation {
    messages: Vec<Message>,
    names: FieldNames,
    /// Of results, until a user's message takes them.
    pending: Vec<Shown>,
}

#[derive(Debug)]
struct Message {
    role: &'static str,
    content: Vec<Value>,
    calls: Vec<Value>,
    call_id: Option<String>,
}

impl Conversation {
    /// Begins what `role` says at `path`.
    pub(crate) fn begin(&mut self, role: &'static str, path: &str) {
        if role != "user" {
            self.show_pending(path);
        }
        self.turn(role, path);
        for shown in std::mem::take(&mut self.pending) {
            self.show(shown);
        }
    }

    /// Adds text to the message that was begun last.
    pub(crate) fn say(&mut self, text: String) {
        if let Some(message) = self.messages.last_mut() {
            let part = [("type", "text".into()), ("text", text.into())];
            message.content.push(object(part));
        }
    }

    /// Adds a picture to the message that was begun last.
    pub(crate) fn show(&mut self, shown: Shown) {
        let index = self.messages.len().saturating_sub(1);
        let Some(message) = self.messages.last_mut() else {
            return;
        };
        let part = message.content.len();
        let path = format!("messages[{index}].content[{part}]");
        self.names.add(format!("{path}.image_url.url"), shown.field);
        self.names.add(path, shown.part);
        let image_url = [("url", shown.url.into()), ("detail", shown.detail.into())];
        message.content.push(object([
            ("type", "image_url".into()),
            ("image_url", object(image_url)),
        ]));
    }

    /// Adds a call to the assistant's message that was begun last.
    pub(crate) fn call(&mut self, called: Called) {
        let index = self.messages.len().saturating_sub(1);
        let Some(message) = self.messages.last_mut() else {
            return;
        };
        let path = format!("messages[{index}].tool_calls");
        if message.calls.is_empty() {
            self.names.add(path.as_str(), called.field.as_str());
        }
        let function = format!("{path}[{}].function", message.calls.len());
        let arguments = format!("{}.{}", called.field, called.arguments_name);
        self.names.add(format!("{function}.arguments"), arguments);
        self.names.add(function, called.field);
        let function = [
            ("name", called.name.into()),
            ("arguments", called.arguments),
        ];
        message.calls.push(object([
            ("id", called.id.into()),
            ("type", "function".into()),
            ("function", object(function)),
        ]));
    }

    /// Adds what a tool gave back for the call `id`.
    pub(crate) fn result(&mut self, id: String, texts: Vec<String>, shown: Vec<Shown>, path: &str) {
        self.push("tool", path);
        for text in texts {
            self.say(text);
        }
        if let Some(message) = self.messages.last_mut() {
            message.call_id = Some(id);
        }
        self.pending.extend(shown);
    }

    /// Whether the last message is the assistant's.
    pub(crate) fn ends_with_assistant(&self) -> bool {
        self.pending.is_empty()
            && self
                .messages
                .last()
                .is_some_and(|message| message.role == "assistant")
    }

    /// Whether the last message calls tools.
    pub(crate) fn ends_with_calls(&self) -> bool {
        let last = self.messages.last();
        last.is_some_and(|message| !message.calls.is_empty())
    }

    /// Puts the messages into the chat request.
    pub(crate) fn finish(mut self, chat: &mut Map<String, Value>) -> FieldNames {
        self.show_pending("");
        let messages = self.messages.into_iter().map(Message::into_value);
        chat.insert("messages".into(), messages.collect());
        self.names
    }

    /// Shows what no message of the user's has taken.
    fn show_pending(&mut self, path: &str) {
        if self.pending.is_empty() {
            return;
        }
        self.turn("user", path);
        for shown in std::mem::take(&mut self.pending) {
            self.show(shown);
        }
    }

    fn turn(&mut self, role: &'static str, path: &str) {
        let goes_on = matches!(role, "user" | "assistant")
            && self
                .messages
                .last()
                .is_some_and(|message| message.role == role);
        if !goes_on {
            self.push(role, path);
        }
    }

    fn push(&mut self, role: &'static str, path: &str) {
        self.names
            .add(format!("messages[{}]", self.messages.len()), path);
        self.messages.push(Message {
            role,
            content: Vec::new(),
            calls: Vec::new(),
            call_id: None,
        });
    }
}

impl Message {
    fn into_value(self) -> Value {
        let content = if self.content.is_empty() {
            Value::from("")
        } else {
            Value::Array(self.content)
        };
        object([
            ("role", self.role.into()),
            ("content", content),
            ("tool_calls", self.calls.into()),
            ("tool_call_id", self.call_id.into()),
        ])
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn shown(url: &str) -> Shown {
        Shown {
            url: url.into(),
            detail: None,
            field: format!("at.{url}"),
            part: "at".into(),
        }
    }

    fn finish(talk: Conversation) -> (Value, FieldNames) {
        let mut chat = Map::new();
        let names = talk.finish(&mut chat);
        (chat.remove("messages").unwrap(), names)
    }

    #[test]
    fn turns_of_one_speaker_are_one_message() {
        let mut talk = Conversation::default();
        for (role, text) in [("user", "a"), ("user", "b"), ("assistant", "c")] {
            talk.begin(role, "x");
            talk.say(text.into());
        }
        assert!(talk.ends_with_assistant());
        let (messages, _) = finish(talk);
        assert_eq!(messages.as_array().unwrap().len(), 2);
        let [a, b, c] = ["a", "b", "c"].map(|text| json!({"type": "text", "text": text}));
        assert_eq!(messages[0]["role"], "user");
        assert_eq!(messages[0]["content"], json!([a, b]));
        assert_eq!(messages[1]["role"], "assistant");
        assert_eq!(messages[1]["content"], json!([c]));
    }

    #[test]
    fn pictures_of_results_are_shown_after_them_in_any_company() {
        for (next, texts) in [(None, vec![]), (Some("user"), vec!["b"])] {
            let mut talk = Conversation::default();
            talk.result("1".into(), vec!["a".into()], vec![shown("p")], "x[0]");
            talk.result("2".into(), vec![], vec![shown("q")], "x[1]");
            if let Some(next) = next {
                talk.begin(next, "x[2]");
                talk.say("b".into());
            }
            let (messages, names) = finish(talk);
            assert_eq!(messages[0]["tool_call_id"], "1");
            assert_eq!(messages[1]["content"], "");
            let content = messages[2]["content"].as_array().unwrap();
            assert_eq!(content.len(), 2 + texts.len());
            assert_eq!(content[1]["image_url"]["url"], "q");
            assert_eq!(names.of("messages[2].content[1].image_url.url"), "at.q");
        }
        let mut talk = Conversation::default();
        talk.result("1".into(), vec![], vec![shown("p")], "x[0]");
        talk.begin("assistant", "x[1]");
        let (messages, _) = finish(talk);
        assert_eq!(messages[1]["role"], "user");
        assert_eq!(messages[2]["role"], "assistant");
    }
}
