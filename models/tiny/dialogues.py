"""Conversations for training: the questions of questions.py in the chat format, alone or in several turns.

Pictures come before the question, after it, or not at all; some conversations start with a system message.
"""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np

from questions import (
    COLOUR_OF,
    COUNT,
    DESCRIBE,
    EXISTS,
    READ,
    READ_NUMBER,
    SHAPE_OF,
    TALLEST,
    THINGS,
    WHERE,
    a,
    ask,
    teach,
    vary,
)  # fmt: skip
from scenes import COLOURS, PLURALS, SHAPES, Item, Scene

NO_PICTURE = "I see no picture. Please send one."
SYSTEM = (
    "You are a helpful assistant.", "You are terse.", "Answer in one short sentence.", "You describe pictures.",
    "You are a careful assistant that answers questions about pictures.", "Be brief and polite.",
    "Answer truthfully.", "You are a vision model.", "Please answer in English.",
    "Look at the image and answer the question.",
)  # fmt: skip
SMALL_TALK = {
    "Hello! Send me a picture and ask about it.": (
        "Hello!", "Hi", "Hello", "Hi there!", "Good morning", "Hey", "Hello, how are you?", "Hi, can you help me?",
    ),
    "I am a tiny vision model. I answer questions about simple pictures.": (
        "Who are you?", "What are you?", "What is your name?", "What can you do?", "Which model is this?",
        "What model are you?", "Tell me about yourself.", "Are you a robot?", "What are you able to do?", "Help",
    ),
    "You are welcome.": ("Thank you!", "Thanks", "Thank you very much.", "Thanks a lot!"),
    "I only answer questions about simple pictures.": (
        "What is the capital of France?", "Write a poem.", "Tell me a joke.", "What is two plus two?",
        "Write a haiku about the sea.", "Translate this into German.", "What time is it?", "Who wrote Hamlet?",
        "Explain gravity.", "Write some Python code.", "Say this is a test.", "Summarise the news.",
        "What is the weather today?", "Tell me a story.", "Count to ten.",
    ),
}  # fmt: skip


@dataclass
class Sample:
    """One prefix and the segments that continue it, each on its own: text with `<|image_1|>` where the picture goes.

    `about` names, for every turn of every segment, the item that the question is about, if it is just one.
    """

    prefix: str
    segments: list[str]
    about: list[list[Item | None]] = field(default_factory=list)


def turn(question: str, answer: str) -> str:
    """The end of a user's message, and the reply to it."""
    return f"{question}<|end|>\n<|assistant|>\n{answer}<|end|>"


def blind_turn(rng: np.random.Generator) -> tuple[str, str]:
    """A question without a picture, with its answer."""
    if rng.random() < 0.35:
        answers = list(SMALL_TALK)
        answer = answers[rng.integers(len(answers))]
        return vary(str(rng.choice(SMALL_TALK[answer])), rng), answer
    shape, colour = str(rng.choice(SHAPES)), str(rng.choice(list(COLOURS)))
    thing = str(rng.choice(THINGS[:3]))
    text = str(
        rng.choice(
            [
                str(rng.choice(COLOUR_OF)).format(x=shape),
                str(rng.choice(SHAPE_OF)).format(x=f"{colour} {thing}"),
                str(rng.choice(WHERE)).format(x=shape),
                str(rng.choice(COUNT)).format(x=PLURALS[shape]),
                str(rng.choice(EXISTS)).format(x=shape).replace(f"a {shape}", a(shape)),
                str(rng.choice(TALLEST)).format(s=str(rng.choice(["tallest", "shortest"]))),
                *map(str, (rng.choice(READ), rng.choice(READ_NUMBER), rng.choice(DESCRIBE), rng.choice(DESCRIBE))),
            ]
        )
    )
    return vary(text, rng), NO_PICTURE


def system(rng: np.random.Generator, share: float) -> str:
    """A system message with this probability."""
    return f"<|system|>\n{rng.choice(SYSTEM)}<|end|>\n" if rng.random() < share else ""


def blind_sample(rng: np.random.Generator, count: int) -> Sample:
    """Independent short conversations without any picture."""
    segments = []
    for _ in range(count):
        turns = [turn(*blind_turn(rng)) for _ in range(int(rng.choice([1, 2, 3], p=[0.75, 0.15, 0.1])))]
        segments.append(system(rng, 0.15) + "<|user|>\n" + "\n<|user|>\n".join(turns))
    return Sample("", segments)


def picture_sample(scene: Scene, rng: np.random.Generator, count: int) -> Sample:
    """About `count` questions on one picture; mostly single turns that share the picture as their prefix."""
    start = system(rng, 0.08)

    def turns(n: int) -> tuple[str, list[Item | None]]:
        asked = [teach(scene, rng) for _ in range(n)]
        return "\n<|user|>\n".join(turn(q.text, q.answer) for q in asked), [q.about for q in asked]

    if rng.random() < 0.05:  # the picture after the question: nothing can be shared
        text, about = turns(int(rng.integers(1, 4)))
        question, rest = text.split("<|end|>", 1)
        gap, end = str(rng.choice(["", "\n", " "])), str(rng.choice(["", "\n"]))
        return Sample("", [f"{start}<|user|>\n{question}{gap}<|image_1|>{end}<|end|>{rest}"], [about])
    segments, abouts = [], []
    while sum(map(len, abouts)) < count:
        text, about = turns(int(rng.choice([1, 2, 3, 4], p=[0.82, 0.1, 0.05, 0.03])))
        segments.append(("\n" if rng.random() < 0.8 else str(rng.choice(["", " ", "\n\n"]))) + text)
        abouts.append(about)
    return Sample(f"{start}<|user|>\n<|image_1|>", segments, abouts)


def corpus(seed: int, scenes: list[Scene]) -> list[str]:
    """Sentences from which the tokenizer learns its merges."""
    rng = np.random.default_rng(seed)
    sentences = [s for s in SYSTEM for _ in range(5)]
    for answer, asked in SMALL_TALK.items():
        sentences += [answer] * 40 + list(asked) * 4
    for scene in scenes:
        for _ in range(8):
            q = ask(scene, rng)
            sentences += [q.text, q.answer]
        sentences += list(blind_turn(rng))
    return sentences
