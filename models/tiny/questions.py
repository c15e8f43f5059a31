"""Questions about a scene, their answers, and the marking of replies.

Every question has a kind (see KINDS) and a key that a program can compare: a colour, a shape, a place, a
number, a text. The wording is drawn from several paraphrases and then varied in case, punctuation and
politeness; the answers keep one fixed wording per kind.
"""

from __future__ import annotations

import re
from dataclasses import dataclass

import numpy as np

from scenes import CLEAR_OF_LINE, COLOURS, NUMBERS, PLACE_PHRASES, PLACES, PLURALS, SHAPES, Item, Scene

KINDS = ("colour", "shape", "position", "count", "text", "bars", "exists", "absent", "describe")

COLOUR_OF = (
    "What colour is the {x}?", "What color is the {x}?", "Which colour is the {x}?", "What is the colour of the {x}?",
    "What is the color of the {x}?", "Which color does the {x} have?", "Tell me the colour of the {x}.",
    "The {x} is what colour?", "Name the color of the {x}.", "What colour does the {x} have?",
    "Is the {x} red, green, blue or what?",
)  # fmt: skip
COLOUR_OF_ALL = (
    "What colour are the {x}?", "What color are the {x}?", "Which colour are the {x}?",
    "Tell me the colour of the {x}.", "What is the color of the {x}?", "Which colour do the {x} have?",
)  # fmt: skip
SHAPE_OF = (
    "What shape is the {x}?", "Which shape is the {x}?", "What is the {x}?", "What is the shape of the {x}?",
    "What kind of shape is the {x}?", "Tell me the shape of the {x}.", "The {x} is what shape?",
    "Name the shape of the {x}.", "Which shape does the {x} have?", "What kind of thing is the {x}?",
)  # fmt: skip
WHAT_AT = (
    "What is {p}?", "What is {p} of the picture?", "What do you see {p}?", "Which thing is {p}?",
    "What can be seen {p}?", "What shape is {p}?", "What is shown {p} of the image?", "Tell me what is {p}.",
)  # fmt: skip
WHERE = (
    "Where is the {x}?", "Where is the {x} in the picture?", "In which part of the picture is the {x}?",
    "What is the position of the {x}?", "Where can I find the {x}?", "Where do you see the {x}?",
    "Tell me where the {x} is.", "Where in the image is the {x}?", "Which part of the image is the {x} in?",
    "Find the {x}.", "Where's the {x}?",
)  # fmt: skip
COUNT = (
    "How many {x} are there?", "How many {x} do you see?", "How many {x} are in the picture?", "Count the {x}.",
    "What is the number of {x}?", "How many {x} can you see?", "How many {x} are shown?", "How many {x}?",
    "Tell me how many {x} there are.", "How many {x} does the image have?", "Can you count the {x}?",
)  # fmt: skip
READ = (
    "What does it say?", "Read the text.", "What is written here?", "What is the text?", "What does the text say?",
    "Which text is in the picture?", "Read this.", "What text do you see?", "What is written in the image?",
    "Read it out.", "What does the picture say?", "Can you read the text?", "Tell me what it says.",
    "Which word is written here?", "What is the word?", "Transcribe the text.", "What letters do you see?",
)  # fmt: skip
READ_NUMBER = (
    "What number is shown?", "Which number do you see?", "What is the number?", "Read the number.",
    "What number is it?", "Which number is in the picture?", "What number is written here?", "Tell me the number.",
    "What number do you see?",
)  # fmt: skip
TALLEST = (
    "Which bar is the {s}?", "Which bar is {s}?", "What colour is the {s} bar?", "What color is the {s} bar?",
    "Which colour has the {s} bar?", "Name the {s} bar.", "What is the {s} bar?", "Which one is the {s} bar?",
    "Tell me the colour of the {s} bar.", "What is the colour of the {s} bar?",
)  # fmt: skip
SUPERLATIVES = {
    "tallest": ("tallest", "highest", "biggest", "largest", "longest"),
    "shortest": ("shortest", "lowest", "smallest"),
}
EXISTS = (
    "Is there a {x}?", "Is there a {x} in the picture?", "Do you see a {x}?", "Can you see a {x}?",
    "Does the picture have a {x}?", "Is a {x} in the image?", "Do you see any {x}?",
)  # fmt: skip
DESCRIBE = (
    "Describe the picture.", "What is in this picture?", "What do you see?", "Describe this image.",
    "What is in the image?", "What is shown in this image?", "Tell me about the picture.", "What can you see?",
    "Describe what you see.", "What does the picture show?", "What is this?", "What's in this image?",
    "Describe the image in detail.", "What is in the picture?", "Describe this picture briefly.",
)  # fmt: skip
THINGS = ("thing", "object", "shape", "one")
SORRY = "I cannot tell, there is {x} in the picture."


