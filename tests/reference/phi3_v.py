"""Phi-3-vision and Phi-3.5-vision, run with the authors' remote code from $PHI3V_REF."""

import importlib
import os
import re
import shutil
import sys
import tempfile
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

import torch
import transformers

import checkpoint
from goldens import NEW_TOKENS, Architecture, Case, traced, write_json
from pictures import CLIP_MEAN, CLIP_STD
from tokenizers_tiny import sentencepiece_bpe, special

CHAT_TEMPLATE = (
    "{% for message in messages %}"
    "{{ '<|' + message['role'] + '|>\n' + message['content'] + '<|end|>\n' }}"
    "{% endfor %}"
    "{% if add_generation_prompt and messages[-1]['role'] != 'assistant' %}"
    "{{ '<|assistant|>\n' }}"
    "{% endif %}"
)

# The added tokens in the real order; those marked True swallow the white space behind them.
ADDED_TOKENS = {
    "<|endoftext|>": False,
    "<|assistant|>": True,
    "<|placeholder1|>": True,
    "<|placeholder2|>": True,
    "<|placeholder3|>": True,
    "<|placeholder4|>": True,
    "<|system|>": False,
    "<|end|>": False,
    "<|placeholder5|>": True,
    "<|placeholder6|>": True,
    "<|user|>": False,
    "<|placeholder7|>": True,
    "<|image|>": True,
}

PIECES = 800
VOCABULARY = 832
# Where the reference raises, though the input makes sense.
EVERY_OCCURRENCE = "features of an image are inserted at every occurrence of its tag"
ONE_PIXEL_HIGH = "the height after scaling is at least one pixel"
IMAGE_TAG = re.compile(r"<\|image_(\d+)\|>")

SOURCES = [
    "configuration_phi3_v.py",
    "image_embedding_phi3_v.py",
    "image_processing_phi3_v.py",
    "modeling_phi3_v.py",
    "processing_phi3_v.py",
]

VARIANTS = {
    # As many key heads as query heads and a long original context, as in the real ones.
    "phi3": {
        "num_crops": 16,
        "rope_type": "su",
        "vision": 64,
        "config": {
            "hidden_size": 64,
            "intermediate_size": 128,
            "num_hidden_layers": 2,
            "num_attention_heads": 4,
            "num_key_value_heads": 4,
            "max_position_embeddings": 131072,
            "original_max_position_embeddings": 4096,
            "pad_token_id": None,
        },
    },
    # Grouped key heads, and an original context so short that a small prompt crosses it.
    "phi3.5": {
        "num_crops": 4,
        "rope_type": "longrope",
        "vision": 128,
        "config": {
            "hidden_size": 96,
            "intermediate_size": 192,
            "num_hidden_layers": 3,
            "num_attention_heads": 4,
            "num_key_value_heads": 2,
            "max_position_embeddings": 4096,
            "original_max_position_embeddings": 512,
            "pad_token_id": PIECES,
            "embd_pdrop": 0.0,
            "resid_pdrop": 0.0,
        },
    },
}
# One factor for each pair of a head's dimensions; a smaller head takes the first ones.
SHORT_FACTOR = [1.05, 1.1, 1.1, 1.2, 1.5, 1.9, 2.0, 2.0, 2.1, 2.3, 2.6, 3.0]
LONG_FACTOR = [1.03, 1.08, 1.3, 1.9, 3.7, 9.1, 15.7, 23.1, 39.9, 57.9, 63.5, 64.8]


def edits(vision):
    """Textual changes to the remote code: `{file: {old: new}}`.

    It writes CLIP's sizes down as literals. These make it 3 layers of width `vision` with heads of
    64, as the real tower has 16 heads of 64; patches, pictures and order stay.
    """
    return {
        "image_embedding_phi3_v.py": {
            "hidden_size=1024": f"hidden_size={vision}",
            "intermediate_size=4096": f"intermediate_size={2 * vision}",
            "num_attention_heads=16": f"num_attention_heads={vision // 64}",
            "num_hidden_layers=24": "num_hidden_layers=3",
            "and C == 1024": f"and C == {vision}",
        },
        # One knob for pictures so flat that their height rounds to nothing: 0 is the original.
        "image_processing_phi3_v.py": {
            "new_h = int(new_w / ratio)": "new_h = max(MINIMUM_HEIGHT, int(new_w / ratio))",
            "def padding_336(b):": "MINIMUM_HEIGHT = 0\n\ndef padding_336(b):",
        },
    }


