"""Pairs of texts: from tables to a corpus, from a corpus to batches, and from batches to a run."""

from __future__ import annotations

import json
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
import torch
from corpora import made
from raising import raises
from served import running

from textus import api
from textus.cli.main import main
from textus.core.errors import DataError, UsageError
from textus.data.batch import Batch
from textus.data.bucketing import BucketLoader, pad_sources, source_mask
from textus.data.corpus import Corpus, CorpusSettings, Document, build_from_documents, open_corpus
from textus.data.corpus.documents import PART_CHARS
from textus.data.denoising import DenoisingLoader, noise_mask, span_corrupt
from textus.data.eval_text import read_pairs
from textus.data.token_dataset import TokenDataset, in_memory_dataset, load_or_tokenize
from textus.serving.scheduler import ServedModel

PAIRS = [(f"the number {n}", f"die Zahl {n}") for n in range(40)]
JSONL = "".join(json.dumps({"source": s, "target": t}) + "\n" for s, t in PAIRS)
CSV = "id,target,source\n" + "".join(f"{n},{t},{s}\n" for n, (s, t) in enumerate(PAIRS))


def pairs_of(corpus: Corpus, split: str = "train") -> list[tuple[str | None, str]]:
    return [(document.source_text, document.text) for document in corpus.documents(split)]


# ── the corpus ─────────────────────────────────────────────────────────────────────────────────


def test_columns_named_source_and_target_are_pairs(tmp_path: Path) -> None:
    for name, content in (("a.jsonl", JSONL), ("a.csv", CSV), ("a.tsv", CSV.replace(",", "\t"))):
        corpus = made(tmp_path, {name: content}, name=name)
        assert corpus.has_pairs
        assert pairs_of(corpus) == PAIRS
    first = next(open_corpus(corpus.path).documents())
    assert (first.source, first.offset) == (str(tmp_path / "a.tsv" / "a.tsv"), 0)
    assert list(corpus.texts())[:2] == list(PAIRS[0])


def test_a_parquet_of_pairs(tmp_path: Path) -> None:
    parquet = pytest.importorskip("pyarrow.parquet", reason="parquet needs textus[text]")
    table = pytest.importorskip("pyarrow").table(
        {"source": [s for s, _ in PAIRS], "target": [t for _, t in PAIRS]}
    )
    (tmp_path / "in").mkdir()
    parquet.write_table(table, tmp_path / "in" / "a.parquet")
    assert pairs_of(made(tmp_path, {})) == PAIRS


def test_a_text_column_comes_first_and_plain_corpora_are_as_before(tmp_path: Path) -> None:
    row = json.dumps({"text": "a text", "source": "wiki", "target": "x"}) + "\n"
    corpus = made(tmp_path, {"a.jsonl": row})
    assert not corpus.has_pairs
    assert pairs_of(corpus) == [(None, "a text")]
    assert "pairs" not in corpus.record


def test_both_sides_are_repaired_and_what_is_not_whole_is_reported(tmp_path: Path) -> None:
    rows = [
        {"source": "cafe\u0301", "target": "x\r\ny"},
        {"source": None, "target": "x"},
        {"source": "x", "target": 7},
        {"source": " ", "target": "x"},
        {"source": "x", "target": ""},
        {"source": "x", "target": "y" * (PART_CHARS + 1)},
    ]
    corpus = made(tmp_path, {"a.jsonl": "".join(json.dumps(row) + "\n" for row in rows)})
    assert pairs_of(corpus) == [("caf\u00e9", "x\ny")]
    assert next(corpus.documents()).steps == ("source:nfc", "newlines")
    dropped = {record["offset"]: record["reason"] for record in corpus.dropped()}
    assert dropped == {
        1: "no source",
        2: "target is not a string",
        3: "empty",
        4: "empty",
        5: "pair too long",
    }


