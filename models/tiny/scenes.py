"""Synthetic pictures, and questions about them whose answers a program can check.

`draw_scene(seed)` draws one picture: a few coloured shapes, a short printed text, or a bar chart, on a
plain, graded or noisy background, at any size and ratio. `draw_page(seed)` draws a crowded page that is
only used to pre-train the vision tower. `ask(scene, rng)` returns a question with its answer and a
machine-checkable key, and `is_right(question, reply)` marks a reply.

Sizes are chosen in "model pixels", that is, after the HD transform of the model (see `hd_size`), so that
whatever is asked about can still be seen once the picture has been resized for the vision tower.
"""

from __future__ import annotations

import math
import os
from dataclasses import dataclass, field
from functools import lru_cache
from pathlib import Path

import numpy as np
from PIL import Image, ImageDraw, ImageFont

CROP = 112
"""Side of one crop of the vision tower, in pixels."""
NUM_CROPS = 4
"""Most crops that one picture is cut into."""

SHAPES = ("circle", "square", "triangle", "star", "diamond", "cross", "heart", "ring")
PLURALS = {s: s + "s" for s in SHAPES} | {"cross": "crosses"}
LETTERS = "ABCDEFGHIJKLMNOPQRSTUVWXYZ"
DIGITS = "0123456789"
CLASSES = ("none", *SHAPES, "bar", *LETTERS, *DIGITS)
"""What a patch of the picture can show; an index into this is a training label."""
COLOURS = {
    "red": (215, 30, 35),
    "green": (35, 150, 55),
    "blue": (35, 75, 215),
    "yellow": (245, 215, 35),
    "orange": (245, 130, 20),
    "purple": (130, 45, 165),
    "pink": (250, 130, 185),
    "brown": (120, 70, 30),
    "black": (15, 15, 15),
    "white": (252, 252, 252),
}
COLOUR_NAMES = ("none", *COLOURS)
BACKGROUNDS = (
    (255, 255, 255), (255, 255, 255), (248, 248, 244), (235, 238, 242), (225, 235, 245), (245, 236, 220),
    (228, 242, 228), (200, 205, 210), (150, 155, 160), (110, 115, 120), (60, 62, 66), (25, 28, 38), (12, 12, 12),
)  # fmt: skip
NUMBERS = ("no", "one", "two", "three", "four", "five")
PLACES = (
    ("top left", "top", "top right"),
    ("left", "centre", "right"),
    ("bottom left", "bottom", "bottom right"),
)
PLACE_PHRASES = {p: f"at the {p}" for row in PLACES for p in row}
WORDS = """ACE ACORN ACT ADD AGE AIR ALARM ALBUM ALL ANGEL ANT APE APPLE APRON ARCH ARM ART ASH AXE BABY BACK BAG
BAKER BALL BAND BANK BARN BAT BATH BEACH BEAN BEAR BED BEE BELL BELT BERRY BIG BIKE BIRD BIT BLACK BLUE BOARD
BOAT BODY BONE BOOK BOOT BOWL BOX BOY BRAIN BREAD BRICK BRUSH BUG BULB BUN BUS BUSH BUZZ CAB CAFE CAGE CAKE CALF
CALL CALM CAMP CAN CANDY CANOE CAP CAR CARD CART CASE CAT CAVE CELL CHAIR CHALK CHEF CHESS CHIN CITY CLAY CLIFF
CLOCK CLOUD COAL COAT CODE COIN COLD COOK CORN COW CRAB CRANE CROW CROWN CUBE CUP CUT DAD DANCE DARK DART DATE
DAWN DAY DEER DESK DICE DIG DISH DOCK DOG DOLL DOOR DOT DOVE DOWN DRUM DUCK DUST EAGLE EAR EARTH EAST EAT EGG
ELBOW ELF ELK END EXIT EYE FACE FAN FARM FAST FERN FIELD FIG FILM FIN FIRE FISH FIVE FIX FLAG FLAME FLOOR FLUTE
FLY FOG FOOT FORK FORT FOUR FOX FROG FRUIT FUN FUR GAME GATE GEM GHOST GIFT GIRL GLASS GLOVE GLUE GO GOAT GOLD
GOOD GRAPE GRASS GREEN GRID GULL GUM HAIR HALL HAM HAND HARP HAT HAWK HAY HEART HEN HERO HI HILL HIVE HOME HONEY
HOOK HOP HORN HORSE HOT HOTEL HOUSE HUB HUT ICE ICON INK INN IRON ISLE IVY JAM JAR JAZZ JEEP JET JEWEL JOB JOY
JUDGE JUICE JUMP KEY KID KING KITE KNEE KNIFE KNOT LAB LAKE LAMB LAMP LAND LAW LEAF LEG LEMON LID LIFE LIME LINE
LION LIP LIST LOCK LOG LOVE LUCK LUNCH MAGIC MAIL MAN MAP MASK MAT MAZE MEAL MELON MENU MILK MILL MINT MIX MOON
MOTH MOUSE MOUTH MUD MUG MUSIC NAIL NAME NAP NECK NEST NET NEW NIGHT NINE NO NOSE NOTE NOVA NUT OAK OCEAN OIL
OLIVE ON ONE ONION OPEN OTTER OVEN OWL OX PAGE PAINT PALM PAN PANDA PAPER PARK PARTY PATH PEA PEACH PEAR PEN
PET PHONE PIANO PIE PIG PILOT PIN PINE PIPE PIZZA PLANE PLANT PLATE PLUM POND PONY POOL POST POT PUMP PUPPY
QUEEN QUICK QUIET QUILT QUIZ RABBIT RADIO RAFT RAIN RAT RED RICE RING RIVER ROAD ROBOT ROCK ROOF ROOM ROPE ROSE
RUBY RUG RUN SAIL SALAD SALT SAND SAW SCARF SEA SEED SEVEN SHARK SHEEP SHELL SHIP SHIRT SHOE SHOP SIX SKI SKY SLED
SMILE SNAIL SNAKE SNOW SOAP SOCK SOFA SONG SOUP SPACE SPOON STAR STONE STOP STORM SUGAR SUN SWAN TABLE TAIL TAXI TEA
TEAM TEN TENT TIGER TIME TOAST TOE TOOL TOP TOWEL TOWN TOY TRAIN TREE TRUCK TUBE TULIP TURN TWO UNIT UP VAN VASE
VIEW VINE VOICE WALL WASP WATCH WATER WAVE WAX WEB WEST WHALE WHEAT WHEEL WIND WING WOLF WOOD WOOL WORD WORLD YAK
YARD YARN YEAR YES YOGA YOLK YOU ZEBRA ZERO ZONE ZOO""".split()
WORDS = tuple(w for w in WORDS if len(w) <= 5)

