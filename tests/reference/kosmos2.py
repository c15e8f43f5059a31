"""Kosmos-2, run with transformers 4.51.

python make.py kosmos2 ../golden/kosmos2 --seed 1
"""

import json
import random
from contextlib import contextmanager

import torch
import transformers
from transformers import NoRepeatNGramLogitsProcessor
from transformers.image_utils import ChannelDimension

import checkpoint
import pictures
from conversations import CHANNELS_LAST
from goldens import Architecture, Case, traced, write_json
from tokenizers_tiny import unigram

PIECES = 300
LATENTS = 64
SIDE = 56

# With a head tied to the embeddings a random model repeats its last token. Small embeddings and
# strong layers let it say other things.
TEXT_SCALES = {
    "embed_tokens.weight": 0.125,
    "fc2.weight": 8,
    "out_proj.weight": 2,
    "model.layer_norm.weight": 2,
}

GROUNDED = "<grounding>An image of"
DETAILED = "<grounding>Describe this image in detail:"
BOX = "<object><patch_index_0044><patch_index_0863></object>"


def case(name, text, *images, **settings):
    """A prompt in the model's own markup; it has no chat template."""
    options = {"text": text}
    if "bboxes" in settings:
        options["bboxes"] = settings.pop("bboxes")
    return Case(name, [], list(images), options=options, **settings)


CASES = [
    case("caption", GROUNDED, "a_97x41.png", stride=1, trace=True),
    case("detailed", DETAILED, "b_333x500.png"),
    case("ungrounded", "An image of", "c_1x1000.png"),
    case("wide", GROUNDED, "i_wide_640x100.png"),
    case("exact", "An image of", "g_square_56.png", stride=1),
    case("gray", GROUNDED, "e_gray_120x80.png"),
    case("rgba", GROUNDED, "f_rgba_64x100.png"),
    case("palette", GROUNDED, "h_palette_70x70.png"),
    case("exif_jpeg", GROUNDED, "j_exif6_90x60.jpg"),
    case("flat_1000x1", GROUNDED, "d_1000x1.png", patch=CHANNELS_LAST),
    case(
        "question",
        "<grounding> Question: What is special about this image? Answer:",
        "i_wide_640x100.png",
    ),
    case("referring", f"<grounding><phrase> a snowman</phrase>{BOX} is", "a_97x41.png"),
    case("grounding_phrase", "<grounding><phrase> a snowman by the fire</phrase>", "a_97x41.png"),
    case(
        "blanks_around_tags",
        " <grounding>  <phrase> the left one </phrase> <object> <patch_index_0000> "
        "<patch_index_1023> </object>  and  the right ",
        "g_square_56.png",
    ),
    case(
        "boxes",
        "<grounding>Here<phrase> a cat</phrase> and<phrase> two dogs</phrase> near"
        "<phrase> a fire</phrase>",
        "a_97x41.png",
        bboxes=[
            (0.390625, 0.046875, 0.984375, 0.828125),
            [(44, 863), (0.0, 0.5, 0.25, 1.0)],
            None,
        ],
    ),
    case("foreign_letters", "<grounding>Zwölf Boxkämpfer: ﬁne 日本 🙂", "a_97x41.png"),
    case("empty", "", "a_97x41.png"),
    case("text_only", "<grounding>Write a haiku about the sea, please.", trace=True),
]
REFUSED = [case("two_images", GROUNDED, "a_97x41.png", "b_333x500.png")]