@pytest.mark.promise(
    "Families", "Pairs are split and deduplicated by the pair, never cut, never mixed with plain texts"
)
def test_duplicates_and_the_split_go_by_the_pair(tmp_path: Path) -> None:
    same = [("a", "x"), ("b", "x"), ("a", "x"), ("a", "y"), ("ax", ""), ("a", "x")]
    rows = "".join(json.dumps({"source": s, "target": t}) + "\n" for s, t in same)
    corpus = made(tmp_path, {"a.jsonl": rows})
    assert pairs_of(corpus) == [("a", "x"), ("b", "x"), ("a", "y")]
    assert corpus.record["dropped"] == {"duplicate": 2, "empty": 1}
    whole = made(tmp_path, {"b.jsonl": JSONL}, name="whole", split="hash:0.3")
    half = made(tmp_path, {"b.jsonl": "".join(JSONL.splitlines(True)[::2])}, name="half", split="hash:0.3")
    held = set(pairs_of(whole, "validation"))
    assert 0 < len(held) < 40
    assert set(pairs_of(half, "validation")) == held & set(PAIRS[::2])
    other = JSONL.replace("the number", "number")
    assert made(tmp_path, {"b.jsonl": other}, name="other", split="hash:0.3").fingerprint != whole.fingerprint


