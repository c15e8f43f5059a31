"""Conversations as NeMo's templates write them."""

SYSTEM_USER = (
    "A chat between a curious user and an artificial intelligence assistant. The assistant gives "
    "helpful, detailed, and polite answers to the user's questions."
)
SYSTEM_LLAVA = (
    "You are a helpful language and vision assistant. You are able to understand the visual "
    "content that the user provides, and assist the user with a variety of tasks using natural "
    "language."
)
DEFAULT_LABELS = (
    "quality:4,toxicity:0,humor:0,creativity:0,helpfulness:4,correctness:4,coherence:4,"
    "complexity:4,verbosity:4"
)
SEPARATOR, END = "<extra_id_1>", "<extra_id_7>"
# Templates of models with a tokenizer of Llama's, and what becomes of these tokens of theirs.
LLAMA_TEMPLATES = ("v1", "llama_2")
LLAMA_IDS = {"<extra_id_3>": 0, "<extra_id_6>": 1, "<extra_id_7>": 2}


def image_tokens(length, start_end):
    """The text that stands for an image with `length` features.

    Without `start_end` the marks around it are replaced as well, and count.
    """
    patches = length if start_end else length - 2
    return "<extra_id_4>" + "<extra_id_3>" * patches + "<extra_id_5>"


def turns(messages, image):
    """`(system, [(user, assistant, labels)])`; the last assistant is `None`, to be answered.

    NeMo puts a line break behind every image.
    """
    system, rounds = None, []
    for message in messages:
        words = "".join(
            image + "\n" if part["type"] == "image" else part["text"] for part in message["content"]
        )
        if message["role"] == "system":
            system = words
        elif message["role"] == "user":
            rounds.append([words, None, DEFAULT_LABELS])
        else:
            rounds[-1][1:] = [words or None, message.get("labels", DEFAULT_LABELS)]
    return system, rounds


def steerlm(system, rounds):
    """`nvgpt` or `nv_steerlm`: a line of labels before each answer."""
    text = f"<extra_id_0>System\n{system or SYSTEM_USER}\n\n{SEPARATOR}"
    for user, assistant, labels in rounds:
        text += f"User\n{user}\n{SEPARATOR}Assistant\n<extra_id_2>{labels}\n"
        if assistant is not None:
            text += f"{assistant}\n{SEPARATOR}"
    return text


def dpo(system, rounds):
    """`nv_dpo`."""
    text = f"<extra_id_0>System\n{system or ''}\n{SEPARATOR}"
    for user, assistant, _ in rounds:
        text += f"User\n{user}\n{SEPARATOR}Assistant\n"
        if assistant is not None:
            text += f"{assistant}\n{SEPARATOR}"
    return text


def vicuna(system, rounds):
    """`v1`."""
    text = f"{system or SYSTEM_USER} "
    for index, (user, assistant, _) in enumerate(rounds):
        text += f"{' ' if index else ''}USER: {user} ASSISTANT:"
        if assistant is not None:
            text += f" {assistant}{END}"
    return text


def llama_2(system, rounds):
    """`llama_2`: the very first BOS, written `<extra_id_6>`, is missing; its blank is not."""
    text = ""
    for index, (user, assistant, _) in enumerate(rounds):
        head = (
            "<extra_id_6>" if index else f" [INST] <<SYS>>\n{system or SYSTEM_LLAVA}\n<</SYS>>\n\n"
        )
        text += f"{head} [INST] {user} [/INST]" if index else f"{head}{user} [/INST]"
        if assistant is not None:
            text += f" {assistant} {END}"
    return text


TEMPLATES = {
    "nvgpt": steerlm,
    "nv_steerlm": steerlm,
    "nv_dpo": dpo,
    "v1": vicuna,
    "llama_2": llama_2,
}


def encode(template, tokenizer, prompt):
    """The ids of a prompt; in some templates marks stand for unknown, begin and end."""
    ids = tokenizer.encode(prompt)
    if template not in LLAMA_TEMPLATES:
        return ids
    replaced = {tokenizer.piece_to_id(piece): other for piece, other in LLAMA_IDS.items()}
    return [replaced.get(token, token) for token in ids]


def render(template, messages, image):
    """The prompt of a conversation, ready for an answer."""
    return TEMPLATES[template](*turns(messages, image))