# Answers as a model may write them, broken ones too.
HAND_MADE = [
    "",
    " ",
    "An image of nothing.",
    f"<grounding> An image of<phrase> a snowman</phrase>{BOX} warming himself by"
    "<phrase> a fire</phrase><object><patch_index_0005><patch_index_0911></object>.",
    "<image> . the, to and of </image><grounding> An image of<phrase> a dog</phrase>"
    "<object><patch_index_0010><patch_index_0020></object>.",
    "one</image>two</image> three ",
    "<phrase> two cats</phrase><object><patch_index_0000><patch_index_0033>"
    "</delimiter_of_multi_objects/><patch_index_0500><patch_index_1023></object> asleep",
    f"<grounding>{BOX} without a phrase",
    "<grounding> x<object><patch_index_0001><patch_index_0002></delimiter_of_multi_objects/>"
    "<patch_index_0003><patch_index_0004></object>",
    "<phrase> same cell</phrase><object><patch_index_0100><patch_index_0100></object>",
    "<phrase> same row</phrase><object><patch_index_0100><patch_index_0105></object>",
    "<phrase> same column</phrase><object><patch_index_0100><patch_index_0228></object>",
    "<phrase> wrong way round</phrase><object><patch_index_0863><patch_index_0044></object>",
    "<phrase> beyond the grid</phrase><object><patch_index_1024><patch_index_9999></object>",
    "<phrase> short numbers</phrase><object><patch_index_7><patch_index_42></object>",
    "<phrase></phrase><object><patch_index_0001><patch_index_0040></object> empty phrase",
    "<phrase> no object</phrase> here",
    "<phrase> blank before</phrase> <object><patch_index_0001><patch_index_0040></object>",
    "<phrase> blanks inside</phrase><object> <patch_index_0001> <patch_index_0040> </object>",
    "<phrase> one corner</phrase><object><patch_index_0001></object>",
    "<phrase> three corners</phrase><object><patch_index_0001><patch_index_0002>"
    "<patch_index_0003></object>",
    "<phrase> cut off</phrase><object><patch_index_0001><patch_ind",
    "<phrase> never closed<object><patch_index_0001><patch_index_0040></object>",
    "<phrase> outer<phrase> inner</phrase><object><patch_index_0001><patch_index_0040></object>",
    "a < b and c > d, <b>bold</b>",
    "  <phrase>  wide blanks  </phrase><object><patch_index_0001><patch_index_0040></object>  ",
    "<phrase> 日本の城</phrase><object><patch_index_0001><patch_index_0040></object> 🙂 und"
    "<phrase> Zwölf Boxkämpfer</phrase><object><patch_index_0002><patch_index_0080></object>",
    "first line\n<phrase> second\nline</phrase><object><patch_index_0001><patch_index_0040>"
    "</object>\n",
    "a tag <across\nlines> stays",
    "<phrase> a &amp; b</phrase><object><patch_index_0031><patch_index_0992></object>",
    "<s><grounding> A<phrase> cat</phrase><object><patch_index_0031><patch_index_0992></object>"
    "</s><pad>",
    "<phrase> ends with delimiter</phrase><object><patch_index_0001><patch_index_0040>"
    "</delimiter_of_multi_objects/></object>",
]


def generated_markup(count):
    """Answers put together at random from the model's markup."""
    rng = random.Random(11)
    words = [" a", " cat", "the red square", " ", ",", ".", " größer", "\n"]
    tags = ["<grounding>", "<phrase>", "</phrase>", "<object>", "</object>", "</image>"]
    tags += ["</delimiter_of_multi_objects/>", "</chunk>"]

    def patch():
        return f"<patch_index_{rng.randrange(1024):04d}>"

    def entity():
        pairs = [patch() + patch() for _ in range(rng.choice([1, 1, 1, 2, 3]))]
        boxes = "</delimiter_of_multi_objects/>".join(pairs)
        phrase = f"<phrase>{rng.choice(words)}{rng.choice(words)}</phrase>"
        return rng.choice([phrase, phrase, ""]) + f"<object>{boxes}</object>"

    def piece():
        kind = rng.random()
        if kind < 0.5:
            return rng.choice(words)
        if kind < 0.85:
            return entity()
        return rng.choice([patch(), rng.choice(tags)])

    return ["".join(piece() for _ in range(rng.randint(2, 9))) for _ in range(count)]


