"""Conversations that every architecture with a chat template is asked to continue."""

from goldens import Case

IMAGE = {"type": "image"}
QUESTION = "What is shown in this image?"


def text(words):
    """A part of a message."""
    return {"type": "text", "text": words}


def message(role, *parts):
    """A message of parts; a plain string stands for a text part."""
    content = [text(part) if isinstance(part, str) else part for part in parts]
    return {"role": role, "content": content}


def user(*parts):
    """A user message."""
    return message("user", *parts)


def assistant(words):
    """An assistant message."""
    return message("assistant", words)


def system(words):
    """A system message."""
    return message("system", words)


ASK = user(IMAGE, QUESTION)
LONG_TALK = [
    user(IMAGE, QUESTION),
    assistant("A square."),
    user("Which colour is it?"),
    assistant("Red, I think."),
    user(IMAGE, "And here?"),
    assistant("A chart with two columns."),
    user("Read 12345 and 678."),
    assistant("I cannot find them."),
    user(IMAGE, "Which of the three is the largest?"),
]

TEXT_CASES = [
    Case("text_only", [user("Write a haiku about the sea, please.")], trace=True),
    Case("system_text", [system("You are terse."), user("Hello there")]),
    Case(
        "text_turns",
        [user("Hello there"), assistant("Hello."), user("Zwölf Boxkämpfer? 日本 🙂")],
    ),
]
# Each picture is odd in another way.
PICTURE_CASES = [
    Case("one_image", [ASK], ["a_97x41.png"], stride=1, trace=True),
    Case("portrait", [user(IMAGE, "Describe the picture in detail.")], ["b_333x500.png"]),
    Case("thin_1x1000", [ASK], ["c_1x1000.png"]),
    Case("wide", [user(IMAGE, "Read 12345.")], ["i_wide_640x100.png"]),
    Case("flat_200x10", [ASK], ["o_200x10.png"]),
    Case("one_tile", [ASK], ["g_square_56.png"], stride=1),
    Case("gray", [ASK], ["e_gray_120x80.png"]),
    Case("rgba", [ASK], ["f_rgba_64x100.png"]),
    Case("palette", [ASK], ["h_palette_70x70.png"]),
    Case("exif_jpeg", [ASK], ["j_exif6_90x60.jpg"]),
]
# What becomes of these does not depend on the architecture.
RARE_PICTURE_CASES = [
    Case("gray_16_bit", [ASK], ["m_gray16_80x50.png"]),
    Case("gray_alpha", [ASK], ["n_la_50x60.png"]),
    Case("cmyk_jpeg", [ASK], ["p_cmyk_64x48.jpg"]),
]
# A patch for references that take a height of one pixel for a single channel.
CHANNELS_LAST = "the last axis of a picture is its channels, whatever its height"
FLAT_CASES = [
    Case("one_pixel", [ASK], ["l_1x1.png"]),
    Case("flat_1000x1", [ASK], ["d_1000x1.png"]),
    Case("flat_2000x1", [ASK], ["k_2000x1.png"]),
]
ORDER_CASES = [
    Case("image_only", [user(IMAGE)], ["a_97x41.png"]),
    Case("text_then_image", [user(QUESTION, IMAGE)], ["a_97x41.png"]),
    Case(
        "image_between_texts",
        [user("Look at this: ", IMAGE, " Then count to 3.")],
        ["g_square_56.png"],
    ),
    Case(
        "image_in_second_turn",
        [user("Hello there"), assistant("Hello."), user(IMAGE, "And this?")],
        ["a_97x41.png"],
    ),
    Case(
        "two_turn",
        [ASK, assistant("A snowman by a fire."), user("Zwölf Boxkämpfer? 日本")],
        ["a_97x41.png"],
    ),
    Case(
        "two_images_adjacent",
        [user(IMAGE, IMAGE, "Compare the two.")],
        ["a_97x41.png", "b_333x500.png"],
        trace=True,
    ),
    Case(
        "same_picture_twice",
        [user(IMAGE, IMAGE, "Compare the two.")],
        ["a_97x41.png", "a_97x41.png"],
    ),
    Case(
        "images_in_turns",
        [ASK, assistant("A dog."), user(IMAGE, "And this one?")],
        ["g_square_56.png", "i_wide_640x100.png"],
    ),
    Case(
        "many_turns",
        LONG_TALK,
        ["g_square_56.png", "e_gray_120x80.png", "o_200x10.png"],
    ),
]
SYSTEM_IMAGE = Case("system_image", [system("You are terse."), ASK], ["a_97x41.png"])
