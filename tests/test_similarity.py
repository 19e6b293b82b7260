"""Texts as vectors: pooling beside transformers, both ways of learning beside arithmetic, scores of pairs, figures of
search beside scikit-learn."""

from __future__ import annotations

import json
import random
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from labelled import written
from raising import raises
from scipy import stats
from sklearn import metrics as sklearn
from torch.nn import functional as F

from textus import api
from textus.cli.main import main
from textus.core.errors import DataError, UsageError
from textus.data.batch import Batch
from textus.metrics import ranking
from textus.models.nn.heads import SimilarityHead, duplicate_positives_mask
from textus.tasks.base import Example
from textus.tasks.encoding import collate as tasks_batch
from textus.tasks.encoding import encode_examples, input_template
from textus.tasks.inference import hidden_states
from textus.tasks.similarity import Similarity, SimilaritySettings

SMALL = ("train.batch_size=8", "model.n_layer=1", "model.d_model=32", "optim.rate=0.005")
WORDS = ["red", "green", "blue", "black", "white", "grey", "pink", "brown", "gold", "teal", "plum", "rust"]


def scored(n: int, seed: int = 0) -> list[dict[str, Any]]:
    """Pairs of four words each; the score, 1 to 5, is one more than how many they share."""
    draw, rows = random.Random(seed), []
    for number in range(n):
        words = draw.sample(WORDS, 8)
        shared = number % 5
        other = words[:shared] + words[4 : 8 - shared]
        rows.append(
            {
                "text": " ".join(words[:4]),
                "text_pair": " ".join(draw.sample(other, 4)),
                "score": 1.0 + shared,
            }
        )
    return rows


def belonging(n: int, seed: int = 0) -> list[dict[str, Any]]:
    """Pairs of the same words in another order, and a text that shares all but one."""
    draw, rows = random.Random(seed), []
    for _ in range(n):
        words = draw.sample(WORDS, 5)
        texts = [" ".join(draw.sample(part, 4)) for part in (words[:4], words[:4], words[1:])]
        rows.append(dict(zip(("text", "text_pair", "negative"), texts, strict=True)))
    return rows


def learnt(rows: list[dict[str, Any]], out: Path, *settings: str, **words: Any) -> api.Run:
    data = written(out.parent / f"{out.name}.jsonl", rows)
    words = {"model": "gru", "epochs": 8, **words}
    return api.finetune(data, task="similarity", out=out, overrides=[*SMALL, *settings], **words)


@pytest.fixture(scope="module")
def tuned(tmp_path_factory: pytest.TempPathFactory) -> api.Run:
    return learnt(scored(600), tmp_path_factory.mktemp("runs") / "scored", "model.dropout=0")