@dataclass
class Question:
    """One question about a scene. `key` is what a right reply must convey; `about` is the one item it is about."""

    kind: str
    text: str
    answer: str
    key: object
    about: Item | None = None


def a(phrase: str) -> str:
    """The phrase with its indefinite article."""
    return ("an " if phrase[0] in "aeiou" else "a ") + phrase


def listing(parts: list[str]) -> str:
    """ "x, y and z"."""
    return parts[0] if len(parts) == 1 else ", ".join(parts[:-1]) + " and " + parts[-1]


def counted(n: int, singular: str, plural: str) -> str:
    """ "a red circle" or "three red circles"."""
    return a(singular) if n == 1 else f"{NUMBERS[n]} {plural}"


def vary(text: str, rng: np.random.Generator) -> str:
    """The same question as careless, hurried or polite people type it."""
    if rng.random() < 0.25:
        text = text.rstrip("?.")
    if rng.random() < 0.08:
        text = text.replace("picture", "photo") if rng.random() < 0.5 else text.replace("image", "picture")
    r = rng.random()
    if r < 0.06:
        text = "Please, " + text[0].lower() + text[1:]
    elif r < 0.12:
        text = text[:-1] + ", please" + text[-1] if text[-1] in "?." else text + " please"
    elif r < 0.15:
        text = "Hi! " + text
    if rng.random() < 0.3:
        text = text.lower()
    return text


