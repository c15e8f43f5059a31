"""Conversations with tools, for chat templates that carry them."""

import json

from conversations import assistant, system, user

LOOK = {
    "type": "function",
    "function": {
        "name": "look_closer",
        "description": "Cuts a piece out of the picture & shows it in full size.",
        "parameters": {
            "type": "object",
            "properties": {
                "left": {"type": "number", "minimum": 0, "maximum": 1.0},
                "what": {"type": "string", "enum": ["a sign", "größe", "日本"]},
            },
            "required": ["left"],
        },
    },
}
TIME = {"type": "function", "function": {"name": "time", "description": "Now, in UTC."}}


def call(name, **arguments):
    """An assistant's message that calls a function and says nothing."""
    function = {"name": name, "arguments": arguments}
    return {
        "role": "assistant",
        "content": "",
        "tool_calls": [{"id": f"call-{name}", "type": "function", "function": function}],
    }


def result(name, content):
    """What the function gave."""
    return {"role": "tool", "tool_call_id": f"call-{name}", "name": name, "content": content}


def plain(message):
    """The message with its only part as a string, as templates for tools want it."""
    return {**message, "content": message["content"][0]["text"]}


ASK = plain(user("  What is on the sign?\n"))
TALK = [
    plain(system("You are terse.")),
    ASK,
    call("look_closer", left=0.25, what="größe \"x\" <b>"),
    result("look_closer", "{\"text\": \"Halt\"}\n日本"),
    plain(assistant("It says Halt.")),
    plain(user("What time is it?")),
    call("time"),
    result("time", "12:00"),
]

# name, messages, tools, arguments for the template
CASES = [
    ("one_tool", [ASK], [LOOK], {}),
    ("two_tools_and_system", TALK[:2], [LOOK, TIME], {}),
    ("in_the_system_message", TALK[:2], [LOOK, TIME], {"tools_in_user_message": False}),
    ("call_and_result", TALK[:4], [LOOK], {}),
    ("whole_talk", TALK, [LOOK, TIME], {}),
    ("calls_without_tools", TALK, None, {}),
]


def make(path, tokenizer, template, **kwargs):
    """Writes the cases as transformers renders and tokenises them."""
    cases = []
    for name, messages, tools, more in CASES:
        options = {
            "tools": tools,
            "chat_template": template,
            "add_generation_prompt": True,
            **kwargs,
            **more,
        }
        cases.append(
            {
                "name": name,
                "messages": messages,
                "tools": tools or [],
                "template_kwargs": {**kwargs, **more},
                "prompt": tokenizer.apply_chat_template(messages, tokenize=False, **options),
                "input_ids": tokenizer.apply_chat_template(messages, tokenize=True, **options),
            }
        )
    # Unsorted: the order of a tool's fields is part of the prompt.
    lines = ",\n".join(json.dumps(case, ensure_ascii=False) for case in cases)
    path.write_text(f'{{"cases": [\n{lines}\n]}}\n', encoding="utf-8")
