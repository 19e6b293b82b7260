"""The linear floor beside scikit-learn: the same features exactly, the same probabilities, the same objective.

Shapes: N texts, C classes.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file

from textus.core.errors import DataError, UsageError
from textus.models import linear
from textus.models.linear import LinearClassifier, LinearConfig
from textus.models.nn.layers import ACTIVATIONS
from textus.models.nn.registry import INITIALISATIONS
from textus.models.word_vectors import WordVectors

TOPICS = {
    "food": ["the soup was hot and the bread was fresh", "I ate two eggs, some bread and a soup",
             "fresh eggs!  hot soup", "bread bread bread", "they cooked a soup of eggs"],
    "sea": ["the ship left the port at dawn", "a wave broke over the ship",
            "we sail to the port, the wave is high", "sail, sail, ship", "at dawn the sea was high"],
    "天气": ["今天天气很好，太阳很大", "明天会下雨 吗？", "太阳出来了，天气好", "昨天下雨，今天好", "雨天的天气"],
}  # fmt: skip
TEXTS = [text for item in TOPICS.values() for text in item]
LABELS = [name for name, item in TOPICS.items() for _ in item]
UNSEEN = ["a hot wave of soup", "", "天气和雨", "never-seen words only", "The SHIP sails\n\n at  dawn"]
WIDE = LinearConfig(words=(1, 2), characters=(1, 3))


def features(model: LinearClassifier, texts: list[str]) -> np.ndarray:
    result = model.features(texts)
    return torch.cat([result.rows.to_dense(), result.dense], 1).numpy()


@pytest.fixture(scope="module")
def sklearn() -> Any:
    pytest.importorskip("sklearn", reason="scikit-learn is not installed (the extra `dev`)")
    import sklearn.feature_extraction.text
    import sklearn.linear_model
    import sklearn.neural_network
    import sklearn.preprocessing

    return sklearn


# ── features ───────────────────────────────────────────────────────────────────────────────────


@pytest.mark.promise("Families", "TF-IDF and counts are scikit-learn's, words and characters")
@pytest.mark.parametrize("least", [1, 2])
@pytest.mark.parametrize("sublinear", [True, False])
@pytest.mark.parametrize("weighting", ["tf-idf", "counts"])
@pytest.mark.parametrize(("kind", "analyzer"), [("words", "word"), ("characters", "char")])
def test_features_are_scikit_learns(
    kind: str, analyzer: str, weighting: Any, sublinear: bool, least: int, sklearn: Any
) -> None:
    reach = (1, 2) if kind == "words" else (2, 3)
    off: dict[str, Any] = {"words": (0, 0), "characters": (0, 0), kind: reach}
    config = LinearConfig(weighting=weighting, sublinear=sublinear, min_documents=least, **off)
    ours = LinearClassifier(config).fit(TEXTS, LABELS)
    same: dict[str, Any] = {"analyzer": analyzer, "ngram_range": reach, "min_df": least}
    text = sklearn.feature_extraction.text
    tfidf = weighting == "tf-idf"
    theirs = text.TfidfVectorizer(**same, sublinear_tf=sublinear) if tfidf else text.CountVectorizer(**same)
    theirs.fit(TEXTS)
    assert ours.grams[kind] == theirs.get_feature_names_out().tolist()
    for texts in (TEXTS, UNSEEN):
        np.testing.assert_allclose(
            features(ours, texts), theirs.transform(texts).toarray(), rtol=1e-14, atol=0
        )


def test_both_kinds_are_shown_together(sklearn: Any) -> None:
    ours = LinearClassifier(WIDE).fit(TEXTS, LABELS)
    kinds = [("word", (1, 2)), ("char", (1, 3))]
    text = sklearn.feature_extraction.text
    blocks = [
        text.TfidfVectorizer(analyzer=a, ngram_range=r, sublinear_tf=True)
        .fit(TEXTS)
        .transform(UNSEEN)
        .toarray()
        for a, r in kinds
    ]
    np.testing.assert_allclose(features(ours, UNSEEN), np.concatenate(blocks, 1), rtol=1e-14)


def test_words_are_averaged_to_their_mean_vector() -> None:
    words = ["soup", "bread", "ship", "好"]
    matrix = np.random.default_rng(0).normal(size=(4, 3)).astype(np.float32)
    config = LinearConfig(words=(0, 0), average="words")
    model = LinearClassifier(config, WordVectors(words, matrix)).fit(TEXTS, LABELS)
    rows = (
        features(model, ["Soup soup ship and more", "nothing known"]) * model.scale.numpy()
        + model.mean.numpy()
    )
    np.testing.assert_allclose(rows[0], (2 * matrix[0] + matrix[2]) / 3, atol=1e-7)
    np.testing.assert_allclose(rows[1], 0, atol=1e-12)
    characters = LinearConfig(words=(0, 0), average="characters")
    chinese = LinearClassifier(characters, WordVectors(words, matrix)).fit(TEXTS, LABELS)
    rows = features(chinese, ["很好"]) * chinese.scale.numpy() + chinese.mean.numpy()
    np.testing.assert_allclose(rows[0], matrix[3], atol=1e-7)


# ── learning ───────────────────────────────────────────────────────────────────────────────────


@pytest.mark.promise("Families", "Logistic regression and MLP are scikit-learn's, numeric columns too")
@pytest.mark.parametrize("l2", [0.1, 1.0, 10.0])
@pytest.mark.parametrize("n_classes", [2, 3])
def test_logistic_regression_is_scikit_learns(n_classes: int, l2: float, sklearn: Any) -> None:
    texts, labels = TEXTS[: 5 * n_classes], LABELS[: 5 * n_classes]
    ours = LinearClassifier(LinearConfig(characters=(1, 2), l2=l2)).fit(texts, labels)
    theirs = sklearn.linear_model.LogisticRegression(C=1 / l2, tol=1e-10, max_iter=10_000)
    theirs.fit(features(ours, texts), labels)
    assert ours.labels == theirs.classes_.tolist()
    expected = theirs.predict_proba(features(ours, UNSEEN))
    np.testing.assert_allclose(ours.predict_probabilities(UNSEEN).numpy(), expected, atol=1e-5)
    assert ours.predict(UNSEEN) == theirs.predict(features(ours, UNSEEN)).tolist()


def test_numeric_columns_next_to_text_are_scikit_learns(sklearn: Any) -> None:
    draw = np.random.default_rng(0)
    numbers = np.stack([draw.normal(3, 100, 15), np.full(15, 7.0), draw.integers(0, 2, 15)], 1)
    ours = LinearClassifier(LinearConfig()).fit(TEXTS, LABELS, numbers)
    alone = LinearClassifier(LinearConfig()).fit(TEXTS, LABELS)
    scaler = sklearn.preprocessing.StandardScaler().fit(numbers)
    both = np.concatenate([features(alone, TEXTS), scaler.transform(numbers)], 1)
    theirs = sklearn.linear_model.LogisticRegression(tol=1e-10, max_iter=10_000).fit(both, LABELS)
    expected = theirs.predict_proba(both)
    np.testing.assert_allclose(ours.predict_probabilities(TEXTS, numbers).numpy(), expected, atol=1e-5)
    assert not np.allclose(expected, alone.predict_probabilities(TEXTS).numpy(), atol=1e-2)
    no_text = LinearClassifier(LinearConfig(words=(0, 0))).fit(TEXTS, LABELS, numbers)
    theirs = sklearn.linear_model.LogisticRegression(tol=1e-10, max_iter=10_000)
    theirs.fit(scaler.transform(numbers), LABELS)
    expected = theirs.predict_proba(scaler.transform(numbers))
    np.testing.assert_allclose(no_text.predict_probabilities(TEXTS, numbers).numpy(), expected, atol=1e-5)


@pytest.mark.parametrize(
    ("activation", "name"), [("relu", "relu"), ("tanh", "tanh"), ("sigmoid", "logistic")]
)
@pytest.mark.parametrize("n_classes", [2, 3])
def test_a_hidden_layer_is_scikit_learns(n_classes: int, activation: str, name: str, sklearn: Any) -> None:
    """With its weights in ours: its probabilities, its loss, and a slope of nothing at the place it ended."""
    texts, labels = TEXTS[: 5 * n_classes], LABELS[: 5 * n_classes]
    ours = LinearClassifier(LinearConfig(d_hidden=4, activation=activation, l2=0.1, steps=1)).fit(
        texts, labels
    )
    theirs = sklearn.neural_network.MLPClassifier(
        (4,),
        activation=name,
        solver="lbfgs",
        alpha=0.1,
        max_iter=5_000,
        max_fun=50_000,
        tol=1e-12,
        random_state=0,
    ).fit(features(ours, texts), labels)
    for mine, other in zip([*ours.weights, *ours.biases], [*theirs.coefs_, *theirs.intercepts_], strict=True):
        mine.data.copy_(torch.from_numpy(other))
    expected = theirs.predict_proba(features(ours, UNSEEN))
    np.testing.assert_allclose(ours.predict_probabilities(UNSEEN).numpy(), expected, atol=1e-12)
    targets = torch.tensor([ours.labels.index(label) for label in labels])
    loss = ours.objective(ours.features(texts), targets)
    assert float(loss.detach()) == pytest.approx(theirs.loss_, abs=1e-6)
    ours.zero_grad()
    loss.backward()
    assert max(float(p.grad.abs().max()) for p in ours.parameters() if p.grad is not None) < 1e-3


@pytest.mark.parametrize("activation", sorted(ACTIVATIONS))
def test_hidden_layers_learn_with_any_activation(activation: str) -> None:
    model = LinearClassifier(LinearConfig(d_hidden=8, activation=activation, l2=0.01, steps=100))
    assert model.fit(TEXTS, LABELS).predict(TEXTS) == LABELS


@pytest.mark.parametrize("name", sorted(INITIALISATIONS))
def test_hidden_layers_start_as_configured(name: str) -> None:
    ends = []
    for seed in (0, 0, 1):
        config = LinearConfig(d_hidden=8, initialisation=name, l2=0.01, steps=20, seed=seed)
        ends.append(LinearClassifier(config).fit(TEXTS, LABELS))
    assert torch.equal(ends[0].weights[0], ends[1].weights[0])
    if name == "zeros":  # no slope reaches a hidden layer of zeros: a start must break the tie
        assert not ends[0].weights[0].any()
    else:
        assert not torch.equal(ends[0].weights[0], ends[2].weights[0])
        assert ends[0].predict(TEXTS) == LABELS


def test_logistic_regression_ends_at_the_bottom_whatever_the_seed() -> None:
    one, other = (LinearClassifier(LinearConfig(seed=seed)).fit(TEXTS, LABELS) for seed in (0, 1))
    assert torch.equal(one.weights[0], other.weights[0])


def test_stopping_early_is_reported(capsys: pytest.CaptureFixture[str]) -> None:
    LinearClassifier(LinearConfig(l2=0.001, steps=2)).fit(TEXTS, LABELS)
    assert "not at the bottom after 2 steps" in capsys.readouterr().err
    LinearClassifier(LinearConfig()).fit(TEXTS, LABELS)
    assert capsys.readouterr().err == ""


def test_the_sparse_products_slope_is_right() -> None:
    result = LinearClassifier(WIDE).fit(TEXTS, LABELS).features(UNSEEN)
    weight = torch.randn(result.rows.shape[1], 2, dtype=torch.float64, requires_grad=True)
    (linear.SparseProduct.apply(result.rows, result.columns, weight) ** 2).sum().backward()
    dense, other = result.rows.to_dense(), weight.detach().clone().requires_grad_()
    ((dense @ other) ** 2).sum().backward()
    torch.testing.assert_close(weight.grad, other.grad)
    assert torch.equal(result.columns.to_dense(), dense.T)


# ── keeping ────────────────────────────────────────────────────────────────────────────────────


def made(average: bool, d_hidden: int = 0) -> tuple[LinearClassifier, np.ndarray]:
    numbers = np.random.default_rng(0).normal(size=(15, 2))
    vectors = WordVectors(["soup", "ship"], np.eye(2, 3, dtype=np.float32)) if average else None
    config = LinearConfig(
        characters=(1, 2), average="words" if average else "none", d_hidden=d_hidden, l2=0.1
    )
    return LinearClassifier(config, vectors).fit(TEXTS, LABELS, numbers), numbers


@pytest.mark.promise("Families", "A classifier comes back from JSON and safetensors to the bit")
@pytest.mark.parametrize(("average", "d_hidden"), [(False, 0), (True, 0), (True, 5)])
def test_a_classifier_comes_back_from_json_and_safetensors(
    average: bool, d_hidden: int, tmp_path: Path
) -> None:
    model, numbers = made(average, d_hidden)
    (tmp_path / "record.json").write_text(json.dumps(model.to_record(), ensure_ascii=False), encoding="utf-8")
    save_file(model.state_dict(), tmp_path / "weights.safetensors")
    again = LinearClassifier.from_record(json.loads((tmp_path / "record.json").read_text(encoding="utf-8")))
    again.load_state_dict(load_file(tmp_path / "weights.safetensors"))
    assert again.config == model.config
    expected = model.predict_probabilities(TEXTS, numbers)
    assert torch.equal(again.predict_probabilities(TEXTS, numbers), expected)
    with pytest.raises(RuntimeError, match="size mismatch"):  # weights of another vocabulary
        again.load_state_dict(LinearClassifier(LinearConfig()).fit(TEXTS, LABELS).state_dict(), strict=False)


def test_many_texts_are_read_in_parts(monkeypatch: pytest.MonkeyPatch) -> None:
    model, numbers = made(True)
    whole = model.predict_probabilities(TEXTS, numbers)
    monkeypatch.setattr(linear, "CHUNK", 4)
    torch.testing.assert_close(model.predict_probabilities(TEXTS, numbers), whole, rtol=1e-12, atol=0)
    assert model.predict_probabilities([], np.zeros((0, 2))).shape == (0, 3)
    assert model.predict([], np.zeros((0, 2))) == []


# ── words ──────────────────────────────────────────────────────────────────────────────────────


def fitted(
    texts: Any = TEXTS, labels: Any = LABELS, numeric: Any = None, **settings: Any
) -> LinearClassifier:
    return LinearClassifier(LinearConfig(**settings)).fit(texts, labels, numeric)


@pytest.mark.parametrize(
    ("call", "kind", "message"),
    [
        (lambda: fitted(labels=LABELS[:3]), DataError, "15 texts and 3 labels"),
        (lambda: fitted([], []), DataError, "0 texts and 0 labels"),
        (lambda: fitted(labels=["a"] * 15), DataError, "every text has the label 'a'"),
        (lambda: fitted(["a", "?"], ["x", "y"]), DataError, "no word of two letters; set characters=(1, 2)"),
        (
            lambda: fitted(numeric=np.zeros(15)),
            DataError,
            "the numeric columns are of shape (15,), not (15, columns)",
        ),
        (lambda: fitted(numeric=np.full((15, 2), np.nan)), DataError, "numeric column 0 of text 0 is nan"),
        (lambda: fitted().predict(TEXTS, np.zeros((15, 1))), DataError, "of shape (15, 1), not (15, 0)"),
        (lambda: made(False)[0].predict(TEXTS), DataError, "of shape (15, 0), not (15, 2)"),
        (lambda: LinearClassifier().predict(TEXTS), UsageError, "call fit first"),
        (lambda: LinearClassifier(LinearConfig(average="words")), UsageError, "give both or neither"),
        (lambda: LinearConfig(words=(2, 1)), UsageError, "words=(2, 1): must be shortest and longest"),
        (lambda: LinearConfig(l2=-1), UsageError, "l2=-1: must be at least 0"),
        (lambda: LinearConfig(min_documents=0), UsageError, "min_documents=0: must be at least 1"),
        (
            lambda: LinearConfig(activation="rely"),
            UsageError,
            "unknown activation 'rely'; did you mean 'relu'",
        ),
    ],
)
def test_impossible_values_are_reported(
    call: Callable[[], object], kind: type[Exception], message: str
) -> None:
    with pytest.raises(kind) as error:
        call()
    assert message in str(error.value)
    assert "\n" not in str(error.value)