class Asker:
    """Draws questions about one scene."""

    def __init__(self, scene: Scene, rng: np.random.Generator):
        self.scene, self.rng, self.about = scene, rng, None

    def pick(self, options):
        return options[int(self.rng.integers(len(options)))]

    def ask(self, kind: str) -> Question | None:
        """A question of this kind, or None if the scene gives no occasion for one."""
        self.about = None
        found = getattr(self, kind)()
        if found is None:
            return None
        text, answer, key = found
        return Question(kind, vary(text, self.rng), answer, key, self.about)

    def singled_out(self, need_colour=False, hide_colour=False, hide_shape=False) -> tuple[Item, str] | None:
        """A shape and words that fit it alone ("circle", "red circle", "small red thing")."""
        shapes = self.scene.shapes
        for i in self.rng.permutation(len(shapes)):
            item = shapes[int(i)]
            noun = self.pick(THINGS[:3]) if hide_shape else item.label
            options = []
            for with_colour in (False, True):
                for with_size in (False, True):
                    if (with_colour and hide_colour) or (
                        not with_colour and (need_colour or hide_shape and not with_size)
                    ):
                        continue
                    fits = [
                        o
                        for o in shapes
                        if (hide_shape or o.label == item.label)
                        and (not with_colour or o.colour == item.colour)
                        and (not with_size or o.size == item.size)
                    ]
                    if len(fits) == 1:
                        words = [item.size] * with_size + [item.colour] * with_colour + [noun]
                        options.append((" ".join(words), with_size))
            if options:
                plain = [o for o in options if not o[1]]
                chosen = self.pick(plain) if plain and self.rng.random() < 0.75 else self.pick(options)
                self.about = item
                return item, chosen[0]
        return None

    def colour(self):
        scene = self.scene
        if scene.chars and (not scene.shapes or self.rng.random() < 0.5):
            noun = self.pick(("text", "word", "writing") if scene.text.isalpha() else ("text", "writing"))
            noun = "number" if scene.text.isdigit() and self.rng.random() < 0.6 else noun
            colour = scene.chars[0].colour
            return self.pick(COLOUR_OF).format(x=noun), f"The {noun} is {colour}.", colour
        groups = {s: [o for o in scene.shapes if o.label == s] for s in SHAPES}
        same = [s for s, g in groups.items() if len(g) > 1 and len({o.colour for o in g}) == 1]
        if same and self.rng.random() < 0.3:
            s = self.pick(same)
            colour = groups[s][0].colour
            return self.pick(COLOUR_OF_ALL).format(x=PLURALS[s]), f"The {PLURALS[s]} are {colour}.", colour
        found = self.singled_out(hide_colour=True)
        if found is None:
            return None
        item, words = found
        return self.pick(COLOUR_OF).format(x=words), f"The {words} is {item.colour}.", item.colour

    def shape(self):
        if self.scene.shapes and self.rng.random() < 0.25:
            cells: dict[str, list[Item]] = {}
            for o in self.scene.shapes:
                cells.setdefault(self.scene.place(o.centre), []).append(o)
            alone = [p for p, g in cells.items() if len(g) == 1 and self.clear_of_text(p)]
            if alone:
                place = self.pick(alone)
                o = self.about = cells[place][0]
                answer = f"There is {a(o.colour + ' ' + o.label)} {PLACE_PHRASES[place]}."
                return self.pick(WHAT_AT).format(p=PLACE_PHRASES[place]), answer, o.label
        found = self.singled_out(hide_shape=True)
        if found is None:
            return None
        item, words = found
        return self.pick(SHAPE_OF).format(x=words), f"The {words} is {a(item.label)}.", item.label

    def clear_of_text(self, place: str) -> bool:
        """Whether no text reaches into a cell of the grid."""
        box = self.text_box()
        if box is None:
            return True
        w, h = self.scene.image.size
        row, column = next((r, c) for r in range(3) for c in range(3) if PLACES[r][c] == place)
        return (
            box[2] < w * column / 3
            or box[0] > w * (column + 1) / 3
            or box[3] < h * row / 3
            or box[1] > h * (row + 1) / 3
        )

    def text_box(self):
        chars = self.scene.chars
        if not chars:
            return None
        return (
            min(c.box[0] for c in chars), min(c.box[1] for c in chars),
            max(c.box[2] for c in chars), max(c.box[3] for c in chars),
        )  # fmt: skip

    def position(self):
        scene = self.scene
        if scene.chars and (not scene.shapes or self.rng.random() < 0.5):
            x0, y0, x1, y1 = self.text_box()
            centre = (x0 + x1) / 2, (y0 + y1) / 2
            shares = (centre[0] / scene.image.width, centre[1] / scene.image.height)
            if min(abs(s - line) for s in shares for line in (1 / 3, 2 / 3)) < CLEAR_OF_LINE * 0.6:
                return None
            words = "number" if scene.text.isdigit() and self.rng.random() < 0.5 else self.pick(("text", "writing"))
            place = scene.place(centre)
        else:
            found = self.singled_out()
            if found is None:
                return None
            item, words = found
            place = scene.place(item.centre)
        return self.pick(WHERE).format(x=words), f"It is {PLACE_PHRASES[place]}.", place

    def count(self):
        scene = self.scene
        if scene.bars:
            n = len(scene.bars)
            return self.pick(COUNT).format(x="bars"), f"There are {NUMBERS[n]} bars.", n
        if scene.chars and (not scene.shapes or self.rng.random() < 0.5):
            noun, n = "character", len(scene.text)
            if scene.text.isdigit() and self.rng.random() < 0.5:
                noun = "digit"
            elif scene.text.isalpha() and self.rng.random() < 0.5:
                noun = "letter"
            plural = noun + "s"
        else:
            shape, colour = self.pick(SHAPES), self.pick(tuple(COLOURS))
            if self.rng.random() < 0.88:
                item = self.pick(scene.shapes)
                crowd = [o for o in scene.shapes if sum(p.label == o.label for p in scene.shapes) > 1]
                if crowd and self.rng.random() < 0.5:
                    item = self.pick(crowd)
                shape, colour = item.label, item.colour
            thing = self.pick(THINGS[:3])
            style = self.rng.random()
            if style < 0.45:
                singular, plural, fits = shape, PLURALS[shape], lambda o: o.label == shape
            elif style < 0.65:
                singular, plural, fits = f"{colour} {thing}", f"{colour} {thing}s", lambda o: o.colour == colour
            elif style < 0.78:
                singular, plural = f"{colour} {shape}", f"{colour} {PLURALS[shape]}"
                fits = lambda o: o.label == shape and o.colour == colour  # noqa: E731
            else:
                thing = self.pick(THINGS[:3])
                singular, plural, fits = thing, thing + "s", lambda o: True
            noun, n = singular, sum(fits(o) for o in scene.shapes)
        answer = f"There is one {noun}." if n == 1 else f"There are {NUMBERS[n]} {plural}."
        return self.pick(COUNT).format(x=plural), answer, n

    def text(self):
        text = self.scene.text
        if not text:
            return None
        if text.isdigit() and self.rng.random() < 0.5:
            return self.pick(READ_NUMBER), f"The number is {text}.", text
        return self.pick(READ), f'It says "{text}".', text

    def bars(self):
        bars = self.scene.bars
        if not bars:
            return None
        which = self.pick(("tallest", "shortest"))
        height = lambda b: b.box[3] - b.box[1]  # noqa: E731
        bar = max(bars, key=height) if which == "tallest" else min(bars, key=height)
        self.about = bar
        question = self.pick(TALLEST).format(s=self.pick(SUPERLATIVES[which]))
        return question, f"The {bar.colour} bar is the {which}.", bar.colour

    def exists(self):
        scene = self.scene
        there = self.rng.random() < 0.5
        shape, colour = self.pick(SHAPES), self.pick(tuple(COLOURS))
        if there and scene.shapes:
            item = self.pick(scene.shapes)
            shape, colour = item.label, item.colour
        elif scene.shapes and self.rng.random() < 0.5:
            item = self.pick(scene.shapes)
            shape, colour = (item.label, colour) if self.rng.random() < 0.5 else (shape, item.colour)
        with_colour = self.rng.random() < 0.5
        yes = any(o.label == shape and (not with_colour or o.colour == colour) for o in scene.shapes)
        words = f"{colour} {shape}" if with_colour else shape
        question = self.pick(EXISTS).format(x=words)
        question = question.replace(f"a {words}", a(words)).replace(
            f"any {words}", f"any {words}s" if not words.endswith("cross") else f"any {words}es"
        )
        return question, f"Yes, there is {a(words)}." if yes else f"No, there is no {words}.", yes

    def absent(self):
        """A question about something that is not there; the right reply says so."""
        scene = self.scene
        options = []
        shapes = [s for s in SHAPES if all(o.label != s for o in scene.shapes)]
        shape = self.pick(shapes)
        options += [(self.pick(COLOUR_OF).format(x=shape), f"no {shape}")] * 2
        options += [(self.pick(WHERE).format(x=shape), f"no {shape}")] * 2
        if scene.shapes:
            pairs = [(c, o.label) for o in scene.shapes for c in COLOURS]
            here = {(o.colour, o.label) for o in scene.shapes}
            colour, label = self.pick([p for p in pairs if p not in here])
            options.append((self.pick(WHERE).format(x=f"{colour} {label}"), f"no {colour} {label}"))
        colours = [c for c in COLOURS if all(o.colour != c for o in scene.items)]
        colour, thing = self.pick(colours), self.pick(THINGS[:3])
        options.append((self.pick(SHAPE_OF).format(x=f"{colour} {thing}"), f"no {colour} {thing}"))
        if not scene.chars:
            options += [(self.pick(READ), "no text")] * 2
        if not scene.text.isdigit():
            options.append((self.pick(READ_NUMBER), "no number"))
        if not scene.bars:
            which = self.pick(SUPERLATIVES[self.pick(("tallest", "shortest"))])
            options.append((self.pick(TALLEST).format(s=which), "no bar"))
        question, missing = self.pick(options)
        return question, SORRY.format(x=missing), missing

    def describe(self):
        scene = self.scene
        if scene.bars:
            colours = [b.colour for b in scene.bars]
            answer = f"There is a bar chart with {NUMBERS[len(colours)]} bars: {listing(colours)}."
            return self.pick(DESCRIBE), answer, ("bars", tuple(colours))
        order = [p for row in PLACES for p in row]
        shapes = sorted(scene.shapes, key=lambda o: (order.index(scene.place(o.centre)), o.centre[0]))
        groups: dict[tuple[str, str], int] = {}
        for o in shapes:
            groups[o.colour, o.label] = groups.get((o.colour, o.label), 0) + 1
        names = [counted(n, f"{c} {s}", f"{c} {PLURALS[s]}") for (c, s), n in groups.items()]
        key = ("shapes", scene.text, tuple(sorted((c, s, n) for (c, s), n in groups.items())))
        if scene.chars:
            parts = [f'the text "{scene.text}" in {scene.chars[0].colour}', *names]
            return self.pick(DESCRIBE), f"There is {listing(parts)}.", key
        if len(shapes) <= 2:
            parts = [f"{a(o.colour + ' ' + o.label)} {PLACE_PHRASES[scene.place(o.centre)]}" for o in shapes]
            return self.pick(DESCRIBE), f"There is {listing(parts)}.", key
        return self.pick(DESCRIBE), f"There are {NUMBERS[len(shapes)]} shapes: {listing(names)}.", key


