//! `functions` and `function_call`: tools under the names that OpenAI gave them first, and which
//! its reference calls deprecated. A request has one or the other.

use std::collections::VecDeque;

use serde_json::{Map, Value, json};

use super::read::{self, ToolFields};
use super::{FUNCTION, Function, FunctionChoice, PastCall, ToolChoice, ToolMode};
use crate::reader::{Fields, wrong_type};
use crate::{FieldNames, Message, RequestError, Role};

const CHOICE: &str = "function_call";
const FUNCTIONS: &str = "functions";

/// The fields of a request that are about functions.
#[derive(Debug, Default)]
pub(crate) struct FunctionFields {
    pub(crate) functions: Vec<Function>,
    pub(crate) choice: Option<FunctionChoice>,
    tools: ToolFields,
}

impl FunctionFields {
    /// Takes them out of a request; `None` where it has no functions.
    pub(crate) fn read(fields: &mut Fields) -> Result<Option<Self>, RequestError> {
        let functions = fields.array(FUNCTIONS)?.unwrap_or_default();
        let choice = fields.take(CHOICE);
        let conflict = |field: &str, problem: &str| RequestError::Conflict {
            field: field.to_owned(),
            problem: problem.to_owned(),
        };
        if functions.is_empty() {
            return match choice.as_ref() {
                None => Ok(None),
                // What clients send that have none.
                Some(mode) if mode == "none" || mode == "auto" => Ok(None),
                Some(_) => Err(conflict(
                    CHOICE,
                    "is only allowed where `functions` are given",
                )),
            };
        }
        if fields.peek("tools").is_some() || fields.peek("tool_choice").is_some() {
            let problem = "cannot be given beside `tools` and `tool_choice`, of which it is the \
                           older name";
            return Err(conflict(FUNCTIONS, problem));
        }
        let mut names = FieldNames::default();
        names.add("tools", FUNCTIONS);
        names.add("tool_choice", CHOICE);
        names.add("tool_choice.function", CHOICE);
        let mut tool = |(index, function): (usize, Value)| {
            let own = format!("{FUNCTIONS}[{index}]");
            names.add(format!("tools[{index}].{FUNCTION}"), own);
            json!({"type": FUNCTION, FUNCTION: function})
        };
        let tools: Value = functions.into_iter().enumerate().map(&mut tool).collect();
        let mut newer = Map::from_iter([("tools".to_owned(), tools)]);
        if let Some(choice) = choice {
            newer.insert("tool_choice".to_owned(), newer_choice(choice)?);
        }
        let newer = Fields::new(Value::Object(newer), String::new());
        let tools = newer.and_then(|mut newer| ToolFields::read(&mut newer));
        let tools = tools.map_err(|error| error.renamed(&names))?;
        Ok(Some(Self {
            functions: tools.tools.iter().map(|t| t.function.clone()).collect(),
            choice: tools.choice.as_ref().and_then(older_choice),
            tools,
        }))
    }

    /// The same as tools, of which an answer calls one at most.
    pub(crate) fn as_tools(&self) -> ToolFields {
        ToolFields {
            parallel: Some(false),
            ..self.tools.clone()
        }
    }
}

fn newer_choice(choice: Value) -> Result<Value, RequestError> {
    match choice {
        Value::String(mode) if mode == "none" || mode == "auto" => Ok(mode.into()),
        named @ Value::Object(_) => Ok(json!({"type": FUNCTION, FUNCTION: named})),
        other => Err(wrong_type(
            CHOICE.to_owned(),
            "`none`, `auto` or an object that names a function",
            &other,
        )),
    }
}

fn older_choice(choice: &ToolChoice) -> Option<FunctionChoice> {
    match choice {
        ToolChoice::Mode(mode @ (ToolMode::None | ToolMode::Auto)) => {
            Some(FunctionChoice::Mode(*mode))
        }
        ToolChoice::Function(named) => Some(FunctionChoice::Function(named.function.clone())),
        ToolChoice::Mode(ToolMode::Required) | ToolChoice::Allowed(_) => None,
    }
}