@pytest.fixture(scope="module")
def bert(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A random BERT of transformers, with a tokenizer of its kind."""
    import tokenizers
    import transformers

    folder = tmp_path_factory.mktemp("bert")
    words = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", *WORDS]
    model = tokenizers.models.WordPiece(
        {word: number for number, word in enumerate(words)}, unk_token="[UNK]"
    )
    backend = tokenizers.Tokenizer(model)
    backend.pre_tokenizer = tokenizers.pre_tokenizers.BertPreTokenizer()
    backend.decoder = tokenizers.decoders.WordPiece()
    backend.post_processor = tokenizers.processors.BertProcessing(("[SEP]", 3), ("[CLS]", 2))
    named = {f"{name.lower()}_token": f"[{name}]" for name in ("PAD", "UNK", "CLS", "SEP", "MASK")}
    transformers.PreTrainedTokenizerFast(tokenizer_object=backend, **named).save_pretrained(folder)
    config = transformers.BertConfig(
        vocab_size=len(words), hidden_size=16, num_hidden_layers=2, num_attention_heads=2, intermediate_size=32
    )  # fmt: skip
    torch.manual_seed(0)
    theirs = transformers.BertModel(config)
    for parameter in theirs.parameters():
        torch.nn.init.normal_(parameter, std=0.3)
    theirs.save_pretrained(folder)
    return folder


@pytest.fixture(scope="module")
def imported(bert: Path, tmp_path_factory: pytest.TempPathFactory) -> api.Run:
    return api.import_model(bert, out=tmp_path_factory.mktemp("runs") / "bert")


# ── vectors ────────────────────────────────────────────────────────────────────────────────────


@pytest.mark.promise(
    "Tasks", "Vectors of texts are those of `transformers`; two texts of a row are read apart"
)
@pytest.mark.parametrize("pooling", ["mean", "cls", "max"])
def test_vectors_are_those_of_transformers(bert: Path, imported: api.Run, pooling: str) -> None:
    import transformers

    theirs = transformers.BertModel.from_pretrained(bert).eval()
    words = {"[PAD]": 0, "[CLS]": 2, "[SEP]": 3, **{word: 5 + n for n, word in enumerate(WORDS)}}
    texts = ["red", "grey gold teal plum rust", "blue black"]
    rows = [[words[item] for item in ("[CLS]", *text.split(), "[SEP]")] for text in texts]
    mask = torch.tensor([[int(n < len(row)) for n in range(7)] for row in rows])
    ids = torch.tensor([row + [0] * (7 - len(row)) for row in rows])
    with torch.no_grad():
        states = theirs(ids, attention_mask=mask).last_hidden_state
    expected = {
        "mean": (states * mask[..., None]).sum(1) / mask.sum(1, keepdim=True),
        "cls": states[:, 0],
        "max": states.masked_fill(mask[..., None] == 0, -1e9).amax(1),
    }[pooling]
    result = imported.embed(texts, overrides=[f"task.pooling={pooling}"])
    assert result == pytest.approx(F.normalize(expected, dim=1).numpy(), abs=1e-5)
    assert result.dtype == np.float32


def test_texts_of_a_pair_do_not_see_each_other(imported: api.Run, tuned: api.Run) -> None:
    for run, close in ((imported, 1e-5), (tuned, 2e-2)):  # bfloat16
        task = run.as_task("similarity")
        alone = run.embed(["red green", "blue black white grey pink"])
        answer = run.predict([("red green", "blue black white grey pink")]) if run is tuned else None
        cosine = float(alone[0] @ alone[1])
        frame = input_template(run.model.config, run.tokenizer)
        example = Example(("red green", "blue black white grey pink"), None, "")
        rows = encode_examples(
            task, [example, Example(("plum " * 9, "rust"), None, "")], run.tokenizer, frame
        )
        batch = tasks_batch(task, rows, run.tokenizer.pad_id)
        assert batch.ids.shape[:2] == (2, 2)
        with torch.no_grad():
            vectors = run.model.heads["similarity"].predict(hidden_states(run.model, batch), batch.mask)
        assert vectors[0].numpy() == pytest.approx(alone, abs=close)
        if answer:
            assert answer[0]["score"] == pytest.approx(1 + 4 * cosine, abs=5e-2)


def test_as_it_comes_a_run_is_scored_on_pairs(
    imported: api.Run, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    rows = scored(60, seed=4)
    data = written(tmp_path / "pairs.jsonl", rows)
    scores = imported.evaluate(data, task="similarity")
    first, second = (imported.embed([row[name] for row in rows]) for name in ("text", "text_pair"))
    gold = [row["score"] for row in rows]
    assert scores["spearman"]["value"] == pytest.approx(
        stats.spearmanr(gold, (first * second).sum(1)).statistic, abs=1e-4
    )
    assert "mae" not in scores  # cosines are on no scale of scores
    words = ["evaluate", str(imported.path), "--on", str(data), "--json"]
    assert main([*words, "--task", "similarity", "--set", "task.pooling=cls"]) == 0
    assert json.loads(capsys.readouterr().out)["spearman"]["value"] != scores["spearman"]["value"]
    assert main([*words, "--task", "similarty"]) == 2
    assert "did you mean 'similarity'" in capsys.readouterr().err
    assert main([*words, "--set", "task.pooling=cls"]) == 2
    assert "goes with --task similarity alone" in capsys.readouterr().err
    twice = [words[0], words[1], *words[1:], "--task", "similarity", "--ensemble", "mean"]
    assert main(twice) == 2
    assert "was not fine-tuned for a task" in capsys.readouterr().err
    assert main([*words, "--task", "classification"]) == 2
    assert "was not fine-tuned for classification" in capsys.readouterr().err


# ── learning ───────────────────────────────────────────────────────────────────────────────────


def stacked(n_texts: int, seed: int = 0) -> tuple[torch.Tensor, Batch]:
    """Four examples of texts of three positions, all different."""
    torch.manual_seed(seed)
    ids = torch.arange(4 * n_texts * 3).reshape(4, n_texts, 3)
    hidden = torch.randn(4, n_texts, 3, 6, requires_grad=True)
    weights = torch.zeros(4, 3)
    weights[:, 0] = 1.0
    return hidden, Batch(ids, ids, weights, mask=torch.ones(ids.shape, dtype=torch.bool))


def test_the_contrast_is_with_all_other_texts_of_the_batch() -> None:
    for n_texts in (2, 3):
        hidden, batch = stacked(n_texts)
        head = SimilarityHead(6, objective="contrastive", temperature=0.1)
        unit = F.normalize(hidden.mean(2), dim=-1)
        nats = 0.0
        for row in range(4):
            scores = [
                unit[row, 0] @ unit[other, place] / 0.1 for place in range(1, n_texts) for other in range(4)
            ]
            nats += float((torch.logsumexp(torch.stack(scores), 0) - scores[row]).detach())  # fmt: skip
        loss = head.loss(hidden, batch)
        assert (float(loss.total.detach()), loss.weight) == (pytest.approx(nats, rel=1e-5), 4)


def test_a_text_that_is_right_too_is_not_among_the_wrong_ones() -> None:
    hidden, batch = stacked(3)
    ids = batch.ids.clone()
    ids[1, 1] = ids[0, 1]  # two rows with the same second text
    ids[3, 0] = ids[2, 0]  # two with the same first
    ids[2, 2] = ids[3, 1]  # a negative that is another row's second
    result = duplicate_positives_mask(ids)
    expected = torch.zeros(4, 8, dtype=torch.bool)
    for row, column in ((0, 1), (1, 0), (2, 3), (3, 2), (3, 6)):
        expected[row, column] = True
    assert torch.equal(result, expected)
    batch = Batch(ids, ids, batch.weights, mask=batch.mask)
    head = SimilarityHead(6, objective="contrastive")
    with torch.no_grad():
        less = float(head.loss(hidden, batch).total)
        assert less < float(head.loss(hidden, stacked(3)[1]).total)


def test_pieces_of_a_batch_add_up_to_it() -> None:
    hidden, batch = stacked(2)
    batch.labels = torch.tensor([0.0, 0.3, 0.8, 1.0])
    head = SimilarityHead(6)
    unit = F.normalize(hidden.mean(2), dim=-1)
    expected = ((unit[:, 0] * unit[:, 1]).sum(-1) - batch.labels).square().sum()
    whole = head.loss(hidden, batch).total
    parts = [
        head.loss(part, piece).total for part, piece in zip(hidden.split(2), batch.micro(2), strict=True)
    ]
    assert float(whole.detach()) == pytest.approx(float(expected), rel=1e-5)
    assert float(sum(parts).detach()) == pytest.approx(float(whole.detach()), rel=1e-5)


@pytest.mark.promise(
    "Tasks", "Similarity is trained from scores on their scale, or by contrast without false negatives"
)
def test_scores_are_learned_on_their_scale(tuned: api.Run, tmp_path: Path) -> None:
    rows = scored(200, seed=1)
    scores = tuned.evaluate(written(tmp_path / "test.jsonl", rows))
    assert scores["spearman"]["value"] > 0.8
    settings = tuned.record["task_settings"]
    assert (settings["low"], settings["high"], settings["objective"]) == (1.0, 5.0, "cosine")
    answers = [row["score"] for row in tuned.predict([(row["text"], row["text_pair"]) for row in rows[:50]])]
    gold = [row["score"] for row in rows]
    assert scores["mae"]["value"] < sklearn.mean_absolute_error(gold, [3.0] * len(gold)) / 1.5
    assert answers == [row["score"] for row in tuned.predict(written(tmp_path / "few.jsonl", rows[:50]))]
    with raises(UsageError, "wrong_number_of_texts", "text 1"):
        tuned.predict(["red green"])
    with raises(DataError, "mixed_data"):
        tuned.predict([("red green", "blue"), "red"])
    with raises(UsageError, "option_not_applicable", "pooling=cls", "similarity"):
        tuned.as_task("similarity", ["pooling=cls"])


@pytest.mark.parametrize("names", [("text", "text_pair"), ("text", "text_pair", "negative")])
def test_pairs_without_scores_are_learned_by_contrast(names: tuple[str, ...], tmp_path: Path) -> None:
    rows = [{name: row[name] for name in names} for row in belonging(500)]
    run = learnt(rows, tmp_path / "run", "model.dropout=0", "train.batch_size=16")
    assert run.record["task_settings"]["objective"] == "contrastive"
    test = [{name: row[name] for name in names[:2]} for row in belonging(100, seed=1)]
    scores = run.evaluate(written(tmp_path / "test.jsonl", test))
    assert scores["recall@5"]["value"] > 0.8
    assert scores["mrr@10"]["value"] > 0.6


def test_an_encoder_learns_it_and_resumes_to_the_same_bytes(tmp_path: Path) -> None:
    run = learnt(scored(120), tmp_path / "run", "model.n_head=2", model="encoder", epochs=2)
    assert api.verify_determinism(run.path)["identical"]


@pytest.mark.parametrize(
    ("row", "settings", "complaint"),
    [
        ({"text": "a", "score": 1}, ["low=0"], "has one text: name the second with --columns"),
        ({"text": "a", "text_pair": "b", "score": "x"}, [], "the score is 'x', which is no number"),
        ({"text": "a", "text_pair": "b", "score": 2}, [], "have the score 2: there is nothing to learn"),
        ({"text": "a", "text_pair": "b", "score": 2}, ["low=3", "high=5"], "such as 2, are not in 3 to 5"),
        ({"text": "a", "text_pair": "b"}, ["objective=cosine"], "has no field 'score': name its column"),
        ({"text": "a", "text_pair": "b", "score": 1}, ["objective=contrastive"], "keep the rows of high score"),
        ({"text": "a", "text_pair": "b"}, ["temperature=0"], "task.temperature=0.0: must be above 0"),
        ({"text": "a", "text_pair": "b"}, ["low=2", "high=1"], "task.low=2.0 must be below task.high=1.0"),
    ],
)  # fmt: skip
def test_data_that_cannot_be_learned_is_named(
    row: dict[str, Any], settings: list[str], complaint: str, tmp_path: Path
) -> None:
    rows = [{**row, "text": f"a {number}"} for number in range(40)]
    with pytest.raises((DataError, UsageError)) as caught:
        learnt(rows, tmp_path / "run", *(f"task.{setting}" for setting in settings))
    assert complaint in str(caught.value)
    assert not (tmp_path / "run").exists()


@pytest.mark.promise(
    "Tasks",
    "Labels that are not numbers, and rows that leave nothing to train or select on, are named before "
    "anything is written",
)
def test_negatives_in_some_rows_and_rows_that_cannot_choose_are_named(tmp_path: Path) -> None:
    rows = belonging(40)
    rows[7] = {name: rows[7][name] for name in ("text", "text_pair")}
    with raises(DataError, "mixed_data", "2", "3"):
        learnt(rows, tmp_path / "run")
    dev = written(tmp_path / "dev.jsonl", [{**row, "score": 2} for row in scored(9, seed=3)])
    with raises(DataError, "one_class", "2"):
        learnt(scored(40), tmp_path / "run", dev=dev)


def test_rows_without_a_text_are_reported(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    from textus.data.labeled import Record

    rows = [Record({"text": text, "text_pair": "b", "score": 1}, f"line {n}") for n, text in enumerate(" a")]
    assert len(Similarity(SimilaritySettings(), []).make_examples(rows, labelled=True)) == 1
    assert "1 rows lack a text and are left out; the first is line 0" in capsys.readouterr().err


# ── figures of search ──────────────────────────────────────────────────────────────────────────


@pytest.mark.promise(
    "Tasks",
    "Figures of numbers, ratings and search are scipy's and scikit-learn's; a resample is scored as "
    "the texts it repeats; what is not defined on these rows is left out and named",
)
def test_figures_of_search_are_scikit_learns() -> None:
    draw = np.random.default_rng(0)
    gains = draw.choice([0.0, 1.0, 2.0], (30, 40), p=[0.9, 0.07, 0.03])
    gains[:, 0] = 1.0
    scores = draw.normal(size=(30, 40)) + gains
    result = np.argsort(-scores, axis=1).tolist()
    right = [{place: gain for place, gain in enumerate(row) if gain} for row in gains]
    figures = ranking.ranking_scores(result, right)
    assert figures["ndcg@10"]["value"] == pytest.approx(sklearn.ndcg_score(gains, scores, k=10))
    single = np.zeros_like(gains)
    single[np.arange(30), draw.integers(0, 40, 30)] = 1.0
    lists = np.argsort(-scores, axis=1)
    alone = [{int(row.argmax()): 1.0} for row in single]
    assert np.mean(
        [ranking.reciprocal_rank(list(a), b, 40) for a, b in zip(lists, alone, strict=True)]
    ) == pytest.approx(sklearn.label_ranking_average_precision_score(single, scores))
    for k in (1, 5, 10):
        expected = sklearn.top_k_accuracy_score(single.argmax(1), scores, k=k, labels=np.arange(40))
        assert np.mean([ranking.recall(list(a), b, k) for a, b in zip(lists, alone, strict=True)]) == expected
    assert all(row["low"] <= row["value"] <= row["high"] for row in figures.values())


def test_a_short_list_and_an_empty_one_have_found_nothing_more() -> None:
    scores = ranking.ranking_scores([["a"], []], [{"a": 1.0, "b": 1.0}, {"c": 1.0}])
    assert scores["recall@10"]["value"] == 0.25
    assert scores["mrr@10"]["value"] == 0.5
    with raises(UsageError, "empty_data"):
        ranking.ranking_scores([["a"]], [{}])