FONT_NAMES = (
    "DejaVuSans", "DejaVuSans-Bold", "DejaVuSerif-Bold", "DejaVuSansMono-Bold", "LiberationSans-Regular",
    "LiberationSans-Bold", "LiberationSerif-Bold", "FreeSansBold",
)  # fmt: skip
MIN_SOURCE_CAP = 11
"""Least height of a capital letter before resizing, in pixels: below this, a print is a smudge."""
MIN_CAP = 16
"""Least height of a capital letter after resizing, in model pixels."""
CLEAR_OF_LINE = 0.045
"""An object whose centre is nearer than this (as a share of the side) to a line of the 3x3 grid is not placed."""
NEAR_WHITE = 246
"""Mean of a background from which the white padding of the HD transform cannot be told."""


@lru_cache(maxsize=1)
def fonts() -> tuple[str, ...]:
    """Paths of the fonts in FONT_NAMES, in that order, found below the usual font directories."""
    roots = [Path(p) / "fonts" for p in os.environ.get("XDG_DATA_DIRS", "/usr/local/share:/usr/share").split(":")]
    found = {p.stem: str(p) for root in (*roots, Path.home() / ".fonts") if root.is_dir() for p in root.rglob("*.ttf")}
    missing = [n for n in FONT_NAMES if n not in found]
    if missing:
        raise RuntimeError(
            f"fonts not found: {', '.join(missing)} (Debian: fonts-dejavu-core fonts-liberation fonts-freefont-ttf)"
        )
    return tuple(found[n] for n in FONT_NAMES)


@lru_cache(maxsize=4096)
def font(path: str, size: int) -> ImageFont.FreeTypeFont:
    """A loaded font; cached because loading costs more than drawing a word."""
    return ImageFont.truetype(path, size)