def test_pairs_are_never_cut_or_mixed_with_plain_texts(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with raises(UsageError, "conflicting_options", "0.1"):
        made(tmp_path, {"a.jsonl": JSONL}, split="tail:0.1")
    assert made(tmp_path, {"a.jsonl": JSONL}, name="auto", split="auto").record["split"] == "hash:0.1"
    few = made(tmp_path, {"a.jsonl": JSONL.split("\n")[0] + "\n"}, name="few", split="auto")
    assert few.record["split"] == "hash:0.1"
    assert "validates" in capsys.readouterr().err
    with raises(DataError, "mixed_data"):
        made(tmp_path, {"a.jsonl": JSONL, "b.txt": "plain"}, name="mixed")
    with raises(DataError, "empty_data", "source=COLUMN", "target=COLUMN"):
        made(tmp_path, {"a.jsonl": '{"source": "x"}\n'}, name="half")


def test_pairs_made_in_python(tmp_path: Path) -> None:
    given = [Document("", target, "mine", n, source_text=source) for n, (source, target) in enumerate(PAIRS)]
    corpus = build_from_documents(given, tmp_path / "c", settings=CorpusSettings(split="none"))
    assert corpus.has_pairs
    assert pairs_of(corpus) == PAIRS


def test_a_tokenizer_learns_both_sides(tmp_path: Path) -> None:
    corpus = made(tmp_path, {"a.jsonl": JSONL})
    tokenizer = api.train_tokenizer(corpus, out=tmp_path / "t", kind="char", vocab_size=100)
    assert tokenizer.decode(tokenizer.encode("number Zahl")) == "number Zahl"
    stores = [load_or_tokenize(corpus, tokenizer, "train", side) for side in ("text", "source_text")]  # type: ignore[arg-type]
    assert [store.n_documents for store in stores] == [40, 40]
    source = stores[1].ids[1 : stores[1].starts[1]].tolist()
    assert tokenizer.decode(source) == PAIRS[0][0]


# ── batches ────────────────────────────────────────────────────────────────────────────────────

END = 0


def store(lengths: list[int], first: int) -> TokenDataset:
    """Documents of these lengths; the ids of document i are all `first + i`."""
    ids, starts = [END], []
    for number, length in enumerate(lengths):
        starts.append(len(ids) - 1)
        ids += [first + number] * length + [END]
    return in_memory_dataset(np.asarray(ids), starts)


LENGTHS = np.random.default_rng(0).integers(1, 40, 203).tolist()
SOURCE_LENGTHS = [
    max(1, n + d) for n, d in zip(LENGTHS, np.random.default_rng(1).integers(-4, 5, 203), strict=True)
]
TARGETS, SOURCES = store(LENGTHS, 1000), store(SOURCE_LENGTHS, 5000)


def loader(**values: object) -> BucketLoader:
    return BucketLoader(TARGETS, SOURCES, **{"batch_size": 8, "context_length": 64, "seed": 3, **values})  # type: ignore[arg-type]


def read(batch: Batch) -> list[int]:
    """The number of each row's pair; every rule of a pair's batch is checked on the way."""
    assert batch.source is not None
    numbers = []
    for ids, targets, weights, source in zip(
        batch.ids, batch.targets, batch.weights, batch.source, strict=True
    ):
        n = int(weights.sum())
        number = int(targets[0]) - 1000
        assert weights.tolist() == [1] * n + [0] * (len(weights) - n)
        assert targets.tolist() == [1000 + number] * (n - 1) + [END] * (len(targets) - n + 1)
        assert ids.tolist() == [END, *targets.tolist()[: n - 1]] + [END] * (len(ids) - n)
        real = source[source_mask(source[None], END)[0]]
        assert real.tolist() == [5000 + number] * SOURCE_LENGTHS[number] + [END]
        assert (n - 1, len(real) - 1) == (LENGTHS[number], SOURCE_LENGTHS[number])
        numbers.append(number)
    if batch.mask is not None:
        assert torch.equal(batch.mask, batch.weights > 0)
    return numbers


@pytest.mark.promise(
    "Families",
    "Every pair of texts comes once an epoch, whole and with its own source, and depends on seed and "
    "step alone",
)
def test_every_pair_once_an_epoch_whole_and_together() -> None:
    batches = loader()
    first = [number for step in range(25) for number in read(batches.batch(step))]
    assert len(set(first)) == 200
    seen = Counter(row for step in range(25 * 203) for row in batches.sampler.rows_at(step).tolist())
    assert set(seen.values()) == {200}  # 200 epochs
    in_order = loader(shuffle=False)
    once = [number for step in range(in_order.n_batches) for number in read(in_order.batch(step))]
    assert sorted(once) == list(range(203))
    assert in_order.n_batches == 26


def test_a_batch_depends_on_seed_and_step_alone() -> None:
    one, other = loader(), loader()
    forward = [one.batch(step) for step in range(60)]
    for step in (59, 3, 40, 0, 30):
        again = other.batch(step)
        assert torch.equal(again.ids, forward[step].ids)
        assert torch.equal(again.source, forward[step].source)  # type: ignore[arg-type]
        assert again.position == step
    assert not torch.equal(loader(seed=4).batch(0).ids, forward[0].ids)
    firsts = [int(batch.targets[0, 0]) for batch in forward]
    assert firsts != sorted(firsts)


def test_rows_of_like_length_share_a_batch() -> None:
    """Little padding, where rows dealt out as they come would be half padding."""

    def padding(batches: list[Batch]) -> float:
        cells = sum(batch.ids.numel() + batch.source.numel() for batch in batches)  # type: ignore[union-attr]
        real = sum(int(batch.weights.sum()) + int(source_mask(batch.source, END).sum()) for batch in batches)  # type: ignore[arg-type]
        return 1 - real / cells

    assert padding([loader().batch(step) for step in range(50)]) < 0.16
    unsorted = loader()
    unsorted.sampler.by_length = lambda rows: rows
    assert padding([unsorted.batch(step) for step in range(50)]) > 0.35


def test_long_texts_are_cut_in_pairs_and_continue_in_rows_of_their_own_without() -> None:
    short = loader(context_length=10)
    for step in range(20):
        batch = short.batch(step)
        assert batch.ids.shape[1] <= 10
        assert batch.source is not None
        assert batch.source.shape[1] <= 10
        assert (batch.source[:, -1] == END).all()
    alone = BucketLoader(TARGETS, batch_size=8, context_length=10, shuffle=False, start_id=7)
    targets: Counter[int] = Counter()
    for step in range(alone.n_batches):
        batch = alone.batch(step)
        assert batch.source is None
        assert (batch.ids[:, 0] == 7).all()
        targets.update(batch.targets[batch.weights > 0].tolist())
    assert targets[END] == 203
    assert all(targets[1000 + number] == length for number, length in enumerate(LENGTHS))


def test_what_makes_no_pairs_is_refused() -> None:
    with raises(DataError, "size_mismatch", "203"):
        BucketLoader(TARGETS, store([1, 2], 5), batch_size=1, context_length=8)
    with raises(UsageError, "out_of_range", "1"):
        loader(context_length=1)
    with raises(UsageError, "out_of_range", "0"):
        loader(batch_size=0)
    with raises(UsageError, "out_of_range", "-1"):
        loader().batch(-1)


def test_real_sources() -> None:
    source = pad_sources([[3, 4], [], [5, 6, 7]], END)
    assert source.tolist() == [[3, 4, 0, 0], [0, 0, 0, 0], [5, 6, 7, 0]]
    assert source_mask(source, END).sum(1).tolist() == [3, 1, 4]


# ── pairs from plain text ──────────────────────────────────────────────────────────────────────


def restored(source: list[int], target: list[int], mask: int) -> list[int]:
    """The text that was corrupted, from both sides."""
    spans: list[list[int]] = []
    for number in target[:-1]:
        if number == mask:
            spans.append([])
        else:
            spans[-1].append(number)
    whole: list[int] = []
    for number in source[:-1]:
        whole += spans.pop(0) if number == mask else [number]
    assert spans == []
    return whole


@pytest.mark.promise("Families", "Span corruption loses nothing")
def test_span_corruption_loses_nothing() -> None:
    shares = []
    for seed in range(300):
        random = np.random.default_rng(seed)
        ids = random.integers(10, 90, 1 + seed % 70)
        source, target = span_corrupt(ids, random, 2, END)
        assert (source[-1], target[-1]) == (END, END)
        assert restored(source.tolist(), target.tolist(), 2) == ids.tolist()
        noise = noise_mask(100, random)
        shares.append((noise.mean(), noise.sum() / (noise & ~np.append(False, noise[:-1])).sum()))
    assert np.mean(shares, 0) == pytest.approx([0.15, 3.0])


@pytest.mark.parametrize("objective", ["span", "prefix"])
def test_plain_text_becomes_pairs_anew_each_time(objective: str) -> None:
    batches = DenoisingLoader(TARGETS, objective=objective, mask_id=2, batch_size=4, context_length=20)
    first, again = batches.batch(5), batches.batch(5)
    assert first.source is not None
    assert again.source is not None
    assert torch.equal(first.source, again.source)
    assert first.source.shape[1] <= 20
    different = 0
    for row, targets, weights in zip(first.source, first.targets, first.weights, strict=True):
        given = row[source_mask(row[None], END)[0]].tolist()
        wanted = targets[weights > 0].tolist()
        whole = (
            restored(given, wanted, 2)
            if objective == "span"
            else given[:-1] + [x for x in wanted if x != END]
        )
        assert 0 < len(whole) <= 19
        different += len(set(whole))
        assert len(set(whole)) == 1  # of one document
    assert different == 4


@pytest.mark.parametrize("objective", ["span", "prefix"])
def test_the_shortest_context_is_reported_as_it_was_given(objective: str) -> None:
    sizes = {"objective": objective, "mask_id": 2, "batch_size": 4}
    with raises(UsageError, "out_of_range", "2"):
        DenoisingLoader(TARGETS, context_length=2, **sizes)
    batch = DenoisingLoader(TARGETS, context_length=3, **sizes).batch(0)
    assert batch.ids.shape[1] <= 3
    assert batch.source is not None
    assert batch.source.shape[1] <= 3


def test_a_tokenizer_without_a_spare_id_cannot_mark_spans() -> None:
    with raises(UsageError, "unsupported_tokenizer"):
        DenoisingLoader(TARGETS, objective="span", mask_id=END, batch_size=4, context_length=20)
    with raises(UsageError, "unknown_name", "'span'"):
        DenoisingLoader(TARGETS, objective="spam", mask_id=2, batch_size=4, context_length=20)


# ── a run ──────────────────────────────────────────────────────────────────────────────────────

TINY = [
    "model.position=learned",  # the letter at a place becomes the letter at that place
    *(
        "model.n_layer=1",
        "model.d_model=32",
        "model.n_head=2",
        "model.context_length=24",
        "model.dropout=0.1",
    ),
    *("train.batch_size=16", "optim.rate=0.02", "compute.precision=float32"),
]


@pytest.fixture(scope="module")
def corpus(tmp_path_factory: pytest.TempPathFactory) -> Corpus:
    """Words of three letters, and the same with capital letters."""
    letters = "abcdef"
    words = [a + b + c for a in letters for b in letters for c in letters]
    rows = "".join(json.dumps({"source": word, "target": word.upper()}) + "\n" for word in words)
    return made(tmp_path_factory.mktemp("pairs"), {"a.jsonl": rows}, split="hash:0.3")


@pytest.fixture(scope="module")
def run(corpus: Corpus) -> api.Run:
    out = corpus.path.parent / "run"
    return api.train(corpus, model="encoder-decoder", tokenizer="char", steps=120, overrides=TINY, out=out)


def test_a_run_on_pairs_translates_what_it_has_not_seen(
    run: api.Run, corpus: Corpus, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    held = pairs_of(corpus, "validation")
    right = sum(run.generate(str(source), temperature=0, max_tokens=9) == target for source, target in held)
    assert right > 0.8 * len(held)
    source, _ = held[0]
    capsys.readouterr()
    assert main(["generate", str(run.path), str(source), "--temperature", "0", "--max-tokens", "9"]) == 0
    out = capsys.readouterr().out
    assert out == run.generate(str(source), temperature=0, max_tokens=9) + "\n"
    assert run.chat([{"role": "user", "content": str(source)}], temperature=0, max_tokens=9) + "\n" == out
    scores = run.evaluate(samples=False)
    assert (scores["kind"], scores["documents"]) == ("exact", len(held))
    assert scores["nats_per_character"] < 0.5 < np.log(6)  # the target alone cannot be told better than log 6
    rows = "".join(json.dumps({"source": s, "target": t}) + "\n" for s, t in held)
    (tmp_path / "held.jsonl").write_text(rows)
    assert run.evaluate(tmp_path / "held.jsonl", samples=False)["bits_per_byte"] == scores["bits_per_byte"]
    (tmp_path / "held.txt").write_text("ABC")
    with raises(DataError, "incompatible_data", "held.txt"):
        read_pairs(tmp_path / "held.txt")


def test_rows_that_make_no_pair_and_broken_characters_are_reported(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    rows = [
        '{"source": "a", "target": "A"}',
        '{"source": "b"}',
        '{"source": "c\\ud800", "target": "C"}',
        "{broken",
    ]
    file = tmp_path / "pairs.jsonl"
    file.write_text("\n".join(rows) + "\n")
    texts = read_pairs(file)
    assert [(part.source, part.text) for part in texts] == [("a", "A"), ("c\ufffd", "C")]
    assert texts.n_bytes == 2
    lines = capsys.readouterr().err
    assert f"{file}: 2 rows make no pair and are left out; the first {file}: " in lines
    assert f"{file}: 1 broken bytes were read as U+FFFD" in lines


def test_a_server_gives_the_prompt_as_the_source(run: api.Run) -> None:
    httpx = pytest.importorskip("httpx", reason="the server's tests need textus[dev]")
    model, tokenizer = run.model, run.tokenizer
    served = ServedModel(
        "pairs", model, tokenizer, created=1, chat=False, context_length=model.config.context_length
    )
    with running(served) as address:
        request = {"model": "pairs", "temperature": 0, "max_tokens": 9}
        text = httpx.post(f"{address}/v1/completions", json={**request, "prompt": "fed"}).json()["choices"][
            0
        ]["text"]
    assert text == run.generate("fed", temperature=0, max_tokens=9)


@pytest.mark.promise("Families", "A run on pairs resumes to the same bytes")
def test_a_run_on_pairs_resumes_to_the_same_bytes(run: api.Run) -> None:
    assert api.verify_determinism(run.path)["identical"]


def test_plain_text_is_for_pretraining_and_pairs_are_not_for_a_decoder(
    corpus: Corpus, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with raises(UsageError, "incompatible_data"):
        api.train(corpus, tokenizer="char", steps=2, out=tmp_path / "no")
    assert not (tmp_path / "no").exists()
    plain = made(tmp_path, {f"{n}.txt": f"the cat number {n} sat on the mat\n" * 4 for n in range(30)})
    for objective, message in (("span", "missing spans"), ("prefix", "a given beginning")):
        settings = [*TINY, f"model.objective={objective}"]
        api.train(
            plain,
            model="encoder-decoder",
            tokenizer="char",
            steps=2,
            overrides=settings,
            out=tmp_path / objective,
        )
        err = capsys.readouterr().err
        assert err.count("the corpus has no pairs: pre-training by ") == 1
        assert message in err
