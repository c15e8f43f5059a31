"""Drives a running vlmd with Anthropic's official Python client.

usage: anthropic_python.py BASE_URL PICTURE PICTURE_URL TOOLS_URL

Messages, streaming, a picture in base64 and by URL, counting tokens, tools of the server at
TOOLS_URL (whose model calls them), and the client's own error classes.
"""

import base64
import json
import sys
import urllib.request

import anthropic

base_url, picture, picture_url, tools_url = sys.argv[1:5]


def connect(url):
    client = anthropic.Anthropic(base_url=url, api_key="not-used", max_retries=0)
    with urllib.request.urlopen(f"{url}/v1/models") as response:
        return client, json.load(response)["data"][0]["id"]


client, model = connect(base_url)
with open(picture, "rb") as file:
    data = base64.b64encode(file.read()).decode()
shown = {"type": "base64", "media_type": "image/png", "data": data}


def ask(source, question="Describe the picture."):
    image = {"type": "image", "source": source, "cache_control": {"type": "ephemeral"}}
    return [{"role": "user", "content": [image, {"type": "text", "text": question}]}]


def expect(error, call, kind, *words):
    """`call` must raise `error`, in Anthropic's envelope."""
    try:
        call()
    except error as raised:
        assert raised.body["type"] == "error" and raised.body["error"]["type"] == kind, raised.body
        assert raised.request_id and raised.body["request_id"] == raised.request_id
        for word in words:
            assert word in raised.body["error"]["message"], raised.body
        return
    raise AssertionError(f"{error.__name__} expected")


# The client no longer has `temperature` among its arguments; the wire does.
request = {"model": model, "max_tokens": 64, "extra_body": {"temperature": 0}}

# Whole answers, the picture sent both ways.
whole = client.messages.create(messages=ask(shown), **request)
(block,) = whole.content
assert block.type == "text" and block.text, whole
assert whole.type == "message" and whole.role == "assistant" and whole.model == model
assert whole.stop_reason == "end_turn" and whole.stop_sequence is None, whole
assert whole.usage.input_tokens > 0 and whole.usage.output_tokens > 0
by_url = client.messages.create(messages=ask({"type": "url", "url": picture_url}), **request)
assert by_url.content[0].text == block.text and by_url.usage == whole.usage, by_url

# The same answer, streamed: by the accumulating helper, and event by event.
with client.messages.stream(messages=ask(shown), **request) as stream:
    text = "".join(stream.text_stream)
    final = stream.get_final_message()
assert text == block.text == final.content[0].text, final
assert final.usage.output_tokens == whole.usage.output_tokens
assert final.stop_reason == "end_turn", final
names = [event.type for event in client.messages.create(messages=ask(shown), stream=True, **request)]
assert names[0] == "message_start" and names[-2:] == ["message_delta", "message_stop"], names
assert names.count("content_block_start") == names.count("content_block_stop") == 1, names

# A limit, a stop sequence, system prompts, earlier turns.
short = client.messages.create(messages=ask(shown), **{**request, "max_tokens": 2})
assert short.stop_reason == "max_tokens" and short.usage.output_tokens == 2, short
word = block.text.split()[1]
stopped = client.messages.create(messages=ask(shown), stop_sequences=[word], **request)
assert stopped.stop_reason == "stop_sequence" and stopped.stop_sequence == word, stopped
assert stopped.content[0].text == block.text[: block.text.index(word)], stopped
talk = [*ask(shown), {"role": "assistant", "content": whole.content}, {"role": "user", "content": "And?"}]
later = client.messages.create(
    messages=talk, system=[{"type": "text", "text": "Be brief."}], metadata={"user_id": "u"}, **request
)
assert later.usage.input_tokens > whole.usage.input_tokens, later

counted = client.messages.count_tokens(model=model, messages=ask(shown))
assert counted.input_tokens == whole.usage.input_tokens, counted

# Errors arrive as the classes that applications catch.
create = client.messages.create
hello = [{"role": "user", "content": "Hello"}]
named = {**request, "model": "no/such-model"}
expect(anthropic.NotFoundError, lambda: create(messages=hello, **named), "not_found_error", "no/such-model")
hot = {**request, "extra_body": {"temperature": 1.5}}
bad = "invalid_request_error"
expect(anthropic.BadRequestError, lambda: create(messages=hello, **hot), bad, "`temperature`", "1.5")
broken = {**shown, "data": "iVBORw0KGgo="}
field = "`messages[0].content[0].source.data`"
expect(anthropic.BadRequestError, lambda: create(messages=ask(broken), **request), bad, field)
expect(anthropic.BadRequestError, lambda: create(messages=[], **request), bad, "`messages`")

# Tools: the call that must be, whole and streamed, and the tool's result.
caller, calling = connect(tools_url)
schema = {
    "type": "object",
    "properties": {"city": {"type": "string", "enum": ["Köln", "Porto"]}},
    "required": ["city"],
    "additionalProperties": False,
}
request = {
    "model": calling,
    "max_tokens": 200,
    "tools": [{"name": "forecast", "description": "The weather.", "input_schema": schema}],
    "extra_body": {"seed": 1},
}
asked = [{"role": "user", "content": "How will the weather be in Porto?"}]
choice = {"type": "tool", "name": "forecast"}
answer = caller.messages.create(messages=asked, tool_choice=choice, **request)
(call,) = answer.content
assert answer.stop_reason == "tool_use" and call.type == "tool_use", answer
assert call.name == "forecast" and call.input["city"] in ["Köln", "Porto"], call
with caller.messages.stream(messages=asked, tool_choice=choice, **request) as stream:
    (again,) = stream.get_final_message().content
assert again.input == call.input, again
result = {"type": "tool_result", "tool_use_id": call.id, "content": [{"type": "text", "text": "Rain."}]}
talk = [*asked, {"role": "assistant", "content": answer.content}, {"role": "user", "content": [result]}]
last = caller.messages.create(
    messages=talk, tool_choice={"type": "none"}, **{**request, "max_tokens": 4}
)
assert last.content[0].type == "text", last

print(f"anthropic-python {anthropic.__version__}: {block.text!r}, {call.name}({call.input})")
