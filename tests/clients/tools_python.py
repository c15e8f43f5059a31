"""Calls tools of a running vlmd with the official Python client.

usage: tools_python.py BASE_URL

For a model whose chat template carries tools: the call that must be, whole and streamed, and the
tool's answer.
"""

import json
import sys

import openai

client = openai.OpenAI(base_url=f"{sys.argv[1]}/v1", api_key="not-used", max_retries=0)
model = client.models.list().data[0].id
create = client.chat.completions.create

parameters = {
    "type": "object",
    "properties": {
        "city": {"type": "string", "enum": ["Köln", "Porto"]},
        "days": {"type": "integer", "minimum": 1, "maximum": 7},
    },
    "required": ["city", "days"],
    "additionalProperties": False,
}
forecast = {"name": "forecast", "description": "The weather.", "parameters": parameters}
tools = [{"type": "function", "function": forecast}, {"type": "function", "function": {"name": "now"}}]
named = {"type": "function", "function": {"name": "forecast"}}
messages = [{"role": "user", "content": "How will the weather be in Porto?"}]
request = {"model": model, "tools": tools, "seed": 1, "max_tokens": 200}


def check(call):
    """The call is one of `forecast` with arguments as they must be."""
    assert call.type == "function" and call.function.name == "forecast", call
    arguments = json.loads(call.function.arguments)
    assert arguments["city"] in ["Köln", "Porto"] and 1 <= arguments["days"] <= 7, arguments
    assert set(arguments) == {"city", "days"}, arguments


whole = create(messages=messages, tool_choice=named, **request)
choice = whole.choices[0]
assert choice.finish_reason == "tool_calls" and choice.message.content is None, whole
(call,) = choice.message.tool_calls
check(call)

# The same call, streamed and put together by the client's own helper.
with client.chat.completions.stream(messages=messages, tool_choice=named, **request) as stream:
    final = stream.get_final_completion().choices[0]
assert final.finish_reason == "tool_calls", final
(again,) = final.message.tool_calls
assert again.function.arguments == call.function.arguments, again

required = create(messages=messages, tool_choice="required", n=2, **request)
for choice in required.choices:
    assert choice.message.tool_calls[0].function.name in ["forecast", "now"], choice

# The tool's answer comes back.
result = {"role": "tool", "tool_call_id": call.id, "content": "Rain."}
talk = [*messages, whole.choices[0].message, result]
last = create(messages=talk, tool_choice="none", **{**request, "max_tokens": 4})
assert last.choices[0].message.content is not None and not last.choices[0].message.tool_calls, last

try:
    create(messages=messages, tool_choice={**named, "function": {"name": "sing"}}, **request)
except openai.BadRequestError as error:
    assert error.param == "tool_choice.function.name", error
else:
    raise AssertionError("a function that is not there")

print(f"openai-python {openai.__version__}: {call.function.name}({call.function.arguments})")