def hd_size(width: int, height: int, crop: int = CROP, num_crops: int = NUM_CROPS) -> tuple[int, int]:
    """Size (w, h) to which the HD transform scales a picture before it pads it to whole crops."""
    if width < height:
        h, w = hd_size(height, width, crop, num_crops)
        return w, h
    ratio = width / height
    scale = max(s for s in range(1, num_crops + 1) if s == 1 or s * math.ceil(s / ratio) <= num_crops)
    return crop * scale, max(1, int(crop * scale / ratio))


def padding(width: int, height: int) -> tuple[float, float]:
    """Shares (left, top) of the padded picture that the HD transform fills with white on either side."""
    w, h = hd_size(width, height)
    full_w, full_h = math.ceil(w / CROP) * CROP, math.ceil(h / CROP) * CROP
    return (full_w - w) / 2 / full_w, (full_h - h) / 2 / full_h


def third(share: np.ndarray) -> np.ndarray:
    """Which third (0, 1, 2) of a side a place lies in."""
    return np.clip((3 * share).astype(int), 0, 2)


def clear(share: np.ndarray) -> np.ndarray:
    """Whether a place, as a share of a side, is clear of the lines that cut it in three."""
    return (np.abs(share - 1 / 3) >= CLEAR_OF_LINE) & (np.abs(share - 2 / 3) >= CLEAR_OF_LINE)


@dataclass
class Item:
    """One drawn thing. `label` is in CLASSES, `box` is (x0, y0, x1, y1) in source pixels.

    The characters of one text share a `line`, the height of all of their centres, so that they stand side by side
    in any grid, whatever their shapes.
    """

    label: str
    colour: str
    box: tuple[float, float, float, float]
    size: str = ""
    line: float | None = None

    @property
    def centre(self) -> tuple[float, float]:
        height = (self.box[1] + self.box[3]) / 2 if self.line is None else self.line
        return (self.box[0] + self.box[2]) / 2, height


@dataclass
class Scene:
    """A picture and everything that is known about it."""

    image: Image.Image
    kind: str = "shapes"
    shapes: list[Item] = field(default_factory=list)
    chars: list[Item] = field(default_factory=list)
    bars: list[Item] = field(default_factory=list)

    @property
    def text(self) -> str:
        return "".join(c.label for c in self.chars)

    @property
    def items(self) -> list[Item]:
        return self.shapes + self.chars + self.bars

    def place(self, centre: tuple[float, float]) -> str:
        """Name of the cell of the 3x3 grid in which a point lies."""
        w, h = self.image.size
        return PLACES[min(2, int(3 * centre[1] / h))][min(2, int(3 * centre[0] / w))]


# ---------------------------------------------------------------------------------------------- drawing


def outline(shape: str, box, turn: float = 0.0) -> list[tuple[float, float]]:
    """Polygon of a shape inside a box, turned by `turn` radians about the centre."""
    cx, cy, r = (box[0] + box[2]) / 2, (box[1] + box[3]) / 2, (box[2] - box[0]) / 2
    if shape == "square":
        points = [(-0.86, -0.86), (0.86, -0.86), (0.86, 0.86), (-0.86, 0.86)]
    elif shape == "triangle":
        points = [(0, -0.95), (0.98, 0.8), (-0.98, 0.8)]
    elif shape == "diamond":
        points = [(0, -1), (0.72, 0), (0, 1), (-0.72, 0)]
    elif shape == "star":
        radius = (1.0, 0.42)
        points = [
            (math.sin(k * math.pi / 5) * radius[k % 2], -math.cos(k * math.pi / 5) * radius[k % 2]) for k in range(10)
        ]
    elif shape == "cross":
        a, b = 0.3, 0.95
        quarter = [(a, -b), (a, -a), (b, -a)]
        points = (
            quarter + [(-y, x) for x, y in quarter] + [(-x, -y) for x, y in quarter] + [(y, -x) for x, y in quarter]
        )
    elif shape == "heart":
        points = []
        for k in range(40):
            t = 2 * math.pi * k / 40
            x = 16 * math.sin(t) ** 3
            y = 13 * math.cos(t) - 5 * math.cos(2 * t) - 2 * math.cos(3 * t) - math.cos(4 * t)
            points.append((x / 17, -(y + 2.5) / 16))
    else:
        raise ValueError(shape)
    c, s = math.cos(turn), math.sin(turn)
    return [(cx + r * (x * c - y * s), cy + r * (x * s + y * c)) for x, y in points]