/// Reads the `tool_calls` of a message, or its `function_call`.
pub(crate) fn read_calls(fields: &mut Fields) -> Result<Vec<PastCall>, RequestError> {
    let calls = read::read_past(fields)?;
    let path = fields.at(CHOICE);
    let Some(call) = fields.take(CHOICE) else {
        return Ok(calls);
    };
    if !calls.is_empty() {
        return Err(RequestError::Conflict {
            field: path,
            problem: "cannot be given beside `tool_calls`, of which it is the older name".into(),
        });
    }
    let mut names = FieldNames::default();
    names.add(format!("{path}.{FUNCTION}"), path.as_str());
    let call = PastCall::read(json!({ FUNCTION: call }), &path);
    call.map(|call| vec![call])
        .map_err(|error| error.renamed(&names))
}

/// Gives an id to calls that have none, as those of `function_call`, and to the messages that
/// answer them: some templates insist, Mistral's on nine letters and digits.
pub(crate) fn name_calls(messages: &mut [Message]) {
    let mut open = VecDeque::new();
    let mut ids = (1..).map(|number: usize| format!("call{number:05}"));
    for message in messages {
        if message.role == Role::Tool && message.tool_call_id.is_none() {
            message.tool_call_id = open.pop_front();
        }
        for call in message
            .tool_calls
            .iter_mut()
            .filter(|call| call.id.is_none())
        {
            call.id = ids.next();
            open.extend(call.id.clone());
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ChatRequest;

    fn read(more: &Value) -> Result<ChatRequest, RequestError> {
        let mut body = json!({"model": "m", "messages": [{"role": "user", "content": "x"}]});
        for (name, value) in more.as_object().unwrap() {
            body[name] = value.clone();
        }
        ChatRequest::from_value(body)
    }

    fn look() -> Value {
        json!({"name": "look", "parameters": {"type": "object"}})
    }

    #[test]
    fn functions_are_tools_of_which_one_is_called() {
        let request = read(&json!({"functions": [look()], "function_call": "auto"})).unwrap();
        assert!(request.speaks_of_functions());
        assert_eq!(request.tools[0].function.name, "look");
        assert_eq!(request.tools[0].definition["function"], look());
        assert_eq!(request.parallel_tool_calls, Some(false));
        let named = json!({"functions": [look()], "function_call": {"name": "look"}});
        assert!(read(&named).unwrap().must_call());
        let silent = json!({"functions": [look()], "function_call": "none"});
        assert!(read(&silent).unwrap().usable_tools().is_empty());
        for none in [
            json!({"functions": [], "function_call": "none"}),
            json!({"functions": null, "function_call": "auto", "tools": []}),
        ] {
            assert!(!read(&none).unwrap().speaks_of_functions(), "{none}");
        }
    }

    #[test]
    fn what_is_wrong_has_its_older_name() {
        for (more, field) in [
            (json!({"functions": {}}), "functions"),
            (json!({"functions": [{}]}), "functions[0].name"),
            (json!({"functions": [7]}), "functions[0]"),
            (json!({"functions": [look(), look()]}), "functions[1].name"),
            (
                json!({"functions": [look()], "function_call": "required"}),
                "function_call",
            ),
            (
                json!({"functions": [look()], "function_call": {"name": "sing"}}),
                "function_call.name",
            ),
            (json!({"function_call": {"name": "look"}}), "function_call"),
            (
                json!({"functions": [look()], "tools": [{"type": "function", "function": look()}]}),
                "functions",
            ),
            (
                json!({"messages": [{"role": "assistant", "function_call": {"name": "look",
                    "arguments": "["}}]}),
                "messages[0].function_call.arguments",
            ),
            (
                json!({"messages": [{"role": "user", "content": "x",
                    "function_call": {"name": "look", "arguments": "{}"}}]}),
                "messages[0].tool_calls",
            ),
        ] {
            let error = read(&more).unwrap_err();
            assert_eq!(error.param(), Some(field), "{more}: {error}");
        }
    }

    #[test]
    fn past_calls_and_their_results_find_each_other() {
        let request = read(&json!({"messages": [
            {"role": "user", "content": "x"},
            {"role": "assistant", "content": null,
                "function_call": {"name": "look", "arguments": "{\"at\": 1}"}},
            {"role": "function", "name": "look", "content": "a cat"},
            {"role": "function", "name": "look", "content": "nobody asked"},
        ]}))
        .unwrap();
        let call = &request.messages[1].tool_calls[0];
        assert_eq!(call.function.arguments["at"], 1);
        assert_eq!(call.id.as_deref(), Some("call00001"));
        assert_eq!(request.messages[2].tool_call_id, call.id);
        assert_eq!(request.messages[3].tool_call_id, None);
    }
}
