"""Drives a running vlmd with the official Python client.

usage: openai_python.py BASE_URL PICTURE PICTURE_URL

Chat, streaming, a picture as data URI and by URL, usage, several choices, log probabilities,
and the client's own error classes.
"""

import base64
import sys

import openai

base_url, picture, picture_url = sys.argv[1:4]
client = openai.OpenAI(base_url=f"{base_url}/v1", api_key="not-used", max_retries=0)
model = client.models.list().data[0].id
assert client.models.retrieve(model).id == model

with open(picture, "rb") as file:
    data_uri = "data:image/png;base64," + base64.b64encode(file.read()).decode()


def ask(url, question="Describe the picture."):
    image = {"type": "image_url", "image_url": {"url": url, "detail": "auto"}}
    return [{"role": "user", "content": [image, {"type": "text", "text": question}]}]


def expect(error, call, status):
    """`call` must raise `error`, in the OpenAI envelope."""
    try:
        call()
    except error as raised:
        assert raised.status_code == status, raised
        assert raised.body["message"], raised.body
        assert raised.response.headers["x-request-id"]
        return raised
    raise AssertionError(f"{error.__name__} expected")


# Whole answers, the picture sent both ways.
whole = client.chat.completions.create(model=model, messages=ask(data_uri), temperature=0)
answer = whole.choices[0].message.content
assert answer and whole.choices[0].finish_reason == "stop", whole
assert whole.usage.total_tokens == whole.usage.prompt_tokens + whole.usage.completion_tokens
by_url = client.chat.completions.create(model=model, messages=ask(picture_url), temperature=0)
assert by_url.choices[0].message.content == answer, by_url
assert by_url.usage == whole.usage

# The same answer, streamed.
chunks = list(
    client.chat.completions.create(
        model=model,
        messages=ask(data_uri),
        temperature=0,
        stream=True,
        stream_options={"include_usage": True},
    )
)
assert chunks[0].choices[0].delta.role == "assistant"
assert chunks[-1].choices == [] and chunks[-1].usage == whole.usage
deltas = [chunk.choices[0] for chunk in chunks[:-1]]
assert "".join(choice.delta.content or "" for choice in deltas) == answer
assert [choice.finish_reason for choice in deltas if choice.finish_reason] == ["stop"]

# The client's accumulating stream helper.
with client.chat.completions.stream(model=model, messages=ask(data_uri), temperature=0) as stream:
    final = stream.get_final_completion()
assert final.choices[0].message.content == answer

# Text alone, several choices, log probabilities, a stop string, a token limit.
several = client.chat.completions.create(
    model=model, messages=[{"role": "user", "content": "Hello"}], n=2, seed=7, max_tokens=4
)
assert [choice.index for choice in several.choices] == [0, 1]
scored = client.chat.completions.create(
    model=model, messages=ask(data_uri), temperature=0, logprobs=True, top_logprobs=2, max_tokens=3
)
tokens = scored.choices[0].logprobs.content
assert len(tokens) == 3 and all(len(token.top_logprobs) == 2 for token in tokens)
assert all(token.logprob <= 0 and token.top_logprobs[0].token == token.token for token in tokens)
assert scored.choices[0].finish_reason == "length"
word = answer.split()[1]
stopped = client.chat.completions.create(
    model=model, messages=ask(data_uri), temperature=0, stop=[word]
)
assert stopped.choices[0].message.content == answer[: answer.index(word)], stopped

# Errors arrive as the classes that applications catch.
hello = [{"role": "user", "content": "Hello"}]
create = client.chat.completions.create
expect(openai.NotFoundError, lambda: create(model="no/such-model", messages=hello), 404)
bad = expect(openai.BadRequestError, lambda: create(model=model, messages=hello, top_p=2), 400)
assert bad.param == "top_p" and "2" in bad.message, bad
expect(openai.BadRequestError, lambda: create(model=model, messages=ask("data:image/png,x")), 400)
expect(openai.BadRequestError, lambda: create(model=model, messages=[]), 400)

print(f"openai-python {openai.__version__}: {answer!r}")