WEIGHTS = {
    "shapes": {
        "colour": 1.2, "shape": 1.2, "position": 1.3, "count": 1.8, "exists": 0.4, "absent": 0.6, "describe": 0.25,
    },
    "text": {
        "text": 3.0, "colour": 0.8, "position": 0.8, "count": 0.6, "shape": 0.3, "exists": 0.1, "absent": 0.5,
        "describe": 0.25,
    },
    "bars": {"bars": 3.0, "count": 0.7, "absent": 0.7, "describe": 0.3, "exists": 0.1},
}  # fmt: skip
"""How often each kind is asked about each kind of scene."""


LESSONS = {
    "shapes": {
        "colour": 0.8, "shape": 1.5, "position": 1.6, "count": 3.5, "exists": 0.3, "absent": 0.5, "describe": 0.4,
    },
    "text": {
        "text": 5.0, "colour": 0.4, "position": 0.8, "count": 1.2, "shape": 0.3, "exists": 0.1, "absent": 0.4,
        "describe": 0.25,
    },
    "bars": {"bars": 1.0, "count": 1.5, "absent": 0.5, "describe": 0.3, "exists": 0.1},
}  # fmt: skip
"""The same in training: more of what is hard to learn."""


def teach(scene: Scene, rng: np.random.Generator) -> Question:
    """A question to learn from; of two that count, mostly the one with more to count."""
    question = ask(scene, rng, weights=LESSONS)
    if question.kind == "count" and rng.random() < 0.7:
        other = ask(scene, rng, "count")
        if other.kind == "count" and other.key > question.key:
            return other
    return question


