"""Every test runs without a network, on one thread, from the same random state."""

from __future__ import annotations

import csv
import os
import random
import signal
import sys
from pathlib import Path
from typing import TYPE_CHECKING

os.environ.setdefault("OMP_NUM_THREADS", "1")  # before torch is imported anywhere
os.environ["TOKENIZERS_PARALLELISM"] = "false"

import pytest
from pytest_socket import socket_allow_hosts

if (
    signal.getsignal(signal.SIGINT) is signal.SIG_IGN
):  # a shell's background job: the tests send it on purpose
    signal.signal(signal.SIGINT, signal.default_int_handler)

if TYPE_CHECKING:
    from textus.api import Run

REPOSITORY = Path(__file__).resolve().parent.parent
DATA = Path(os.environ.get("TEXTUS_DATA", REPOSITORY / ".." / "shared" / "data"))


def pytest_runtest_setup() -> None:
    socket_allow_hosts(["127.0.0.1", "::1", "localhost"], allow_unix_socket=True)


@pytest.fixture(autouse=True)
def same_start() -> None:
    """Set the random state and thread count of whatever is already imported: tests do not depend on their
    order."""
    random.seed(0)
    if "numpy" in sys.modules:
        sys.modules["numpy"].random.seed(0)
    if "torch" in sys.modules:
        sys.modules["torch"].manual_seed(0)
        sys.modules["torch"].set_num_threads(1)


@pytest.fixture(scope="session")
def data() -> Path:
    """The folder of real data sets for development; a test that needs it is skipped where it is absent."""
    if not DATA.is_dir():
        pytest.skip("the data sets of ../shared/data are not on this machine (set TEXTUS_DATA)")
    return DATA


STORY = """Once upon a time there was a fox who lived at the edge of a wood. Every morning the fox went
down to the river to drink, and every morning an old heron stood there on one leg and said
nothing. "Good morning," said the fox. The heron said nothing. One winter the river froze, and
the fox could not drink, and the heron could not fish. Then the heron spoke: "If you break the
ice with your paws, I will show you where the water is thin." So the fox broke the ice, and
both of them ate and drank, and from that day on they said good morning to each other.
"""


@pytest.fixture(scope="session")
def story(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A story of under 1 kB in a file: the smallest text anyone would try."""
    path = tmp_path_factory.mktemp("text") / "story.txt"
    path.write_text(STORY, encoding="utf-8")
    return path


@pytest.fixture(scope="session")
def corpus(story: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A corpus of the story. Tests must not change it."""
    from textus.api import build_corpus

    return build_corpus(story, out=tmp_path_factory.mktemp("corpus") / "corpus").path


@pytest.fixture(scope="session")
def counted(corpus: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An n-gram run on the story. Tests must not change it."""
    from textus.api import train

    return train(
        corpus, model="ngram", tokenizer="char", out=tmp_path_factory.mktemp("runs") / "counted"
    ).path


@pytest.fixture(scope="session")
def trained(corpus: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A small decoder trained on the story for a few steps. Tests must not change it."""
    from textus.api import train

    settings = ["model.n_layer=1", "model.d_model=32", "model.n_head=2"]
    out = tmp_path_factory.mktemp("runs") / "trained"
    return train(corpus, tokenizer="char", steps=12, checkpoint_every=4, overrides=settings, out=out).path


@pytest.fixture(scope="session")
def reviews_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Reviews as rows.jsonl and rows.csv. Tests must not change them."""
    from labelled import reviews, written

    folder = tmp_path_factory.mktemp("reviews")
    written(folder / "rows.jsonl", reviews())
    with (folder / "rows.csv").open("w", encoding="utf-8", newline="") as file:
        table = csv.DictWriter(file, ["id", "text", "label"])
        table.writeheader()
        table.writerows(reviews())
    return folder


@pytest.fixture(scope="session")
def linear(reviews_folder: Path) -> Run:
    """A linear model of the reviews. Tests must not change it."""
    from textus.api import finetune

    return finetune(reviews_folder / "rows.jsonl", model="linear", out=reviews_folder / "linear")


@pytest.fixture(scope="session")
def tagger(reviews_folder: Path) -> Run:
    """A tagger of people and towns. Tests must not change it."""
    from labelled import written

    from textus.api import finetune

    rows = [
        {"tokens": ["In", str(i), who, "left", town], "tags": ["O", "O", "B-PER", "O", "B-LOC"]}
        for i in range(40)
        for who, town in (("Anna", "Rome"), ("Boris", "Oslo"))
    ]
    settings = ["model.n_layer=1", "model.d_model=16", "optim.rate=0.01"]
    return finetune(
        written(reviews_folder / "tags.jsonl", rows), task="tagging", model="gru", epochs=20, overrides=settings,
        out=reviews_folder / "tagger",
    )  # fmt: skip
