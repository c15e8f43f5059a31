"""Drives the Responses API of a running vlmd with the official OpenAI client.

usage: responses_python.py BASE_URL PICTURE TOOLS_URL

Responses whole and streamed, a picture, what is kept of them, going on from them, in the
background, a schema, tools of the server at TOOLS_URL (whose model calls them), and errors.
"""

import base64
import json
import sys
import time
from typing import Literal

import openai
from openai.types.responses import Response
from pydantic import BaseModel

base_url, picture, tools_url = sys.argv[1:4]


def connect(url):
    client = openai.OpenAI(base_url=f"{url}/v1", api_key="not-used", max_retries=0)
    return client, client.models.list().data[0].id


client, model = connect(base_url)
with open(picture, "rb") as file:
    data_uri = "data:image/png;base64," + base64.b64encode(file.read()).decode()


def ask(question="Describe the picture."):
    image = {"type": "input_image", "image_url": data_uri, "detail": "auto"}
    return [{"role": "user", "content": [image, {"type": "input_text", "text": question}]}]


def expect(error, call, status, param):
    """`call` must raise `error`, which names the field `param`."""
    try:
        call()
    except error as raised:
        assert raised.status_code == status and raised.param == param, raised
        return
    raise AssertionError(f"{error.__name__} expected")


def check(response):
    """Everything that the client's own types ask for is there."""
    Response.model_validate(response.to_dict())


# A whole response, with everything that it repeats.
whole = client.responses.create(
    model=model, input=ask(), temperature=0, metadata={"run": "7"}, instructions=None
)
check(whole)
assert whole.id.startswith("resp_") and whole.status == "completed", whole
assert whole.output_text and whole.output[0].role == "assistant", whole
assert whole.metadata == {"run": "7"} and whole.temperature == 0, whole
assert whole.usage.total_tokens == whole.usage.input_tokens + whole.usage.output_tokens
assert client.responses.retrieve(whole.id) == whole
chat = client.chat.completions.create(
    model=model,
    temperature=0,
    messages=[
        {
            "role": "user",
            "content": [
                {"type": "image_url", "image_url": {"url": data_uri}},
                {"type": "text", "text": "Describe the picture."},
            ],
        }
    ],
)
assert chat.choices[0].message.content == whole.output_text, chat
assert chat.usage.prompt_tokens == whole.usage.input_tokens

# The same, streamed: event by event, and by the accumulating helper.
events = list(client.responses.create(model=model, input=ask(), temperature=0, stream=True))
assert [event.sequence_number for event in events] == list(range(len(events)))
names = [event.type for event in events]
assert names[:2] == ["response.created", "response.in_progress"], names
assert names[-1] == "response.completed", names
deltas = [event.delta for event in events if event.type == "response.output_text.delta"]
assert "".join(deltas) == whole.output_text, deltas
with client.responses.stream(model=model, input=ask(), temperature=0) as stream:
    final = stream.get_final_response()
assert final.output_text == whole.output_text, final

# Going on: the picture is remembered with the conversation.
later = client.responses.create(
    model=model, input="And now?", previous_response_id=whole.id, temperature=0
)
again = client.responses.create(
    model=model,
    input=[*ask(), *whole.output, {"role": "user", "content": "And now?"}],
    temperature=0,
)
assert later.output_text == again.output_text and later.usage == again.usage, later
assert later.previous_response_id == whole.id

# A schema, by the client's own parser.
class Shape(BaseModel):
    colour: Literal["red", "green", "blue"]
    corners: Literal[3, 4, 5]


parsed = client.responses.parse(model=model, input="Hello", text_format=Shape, temperature=0)
assert isinstance(parsed.output_parsed, Shape), parsed

# Log probabilities, a limit.
scored = client.responses.create(
    model=model,
    input=ask(),
    temperature=0,
    max_output_tokens=3,
    include=["message.output_text.logprobs"],
    top_logprobs=2,
)
check(scored)
assert scored.status == "incomplete", scored
assert scored.incomplete_details.reason == "max_output_tokens", scored
logprobs = scored.output[0].content[0].logprobs
assert len(logprobs) == 3 and all(len(token.top_logprobs) == 2 for token in logprobs), logprobs

# In the background, and forgotten.
begun = client.responses.create(model=model, input="Hello", background=True)
check(begun)
for _ in range(600):
    if (ended := client.responses.retrieve(begun.id)).status != "in_progress":
        break
    time.sleep(0.1)
assert ended.status == "completed" and ended.output_text, ended
assert client.responses.cancel(begun.id).status == "completed"
client.responses.delete(begun.id)
expect(openai.NotFoundError, lambda: client.responses.retrieve(begun.id), 404, None)
counted = client.responses.input_tokens.count(model=model, input=ask())
assert counted.input_tokens == whole.usage.input_tokens, counted

# Errors arrive as the classes that applications catch.
create = client.responses.create
expect(openai.NotFoundError, lambda: create(model="no/such-model", input="a"), 404, "model")
expect(openai.BadRequestError, lambda: create(model=model, input="a", top_p=2), 400, "top_p")
gone = lambda: create(model=model, input="a", previous_response_id="resp_0")
expect(openai.BadRequestError, gone, 400, "previous_response_id")
filed = [{"role": "user", "content": [{"type": "input_image", "file_id": "f", "detail": "auto"}]}]
unknown = lambda: create(model=model, input=filed)
expect(openai.BadRequestError, unknown, 400, "input[0].content[0].file_id")

# Tools.
caller, calling = connect(tools_url)
schema = {
    "type": "object",
    "properties": {"city": {"type": "string", "enum": ["Köln", "Porto"]}},
    "required": ["city"],
    "additionalProperties": False,
}
tool = {"type": "function", "name": "forecast", "parameters": schema, "strict": True}
request = {
    "model": calling,
    "tools": [tool],
    "tool_choice": {"type": "function", "name": "forecast"},
    "extra_body": {"seed": 1},
}
answer = caller.responses.create(input="Will it rain in Porto?", **request)
check(answer)
(call,) = answer.output
assert call.type == "function_call" and call.name == "forecast", answer
assert json.loads(call.arguments)["city"] in ["Köln", "Porto"], call
with caller.responses.stream(input="Will it rain in Porto?", **request) as stream:
    (same,) = stream.get_final_response().output
assert same.arguments == call.arguments, same
result = {"type": "function_call_output", "call_id": call.call_id, "output": "Rain."}
last = caller.responses.create(
    model=calling,
    input=[result],
    previous_response_id=answer.id,
    tools=[tool],
    tool_choice="none",
    max_output_tokens=4,
)
assert last.output[0].type == "message", last

print(f"openai-python {openai.__version__}, responses: {whole.output_text!r}, {call.arguments}")