class Kosmos2(Architecture):
    """The architecture as `goldens` wants it.

    The plain results are greedy; those with the suffix `_ngram3` never repeat three tokens, which
    is what the model's own generation settings ask for.
    """

    name = "kosmos2"
    skip_weights = ("lm_head", "embed_positions")
    modes_change_logits = False
    # The vocabulary is large for a tiny model.
    logit_steps = 4
    full_pixels = 0
    stride = 5
    normalisation = (pictures.CLIP_MEAN, pictures.CLIP_STD)

    def __init__(self):
        self.header = {
            "latent_query_num": LATENTS,
            "same_preprocessor": ["preprocessor_config.json", "preprocessor_config_square.json"],
        }
        self.generate_options = {"no_repeat_ngram_size": 0}

    def build(self, out, seed):
        tokenizer = transformers.XLMRobertaTokenizerFast(
            tokenizer_object=unigram(PIECES),
            bos_token="<s>",
            eos_token="</s>",
            unk_token="<unk>",
            pad_token="<pad>",
            sep_token="</s>",
            cls_token="<s>",
        )
        processor = transformers.Kosmos2Processor(self._image_processor(), tokenizer)
        processor.save_pretrained(out)
        for name in ("tokenizer.json", "tokenizer_config.json"):
            # A thousand added tokens take a lot of blanks.
            tidy = json.loads((out / name).read_text(encoding="utf-8"))
            (out / name).write_text(json.dumps(tidy, ensure_ascii=False) + "\n", encoding="utf-8")
        self._write_preprocessor(out)
        self.processor = transformers.AutoProcessor.from_pretrained(out, use_fast=False)
        self.tokenizer = self.processor.tokenizer
        self.model = transformers.Kosmos2ForConditionalGeneration._from_config(
            self._config(), attn_implementation="eager"
        )
        self._initialise(seed)
        settings = transformers.GenerationConfig(
            bos_token_id=0, eos_token_id=2, pad_token_id=1, no_repeat_ngram_size=3
        )
        self.model.generation_config = self.model.text_model.generation_config = settings
        settings.save_pretrained(out)
        self.model.config.architectures = ["Kosmos2ForConditionalGeneration"]
        self.model.config.torch_dtype = "bfloat16"
        self.model.config.save_pretrained(out)
        return self.model

    def _image_processor(self):
        return transformers.CLIPImageProcessor(
            size={"height": SIDE, "width": SIDE},
            crop_size={"height": SIDE, "width": SIDE},
            image_mean=pictures.CLIP_MEAN,
            image_std=pictures.CLIP_STD,
            resample=3,
        )

    def _write_preprocessor(self, out):
        """Two spellings of a square size: the older needs a special case in the reference."""
        settings = self._image_processor().to_dict()
        settings.pop("_processor_class")
        settings["processor_class"] = "Kosmos2Processor"
        write_json(out / "preprocessor_config_square.json", settings)
        settings.update(size={"shortest_edge": SIDE}, use_square_size=True)
        write_json(out / "preprocessor_config.json", settings)

    def _config(self):
        return transformers.Kosmos2Config(
            latent_query_num=LATENTS,
            vision_config={
                "hidden_size": 32,
                "intermediate_size": 64,
                "num_hidden_layers": 3,
                "num_attention_heads": 2,
                "image_size": SIDE,
                "patch_size": 14,
            },
            text_config={
                "vocab_size": len(self.tokenizer),
                "embed_dim": 64,
                "layers": 3,
                "ffn_dim": 128,
                "attention_heads": 4,
                "max_position_embeddings": 2048,
                "dropout": 0.0,
                "attention_dropout": 0.0,
            },
        )

    @torch.no_grad()
    def _initialise(self, seed):
        checkpoint.initialise(self.model, seed)
        for name, parameter in self.model.text_model.named_parameters():
            for ending, factor in TEXT_SCALES.items():
                if name.endswith(ending):
                    parameter.mul_(factor)

    def cases(self):
        return CASES

    def refused(self):
        return REFUSED

    def prompt(self, case):
        self.boxes = case.options.get("bboxes")
        return self.processor._insert_patch_index_tokens(case.options["text"], self.boxes)

    def inputs(self, prompt, images, patch=None):
        options = {"input_data_format": ChannelDimension.LAST} if patch else {}
        inputs = self.processor(
            # The processor takes a list of images for a batch, each with a prompt of its own.
            images=(images[0] if len(images) == 1 else images) or None,
            text=prompt,
            return_tensors="pt",
            **options,
        )
        return dict(inputs)

    def model_inputs(self, inputs, length):
        extra = super().model_inputs(inputs, length)
        mask = extra.get("image_embeds_position_mask")
        if mask is not None:
            more = mask.new_zeros(1, length - mask.shape[1])
            extra["image_embeds_position_mask"] = torch.cat([mask, more], dim=1)
        return extra

    def reference(self, model, inputs):
        return model if "pixel_values" in inputs else model.text_model

    def image_spans(self, ids, inputs):
        mask = inputs.get("image_embeds_position_mask")
        return [] if mask is None else [[mask[0].tolist().index(1), int(mask.sum())]]

    def encode(self, out, case, prompt):
        # The processor puts the `<s>` in front itself and wants no `</s>` behind.
        return super().encode(out, case, prompt.strip())[:-1]

    def modes(self, case, prompt_len):
        return {"ngram3": self._no_repeated_trigrams()}

    @contextmanager
    def _no_repeated_trigrams(self):
        self.generate_options["no_repeat_ngram_size"] = 3
        try:
            yield
        finally:
            self.generate_options["no_repeat_ngram_size"] = 0

    def choose(self, ids, logits):
        size = self.generate_options["no_repeat_ngram_size"]
        if size:
            logits = NoRepeatNGramLogitsProcessor(size)(ids, logits[None])[0]
        return logits.argmax()

    def finish(self, record):
        """The answer as the model's own settings give it, and what the reference makes of it."""
        answer = self.decode(record["generated_ids_ngram3"])
        whole = self.decode(record["input_ids"] + record["generated_ids_ngram3"])
        record["generated_text_ngram3"] = answer
        record["post_processed"] = {
            "answer": self._post_processed(answer),
            "prompt_and_answer": self._post_processed(whole),
        }

    def _post_processed(self, raw):
        text, entities = self.processor.post_process_generation(raw)
        return {
            "raw": raw,
            "text": text,
            "entities": [
                {"phrase": phrase, "span": span, "boxes": boxes} for phrase, span, boxes in entities
            ],
        }

    def extras(self, out):
        """`post_processing.json`: raw answers, their clean text and entities."""
        raw = HAND_MADE + generated_markup(60)
        write_json(out / "post_processing.json", [self._post_processed(text) for text in raw])

    def trace(self):
        """CLIP's patches behind norm and unit length, and the latents they are pressed into."""
        return traced(
            {
                self.model.image_to_text_projection: lambda arguments, output: {
                    "vision_features": arguments[0],
                    "image_embeddings": output[0],
                }
            }
        )