def draw_shape(draw: ImageDraw.ImageDraw, shape: str, box, rgb, turn: float) -> None:
    """Draws one filled shape (the ring keeps its hole)."""
    if shape == "circle":
        draw.ellipse(box, fill=rgb)
    elif shape == "ring":
        draw.ellipse(box, outline=rgb, width=max(2, round((box[2] - box[0]) * 0.2)))
    else:
        draw.polygon(outline(shape, box, turn), fill=rgb)


class Canvas:
    """A picture being drawn: the background, the free space, and the scale to model pixels."""

    def __init__(self, rng: np.random.Generator, size: tuple[int, int]):
        self.rng = rng
        self.size = size
        hd = hd_size(*size)
        self.scale = size[0] / hd[0]
        """Source pixels per model pixel."""
        self.hd = hd
        self.over = 2 if max(size) <= 400 and rng.random() < 0.75 else 1
        """Oversampling, so that most edges are smooth and some are not."""
        w, h = size[0] * self.over, size[1] * self.over
        first = np.clip(np.array(BACKGROUNDS[rng.integers(len(BACKGROUNDS))]) + rng.integers(-6, 7, 3), 0, 255)
        self.grounds = [first]
        style = rng.random()
        if style < 0.2:
            step = rng.integers(-55, 56) + rng.integers(-12, 13, 3)
            last = np.clip(first + step, 0, 255)
            self.grounds.append(last)
            angle = rng.random() * 2 * math.pi
            y, x = np.mgrid[0:24, 0:24] / 23.0 - 0.5
            t = np.clip(x * math.cos(angle) + y * math.sin(angle) + 0.5, 0, 1)[..., None]
            ramp = first * (1 - t) + last * t
            self.image = Image.fromarray(ramp.astype(np.uint8)).resize((w, h), Image.BILINEAR)
        else:
            self.image = Image.new("RGB", (w, h), tuple(int(v) for v in first))
        self.noise = rng.uniform(5, 26) if style > 0.75 else 0.0
        """Standard deviation of the grain laid over the finished picture."""
        self.borderless = self.noise == 0 and np.mean(self.grounds) > NEAR_WHITE
        """Whether nobody can see where the picture ends and its padding begins."""
        self.draw = ImageDraw.Draw(self.image)
        self.taken: list[tuple[float, float, float, float]] = []

    def colour(self, avoid=()) -> tuple[str, tuple[int, int, int]] | None:
        """A colour name and a shade of it that stands out from the background."""
        names = [n for n in COLOURS if n not in avoid]
        for name in self.rng.permutation(names):
            jitter = self.rng.integers(-14, 15, 3)
            rgb = np.clip(np.array(COLOURS[name]) + jitter, 0, 255)
            if all(np.linalg.norm(rgb - g) > 100 for g in self.grounds):
                return str(name), tuple(int(v) for v in rgb)
        return None

    def find_space(self, w: float, h: float, gap: float, on_grid: bool = True):
        """A free box of w x h source pixels whose centre is clear of the grid lines, or None."""
        width, height = self.size
        margin = 2 * self.scale
        if w + 2 * margin > width or h + 2 * margin > height:
            return None
        tries = self.rng.random((40, 2))
        x = margin + tries[:, 0] * (width - w - 2 * margin)
        y = margin + tries[:, 1] * (height - h - 2 * margin)
        good = np.ones(len(tries), bool)
        if on_grid:
            for centre, pad in zip(((x + w / 2) / width, (y + h / 2) / height), padding(width, height)):
                good &= clear(centre)
                if self.borderless:  # the place must have the same name in the padded picture
                    padded = pad + centre * (1 - 2 * pad)
                    good &= clear(padded) & (third(padded) == third(centre))
        for b in self.taken:
            good &= (x > b[2] + gap) | (x + w < b[0] - gap) | (y > b[3] + gap) | (y + h < b[1] - gap)
        if not good.any():
            return None
        first = int(good.argmax())
        return float(x[first]), float(y[first]), float(x[first] + w), float(y[first] + h)

    def add_shape(self, shape: str, colour: str, rgb, size: str, on_grid: bool = True) -> Item | None:
        """Draws one shape where there is room for it."""
        short = min(self.hd)
        side = self.rng.uniform(27, 38) if size == "small" else min(self.rng.uniform(54, 84), 0.78 * short)
        side *= self.scale
        box = self.find_space(side, side, 5 * self.scale, on_grid)
        if box is None:
            return None
        self.taken.append(box)
        turn = 0.0 if shape in ("diamond", "square") else self.rng.uniform(-0.2, 0.2)
        draw_shape(self.draw, shape, [v * self.over for v in box], rgb, turn)
        return Item(shape, colour, box, size)

    def add_text(self, text: str, colour: str, rgb, cap: float, on_grid: bool = True) -> list[Item]:
        """Prints a text with capitals `cap` model pixels high, smaller if it does not fit; [] if there is no room."""
        path = fonts()[self.rng.integers(len(fonts()))]
        spacing = self.rng.uniform(0.0, 0.12) if self.rng.random() < 0.4 else 0.0
        probe = font(path, 100)
        cap_share = -probe.getbbox("H", anchor="ls")[1] / 100
        widths = [probe.getlength(c) / 100 + spacing for c in text]
        points = cap * self.scale / cap_share
        points = min(points, 0.9 * self.size[0] / sum(widths), 0.8 * self.size[1] / cap_share)
        if points * cap_share < MIN_SOURCE_CAP or points * cap_share / self.scale < MIN_CAP:
            return []
        face = font(path, max(6, round(points * self.over)))
        advances = [(face.getlength(c) / self.over + spacing * points) for c in text]
        top, bottom = face.getbbox(text, anchor="ls")[1] / self.over, face.getbbox(text, anchor="ls")[3] / self.over
        box = self.find_space(sum(advances), bottom - top, 5 * self.scale, on_grid)
        if box is None:
            return []
        self.taken.append(box)
        x, baseline, items = box[0], box[1] - top, []
        for char, advance in zip(text, advances):
            at = (x * self.over, baseline * self.over)
            self.draw.text(at, char, fill=rgb, font=face, anchor="ls")
            ink = [v / self.over for v in face.getbbox(char, anchor="ls")]
            inked = (x + ink[0], baseline + ink[1], x + ink[2], baseline + ink[3])
            items.append(Item(char, colour, inked, line=(box[1] + box[3]) / 2))
            x += advance
        return items

    def add_bars(self, count: int) -> list[Item]:
        """Draws a bar chart of `count` differently coloured bars of clearly different heights."""
        w, h = self.size
        left, right, base = (
            w * self.rng.uniform(0.05, 0.14),
            w * self.rng.uniform(0.87, 0.96),
            h * self.rng.uniform(0.86, 0.94),
        )
        full = base - h * self.rng.uniform(0.05, 0.15)
        heights = self.rng.permutation(np.linspace(0.15, 1.0, 7))[:count] * self.rng.uniform(0.8, 1.0)
        step = (right - left) / count
        thick = step * self.rng.uniform(0.5, 0.8)
        dark = np.mean(self.grounds) < 110
        ink = (225, 225, 225) if dark else (40, 40, 40)
        items, used = [], []
        for k in range(count):
            picked = self.colour(used)
            if picked is None:
                break
            used.append(picked[0])
            x = left + step * k + (step - thick) / 2
            box = (x, base - full * heights[k], x + thick, base)
            self.draw.rectangle([v * self.over for v in box], fill=picked[1])
            items.append(Item("bar", picked[0], box))
        line = max(1, round(1.5 * self.scale * self.over))
        axis = [(left, base - full), (left, base), (right, base)]
        self.draw.line([(x * self.over, y * self.over) for x, y in axis], fill=ink, width=line)
        return items

    def finish(self) -> Image.Image:
        """The finished picture at its own size, with grain where the background asked for it."""
        image = self.image if self.over == 1 else self.image.resize(self.size, Image.BOX)
        if self.noise:
            w, h = self.size
            coarse = 2 if max(w, h) > 500 else 1
            grain = self.rng.standard_normal((-(-h // coarse), -(-w // coarse), 3), dtype=np.float32) * self.noise
            grain = np.repeat(np.repeat(grain, coarse, 0), coarse, 1)[:h, :w] if coarse > 1 else grain
            image = Image.fromarray(np.clip(np.asarray(image, np.float32) + grain, 0, 255).astype(np.uint8))
        return image


def picture_size(rng: np.random.Generator, longest_ratio: float = 4.0) -> tuple[int, int]:
    """A random picture size: 60 to 1200 pixels a side, up to `longest_ratio` : 1, portrait or landscape."""
    ratio = rng.uniform(1, 1.95) if rng.random() < 0.55 else math.exp(rng.uniform(0, math.log(longest_ratio)))
    if rng.random() < 0.12:
        ratio = 1.0
    long = math.exp(rng.uniform(math.log(150), math.log(640))) if rng.random() < 0.93 else rng.uniform(640, 1200)
    long = max(long, 60 * ratio)
    size = int(long), max(60, int(long / ratio))
    return size if rng.random() < 0.5 else size[::-1]


def random_text(rng: np.random.Generator) -> str:
    """A word, a number, letters, or letters and digits (without the look-alikes O, I, 0 and 1 where they mix)."""
    kind = rng.random()
    if kind < 0.35:
        return WORDS[rng.integers(len(WORDS))]
    length = int(rng.choice([1, 2, 3, 4, 5], p=[0.1, 0.2, 0.25, 0.25, 0.2]))
    if kind < 0.6:
        return "".join(rng.choice(list(DIGITS), length))
    if kind < 0.85:
        return "".join(rng.choice(list(LETTERS), length))
    return "".join(rng.choice(list("ABCDEFGHJKLMNPQRSTUVWXYZ23456789"), length))


def draw_scene(seed: int, kind: str | None = None, noisy: bool | None = None) -> Scene:
    """Draws the picture with this seed; `kind` (shapes, text, bars) and `noisy` narrow the choice."""
    rng = np.random.default_rng(seed)
    kind = kind or str(rng.choice(["shapes", "text", "bars"], p=[0.52, 0.36, 0.12]))
    while True:
        canvas = Canvas(rng, picture_size(rng, 2.0 if kind == "bars" else 4.0))
        if noisy is not None and noisy != bool(canvas.noise):
            continue
        scene = Scene(canvas.image, kind)
        if kind == "bars":
            scene.bars = canvas.add_bars(int(rng.integers(2, 6)))
        elif kind == "text":
            picked = canvas.colour()
            if picked:
                cap = math.exp(rng.uniform(math.log(28), math.log(80)))
                scene.chars = canvas.add_text(random_text(rng), *picked, cap)
                if scene.chars and rng.random() < 0.3:
                    add_some_shapes(canvas, scene, int(rng.integers(1, 3)))
        else:
            add_some_shapes(canvas, scene, int(rng.integers(1, 6)))
        if scene.items and (kind != "bars" or len(scene.bars) > 1):
            scene.image = canvas.finish()
            return scene


def add_some_shapes(canvas: Canvas, scene: Scene, count: int) -> None:
    """Adds up to `count` shapes; with some chance they share a shape or a colour, so that counting is not trivial."""
    rng = canvas.rng
    same_shape, same_colour = rng.random() < 0.4, rng.random() < 0.3
    shape, picked = SHAPES[rng.integers(len(SHAPES))], canvas.colour()
    large = rng.random() < 0.15
    for _ in range(count):
        if not (same_shape and rng.random() < 0.8):
            shape = SHAPES[rng.integers(len(SHAPES))]
        if not (same_colour and rng.random() < 0.85):
            picked = canvas.colour()
        if picked is None:
            continue
        size = "large" if large or rng.random() < 0.5 else "small"
        item = canvas.add_shape(shape, *picked, size) or canvas.add_shape(shape, *picked, "small")
        if item:
            scene.shapes.append(item)


def draw_page(seed: int) -> Scene:
    """A crowded page of texts and shapes: many labelled patches per picture, to pre-train the vision tower."""
    rng = np.random.default_rng(seed)
    canvas = Canvas(rng, picture_size(rng))
    scene = Scene(canvas.image, "page")
    for _ in range(int(rng.integers(14, 22))):
        picked = canvas.colour()
        if picked is None:
            continue
        if rng.random() < 0.8:
            text = "".join(
                rng.choice(list(LETTERS + DIGITS), int(rng.choice([1, 2, 3, 4, 5], p=[0.1, 0.15, 0.25, 0.25, 0.25])))
            )
            cap = math.exp(rng.uniform(math.log(18), math.log(56)))
            scene.chars += canvas.add_text(text, *picked, cap, on_grid=False)
        else:
            shape = SHAPES[rng.integers(len(SHAPES))]
            size = "small" if rng.random() < 0.7 else "large"
            item = canvas.add_shape(shape, *picked, size, on_grid=False)
            if item:
                scene.shapes.append(item)
    scene.image = canvas.finish()
    return scene