def import_remote_code(vision):
    """Imports the remote code as a package, shrunk as `edits` says."""
    source = os.environ.get("PHI3V_REF")
    if not source:
        sys.exit("set PHI3V_REF to a folder with the remote code of Phi-3-vision (see README.md)")
    folder = Path(tempfile.mkdtemp(prefix="phi3v-"))
    package = folder / "phi3v_remote"
    package.mkdir()
    (package / "__init__.py").touch()
    for name in SOURCES:
        text = (Path(source) / name).read_text(encoding="utf-8")
        for old, new in edits(vision).get(name, {}).items():
            if old not in text:
                sys.exit(f"{name}: this revision of the remote code lacks {old!r}")
            text = text.replace(old, new)
        (package / name).write_text(text, encoding="utf-8")
    sys.path.insert(0, str(folder))
    try:
        return {name: importlib.import_module(f"phi3v_remote.{name[:-3]}") for name in SOURCES}
    finally:
        sys.path.remove(str(folder))
        shutil.rmtree(folder)


def user(text):
    """A user message."""
    return {"role": "user", "content": text}


def assistant(text):
    """An assistant message."""
    return {"role": "assistant", "content": text}


def system(text):
    """A system message."""
    return {"role": "system", "content": text}


QUESTION = "What is shown in this image?"
ASK = user(f"<|image_1|>\n{QUESTION}")

CASES = [
    Case("text_only", [user("Write a haiku about the sea, please.")], trace=True),
    Case("system_text", [system("You are terse."), user("Hello there")]),
    Case("one_image", [ASK], ["a_97x41.png"], stride=12, trace=True),
    Case("portrait", [user("<|image_1|>\nDescribe the picture in detail.")], ["b_333x500.png"]),
    Case("thin_1x1000", [ASK], ["c_1x1000.png"]),
    Case("wide", [user("<|image_1|>\nRead 12345.")], ["i_wide_640x100.png"]),
    Case("gray", [ASK], ["e_gray_120x80.png"]),
    Case("rgba", [ASK], ["f_rgba_64x100.png"]),
    Case("exif_jpeg", [ASK], ["j_exif6_90x60.jpg"]),
    Case(
        "two_images",
        [user("<|image_1|>\n<|image_2|>\nCompare the two.")],
        ["a_97x41.png", "b_333x500.png"],
    ),
    Case(
        "two_turn",
        [ASK, assistant("A snowman by a fire."), user("Zwölf Boxkämpfer? 日本")],
        ["g_square_56.png"],
    ),
    Case("system_image", [system("You are terse."), ASK], ["o_200x10.png"]),
    Case("text_then_image", [user(f"{QUESTION}\n<|image_1|>")], ["a_97x41.png"]),
    Case(
        "image_in_the_middle",
        [user("Look at this: <|image_1|> Then count to 3.")],
        ["g_square_56.png"],
    ),
    Case("image_tag_without_newline", [user("<|image_1|>Hello")], ["a_97x41.png"]),
    Case("image_only", [user("<|image_1|>")], ["a_97x41.png"]),
    Case(
        "images_in_turns",
        [ASK, assistant("A dog."), user("<|image_2|>\nAnd this one?")],
        ["g_square_56.png", "i_wide_640x100.png"],
    ),
    Case(
        "same_picture_twice",
        [user("<|image_1|>\n<|image_2|>\nCompare the two.")],
        ["a_97x41.png", "a_97x41.png"],
    ),
    Case(
        "tag_repeated",
        [user("<|image_1|>\nand again <|image_1|>\nHow many?")],
        ["a_97x41.png"],
        patch=EVERY_OCCURRENCE,
    ),
    Case("palette", [ASK], ["h_palette_70x70.png"]),
    Case("gray_16_bit", [ASK], ["m_gray16_80x50.png"]),
    Case("gray_alpha", [ASK], ["n_la_50x60.png"]),
    Case("cmyk_jpeg", [ASK], ["p_cmyk_64x48.jpg"]),
    Case("one_pixel", [ASK], ["l_1x1.png"]),
    Case("flat_1000x1", [ASK], ["d_1000x1.png"]),
    Case(
        "flat_2000x1",
        [ASK],
        ["k_2000x1.png"],
        patch=ONE_PIXEL_HIGH,
    ),
]
# With 16 crops a picture is up to 2509 tokens, and little is left to test after 4 crops.
FEW_CASES = ("text_only", "one_image", "portrait")