def ask(scene: Scene, rng: np.random.Generator, kind: str | None = None, weights=WEIGHTS) -> Question:
    """A question about the scene, of the given kind if the scene has an occasion for it."""
    weights = weights[scene.kind]
    asker = Asker(scene, rng)
    p = np.array(list(weights.values()))
    while True:
        found = asker.ask(kind or str(rng.choice(list(weights), p=p / p.sum())))
        kind = None
        if found:
            return found


# ------------------------------------------------------------------------------------------- marking


def named_place(reply: str) -> str | None:
    """The last place of the 3x3 grid that a reply names."""
    text = reply.lower().replace("center", "centre").replace("middle", "centre").replace("-", " ")
    text = re.sub(r"\b(upper|lower)\b", lambda m: {"upper": "top", "lower": "bottom"}[m[1]], text)
    found = re.findall(r"\b(?:top|bottom|left|right|centre)\b(?: (?:left|right|centre)\b)?", text)
    return re.sub(r"(?<=top|tom) centre$", "", found[-1]) if found else None


def named_number(reply: str) -> int | None:
    """The first number that a reply names."""
    words = {w: i for i, w in enumerate(NUMBERS)} | {"zero": 0, "none": 0}
    for word in re.findall(r"[a-z]+|\d+", reply.lower()):
        if word.isdigit():
            return int(word)
        if word in words:
            return words[word]
    return None


def read_text(reply: str) -> str | None:
    """The printed text that a reply quotes."""
    quoted = re.search(r'"([^"]*)"', reply)
    if quoted:
        return quoted[1]
    number = re.search(r"\b(\d+)\b", reply)
    return number[1] if number else None


def is_right(question: Question, reply: str) -> bool:
    """Whether a reply conveys the question's key."""
    words = re.findall(r"[a-z]+", reply.lower())
    if question.kind == "absent":
        return "cannot tell" in reply.lower() and question.key.split()[-1] in words
    if question.kind == "exists":
        return words[:1] == ["yes" if question.key else "no"]
    if "cannot" in words:
        return False
    if question.kind in ("colour", "bars"):
        return [w for w in words if w in COLOURS] == [question.key]
    if question.kind == "shape":
        return {s for s in SHAPES if s in words or PLURALS[s] in words} == {question.key}
    if question.kind == "position":
        return named_place(reply) == question.key
    if question.kind == "count":
        return named_number(reply) == question.key
    if question.kind == "text":
        return read_text(reply) == question.key
    return described(question.key, reply)


def described(key, reply: str) -> bool:
    """Whether a description names exactly the groups of things in the key."""
    if key[0] == "bars":
        return "bar" in reply and tuple(w for w in re.findall(r"[a-z]+", reply) if w in COLOURS) == key[1]
    _, text, groups = key
    if (read_text(reply) or "") != text:
        return False
    shape_words = {s: s for s in SHAPES} | {p: s for s, p in PLURALS.items()}
    pattern = rf"(a|an|{'|'.join(NUMBERS[1:])}) ({'|'.join(COLOURS)}) ({'|'.join(shape_words)})\b"
    counts: dict[tuple[str, str], int] = {}
    for number, colour, shape in re.findall(pattern, reply):
        n = NUMBERS.index(number) if number in NUMBERS else 1
        counts[colour, shape_words[shape]] = counts.get((colour, shape_words[shape]), 0) + n
    return tuple(sorted((c, s, n) for (c, s), n in counts.items())) == groups
