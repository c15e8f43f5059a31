"""Golden of the sampler: distributions as transformers' own logits processors warp them.

`distributions.json` has cases of `logits` [vocab] (null where the model rules a token out), the
ids of `prompt` and `answer`, `sampling` as the engine calls its settings (what is absent is off),
`suppressed` ids, and `probabilities` [vocab]: what a token is drawn by. To be met within 1e-5,
zeros exactly.

Penalties and n-grams count prompt and answer, bad words the answer alone (vLLM's rule; transformers
counts both). The order is that of `GenerationMixin`.
"""

import json
from pathlib import Path

import torch
from transformers import generation as g

VOCAB = 48
EOS = 0


def processors(sampling, suppressed, prompt):
    """transformers' processors for these settings, each with the ids that it looks at."""
    everything, answer = slice(None), slice(len(prompt), None)
    made = []
    if "logit_bias" in sampling:
        bias = [[[token], value] for token, value in sampling["logit_bias"]]
        made.append((g.SequenceBiasLogitsProcessor(bias), everything))
    if "repetition_penalty" in sampling:
        penalty = g.RepetitionPenaltyLogitsProcessor(sampling["repetition_penalty"])
        made.append((penalty, everything))
    if "no_repeat_ngram_size" in sampling:
        ngrams = g.NoRepeatNGramLogitsProcessor(sampling["no_repeat_ngram_size"])
        made.append((ngrams, everything))
    if "bad_words" in sampling:
        made.append((g.NoBadWordsLogitsProcessor(sampling["bad_words"], None), answer))
    if suppressed:
        made.append((g.MinNewTokensLengthLogitsProcessor(0, 10**6, suppressed), everything))
    if "allowed_tokens" in sampling:
        others = [token for token in range(VOCAB) if token not in sampling["allowed_tokens"]]
        made.append((g.SuppressTokensLogitsProcessor(others), everything))
    for name, warper in [
        ("temperature", g.TemperatureLogitsWarper),
        ("top_k", g.TopKLogitsWarper),
        ("top_p", g.TopPLogitsWarper),
        ("min_p", g.MinPLogitsWarper),
        ("typical_p", g.TypicalLogitsWarper),
    ]:
        if name in sampling:
            made.append((warper(sampling[name]), everything))
    return made


def case(name, logits, sampling, prompt=(), answer=(), suppressed=()):
    """One case of the golden, computed in double precision from logits that f32 can hold."""
    prompt, answer = list(prompt), list(answer)
    ids = torch.tensor([prompt + answer], dtype=torch.long)
    scores = logits.double()[None]
    for processor, seen in processors(sampling, list(suppressed), prompt):
        scores = processor(ids[:, seen], scores)
    return {
        "name": name,
        "logits": [float(logit) if logit.isfinite() else None for logit in logits],
        "prompt": prompt,
        "answer": answer,
        "sampling": sampling,
        "suppressed": list(suppressed),
        "probabilities": scores.softmax(-1)[0].tolist(),
    }


def make(out):
    """Writes `distributions.json` into the folder `out`."""
    generator = torch.Generator().manual_seed(1)

    def logits(spread):
        return (torch.randn(VOCAB, generator=generator) * spread).float()

    def ids(count):
        return torch.randint(VOCAB, (count,), generator=generator).tolist()

    cases = [case("plain", logits(2), {})]
    for spread in (0.3, 2.0, 8.0):
        for mass in (0.05, 0.2, 0.5, 0.9, 0.99):
            name = f"typical {mass} of spread {spread}"
            cases.append(case(name, logits(spread), {"typical_p": mass}))
    # Two tokens that are equally far from the average.
    tie = torch.zeros(VOCAB)
    tie[:2] = 3.0
    tie[2:6] = 1.0
    for mass in (0.05, 0.3, 0.6, 0.95):
        cases.append(case(f"typical {mass} with ties", tie, {"typical_p": mass}))
    ruled_out = logits(2)
    ruled_out[::3] = -float("inf")
    for sampling in ({}, {"typical_p": 0.5}, {"typical_p": 0.9, "top_k": 20}):
        cases.append(case(f"tokens ruled out, {sampling}", ruled_out, sampling))
    warped = {"temperature": 0.7, "top_k": 20, "top_p": 0.9, "min_p": 0.02, "typical_p": 0.8}
    for name in warped:
        cases.append(case(f"{name} alone", logits(2), {name: warped[name]}))
    for missing in (None, *warped):
        sampling = {name: value for name, value in warped.items() if name != missing}
        cases.append(case(f"all warpers but {missing}", logits(2), sampling))
        hot = sampling | {"temperature": 1.6}
        cases.append(case(f"hot, all warpers but {missing}", logits(3), hot))
    prompt, answer = [3, 7, 9, 3, 7], [5, 3, 8, 5, 3]
    rules = {
        "logit_bias": [[3, 2.5], [8, -4.0]],
        "repetition_penalty": 1.3,
        "no_repeat_ngram_size": 2,
        "bad_words": [[11], [5, 3, 12], [3, 13], [8, 14], [7, 5, 3, 15]],
    }
    for name in rules:
        cases.append(case(f"{name} alone", logits(3), {name: rules[name]}, prompt, answer))
    cases.append(case("stop tokens suppressed", logits(3), {}, prompt, answer, [EOS, 17]))
    allowed = {"allowed_tokens": [40, 1, 5, 30, 12, 13, 22, EOS]}
    cases.append(case("allowed tokens alone", logits(3), allowed, prompt, answer))
    for round_ in range(4):
        only = {"allowed_tokens": sorted(set(ids(24)))} if round_ % 2 else {}
        everything = rules | warped | {"temperature": 1.8} | only
        cases.append(case(f"everything {round_}", logits(3), everything, prompt, answer, [EOS]))
    path = Path(out)
    path.mkdir(parents=True, exist_ok=True)
    lines = ",\n".join(json.dumps(entry) for entry in cases)
    (path / "distributions.json").write_text(f'{{"cases": [\n{lines}\n]}}\n')