def rope_cases(tokenizer, context):
    """Prompts that end where one set of rotary factors gives way to the other.

    The first fills the original context to the last token, answer included. The second is one
    token too long by a rule that counts prompt and answer, though the reference, which never feeds
    the last token, does not notice. The third crosses in the middle of the answer.
    """
    lengths = {
        "fills_original_context": context - NEW_TOKENS,
        "exceeds_by_one": context - NEW_TOKENS + 1,
        "crosses_rope_boundary": context - NEW_TOKENS // 2 + 1,
    }
    overhead = 0

    def messages(length):
        return [user("word " * (length - overhead) + "end")]

    def count(length):
        prompt = tokenizer.apply_chat_template(
            messages(length), add_generation_prompt=True, tokenize=False
        )
        return len(tokenizer(prompt).input_ids)

    overhead = count(100) - 100
    for name, length in lengths.items():
        if count(length) != length:
            raise AssertionError(f"{name}: {count(length)} tokens instead of {length}")
        yield Case(name, messages(length))


class Phi3V(Architecture):
    """The architecture as `goldens` wants it."""

    name = "phi3_v"
    # `wte` is another name of the token embeddings; position ids are not weights.
    skip_weights = ("wte", "position_ids")
    # Crops of 336 pixels are dear.
    no_cache_steps_with_images = 3

    def __init__(self, variant="phi3.5", num_crops=None):
        self.settings = VARIANTS[variant]
        self.num_crops = num_crops or self.settings["num_crops"]
        self.header = {
            "variant": variant,
            "num_crops": self.num_crops,
            "original_max_position_embeddings": self.context,
        }
        self.code = import_remote_code(self.settings["vision"])

    @property
    def context(self):
        """Tokens up to which the short factors hold."""
        return self.settings["config"]["original_max_position_embeddings"]

    def build(self, out, seed):
        self.tokenizer = self._tokenizer()
        self.tokenizer.save_pretrained(out)
        self.processor = self._processor(out)
        config = self._config()
        self.model = self.code["modeling_phi3_v.py"].Phi3VForCausalLM(config)
        checkpoint.initialise(self.model, seed)
        self.model.generation_config = transformers.GenerationConfig(
            bos_token_id=1,
            eos_token_id=[2, PIECES, PIECES + 1, PIECES + 7],
            pad_token_id=PIECES,
        )
        self.model.generation_config.save_pretrained(out)
        self._save_config(config, out)
        return self.model

    def _tokenizer(self):
        added = [special(text, rstrip=rstrip) for text, rstrip in ADDED_TOKENS.items()]
        tokenizer = transformers.LlamaTokenizerFast(
            tokenizer_object=sentencepiece_bpe(PIECES, added),
            bos_token="<s>",
            eos_token="<|endoftext|>",
            unk_token="<unk>",
            pad_token="<|endoftext|>",
            legacy=False,
            add_bos_token=True,
            clean_up_tokenization_spaces=False,
            padding_side="right",
            model_max_length=131072,
        )
        tokenizer.chat_template = CHAT_TEMPLATE
        return tokenizer

    def _processor(self, out):
        image_processor = self.code["image_processing_phi3_v.py"].Phi3VImageProcessor(
            num_crops=self.num_crops,
            image_mean=CLIP_MEAN,
            image_std=CLIP_STD,
            num_img_tokens=144,
        )
        settings = {
            "auto_map": {
                "AutoProcessor": "processing_phi3_v.Phi3VProcessor",
                "AutoImageProcessor": "image_processing_phi3_v.Phi3VImageProcessor",
            },
            "num_crops": self.num_crops,
            "image_mean": CLIP_MEAN,
            "image_std": CLIP_STD,
            "image_processor_type": "Phi3VImageProcessor",
            "processor_class": "Phi3VProcessor",
            "num_img_tokens": 144,
        }
        write_json(out / "preprocessor_config.json", settings)
        processor = self.code["processing_phi3_v.py"].Phi3VProcessor
        return processor(image_processor, self.tokenizer)

    def _config(self):
        sizes = self.settings["config"]
        pairs = sizes["hidden_size"] // sizes["num_attention_heads"] // 2
        config = self.code["configuration_phi3_v.py"].Phi3VConfig(
            vocab_size=VOCABULARY,
            rms_norm_eps=1e-5,
            rope_theta=10000.0,
            # This revision knows only the older of the two spellings.
            rope_scaling={
                "type": "su",
                "short_factor": SHORT_FACTOR[:pairs],
                "long_factor": LONG_FACTOR[:pairs],
            },
            bos_token_id=1,
            eos_token_id=2,
            sliding_window=sizes["max_position_embeddings"],
            tie_word_embeddings=False,
            attention_dropout=0.0,
            embd_layer={
                "embedding_cls": "image",
                "hd_transform_order": "sub_glb",
                "projection_cls": "mlp",
                "use_hd_transform": True,
                "with_learnable_separator": True,
            },
            img_processor={
                "image_dim_out": self.settings["vision"],
                "model_name": "openai/clip-vit-large-patch14-336",
                "name": "clip_vision_model",
                "num_img_tokens": 144,
            },
            **sizes,
        )
        config._attn_implementation = "eager"
        config.architectures = ["Phi3VForCausalLM"]
        config.auto_map = {
            "AutoConfig": "configuration_phi3_v.Phi3VConfig",
            "AutoModelForCausalLM": "modeling_phi3_v.Phi3VForCausalLM",
        }
        return config

    def _save_config(self, config, out):
        settings = config.to_diff_dict()
        settings["rope_scaling"]["type"] = self.settings["rope_type"]
        settings["torch_dtype"] = "bfloat16"
        write_json(out / "config.json", settings)

    def cases(self):
        rope = list(rope_cases(self.tokenizer, self.context))
        if self.num_crops == 4:
            return CASES + rope
        few = [case for case in CASES if case.name in FEW_CASES]
        return [replace(case, stride=24, trace=False) for case in few] + rope[-1:]

    def inputs(self, prompt, images, patch=None):
        processing = self.code["image_processing_phi3_v.py"]
        processing.MINIMUM_HEIGHT = 1 if patch == ONE_PIXEL_HIGH else 0
        inputs = dict(self.processor(prompt, images or None, return_tensors="pt"))
        if images:
            inputs["image_sizes"] = torch.as_tensor(inputs["image_sizes"])
        tags = [int(tag) - 1 for tag in IMAGE_TAG.findall(prompt)]
        self.occurrences = tags if patch == EVERY_OCCURRENCE else None
        return inputs

    def model_inputs(self, inputs, length):
        extra = super().model_inputs(inputs, length)
        if self.occurrences:
            extra = {name: value[self.occurrences] for name, value in extra.items()}
        return extra

    def notes(self, case, prompt_len):
        rule = "long" if prompt_len + NEW_TOKENS > self.context else "short"
        return {"rope_rule": rule, "rope_reference": self._rope_of_reference(prompt_len)}

    def _rope_of_reference(self, prompt_len):
        """The reference looks at the last position of each call; the last token is never fed."""
        if prompt_len > self.context:
            return "long"
        return "mixed" if prompt_len + NEW_TOKENS - 1 > self.context else "short"

    def modes(self, case, prompt_len):
        notes = self.notes(case, prompt_len)
        if notes["rope_rule"] == notes["rope_reference"]:
            return {}
        return {"long": self._forced("long"), "short": self._forced("short")}

    @contextmanager
    def _forced(self, which):
        """One set of factors for every call, whatever the position."""
        rotaries = [layer.self_attn.rotary_emb for layer in self.model.model.layers]
        originals = [(rotary.short_factor, rotary.long_factor) for rotary in rotaries]
        for rotary in rotaries:
            rotary.short_factor = rotary.long_factor = getattr(rotary, f"{which}_factor")
        try:
            yield
        finally:
            for rotary, (short, long) in zip(rotaries, originals, strict=True):
                rotary.short_factor, rotary.long_factor = short, long

    def trace(self):
        """Every eighth row of what replaces the image placeholders, and of CLIP's features."""
        vision = self.model.model.vision_embed_tokens
        return traced(
            {
                vision.img_projection: lambda _, output: {
                    "image_embeddings_strided": output[..., ::8, :]
                },
                vision.img_processor: lambda _, output: {
                    "vision_features_strided": output.hidden_states[-2][:, 1:][..., ::8, :]
                },
            }
        )
