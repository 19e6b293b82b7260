"""Questions to documents as functions: `ask`, `calibrate_index`."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from textus.api.inference import open_run
from textus.api.search import open_index, passage_values
from textus.api.signatures import with_options
from textus.core.arguments import to_path
from textus.core.errors import UsageError
from textus.core.requests import build_request
from textus.data.read_options import ReadOptions
from textus.generation.params import SamplingParams
from textus.pipelines.config import AskConfig

if TYPE_CHECKING:
    from textus.api.run import Run
    from textus.data.passages import Passage
    from textus.pipelines.search_index import Index


@with_options(AskConfig)
def ask(
    index: str | Path | Index,
    question: str,
    *,
    on_text: Callable[[str], Any] | None = None,
    config: AskConfig | None = None,
    **options: Any,
) -> dict[str, Any]:
    """Answer a question from the documents of an index: without a `run` by the sentence that fits best, with a
    question-answering run by a span of a passage, with a chat run in its own words.

    The citations of a chat run are checked: `invalid_citations` are numbers that do not exist, and each of `sentences`
    has its `support` by the passages it cites. `on_text` gets the pieces of its answer as they are generated.

    `refused` is true, and `answer` null, where the confidence of the retrieval is below the threshold of the index
    (see `calibrate_index`), or the run finds no answer.

    Raises UsageError for an empty question, a question that the encoder of the index cannot read, and a run that
    neither chats nor answers questions; RunError for a missing or damaged run or index.

    Example:
        >>> answer = textus.ask("work/index", "Which film is good?", threshold=0)
        >>> answer["answer"], answer["source"]["passage"]
        ('a good film', 1)
    """
    from textus.pipelines.answers import check_question, retrieve
    from textus.pipelines.calibration import confidence, threshold
    from textus.pipelines.search_index import Index

    config = build_request(AskConfig, config, options)
    opened = index if isinstance(index, Index) else open_index(to_path(index, "index"))
    question = check_question(opened, question)
    run = open_run(config.run) if config.run else None
    method = method_of(run)
    retrieval = retrieve(opened, question)
    certain, least = confidence(opened, retrieval), threshold(opened)
    least = config.threshold if config.threshold is not None else least
    passages = [opened.passages[position] for position, _ in retrieval.results[: config.top]]
    result: dict[str, Any] = {
        "index": str(opened.path), "question": question, "method": method, "answer": None, "refused": True,
        "confidence": round(certain, 4), "threshold": round(least, 4),
        "calibrated": "calibration" in opened.record,
        "passages": [
            {"passage": rank, **passage_values(passage), "file": passage.file}
            for rank, passage in enumerate(passages, 1)
        ],
    }  # fmt: skip
    if not passages or certain < least:
        return result
    if run is None:
        from textus.pipelines.answers import best_sentence

        answer: dict[str, Any] = best_sentence(opened, retrieval, config.top)
    elif method == "chat":
        answer = chat_answer(opened, run, question, passages, (config.max_tokens, on_text))
    else:
        answer = span_answer(run, question, passages)
    return {**result, **answer, "refused": answer["answer"] is None}


def method_of(run: Run | None) -> str:
    """How a question is answered. Raises UsageError for a run that cannot."""
    if run is None:
        return "sentence"
    if run.supports_chat:
        return "chat"
    if "question-answering" in run.tasks:
        return "question-answering"
    raise UsageError(
        "wrong_task",
        f"{run.path} neither chats nor answers questions; give a chat run, a run fine-tuned with --task"
        " question-answering, or no --run",
    )


def span_answer(run: Run, question: str, passages: Sequence[Passage]) -> dict[str, Any]:
    """The likeliest span of the passages by a question-answering run, a better passage first of equal ones."""
    from textus.pipelines.answers import locate

    rows = [{"question": question, "context": passage.text} for passage in passages]
    task = "question-answering" if len(run.tasks) > 1 else None
    predictions = run.predict(rows, task=task)
    ranked = [
        (prediction["probability"], -rank, prediction)
        for rank, prediction in enumerate(predictions, 1)
        if prediction["answer"]
    ]
    if not ranked:
        return {"answer": None}
    probability, rank, prediction = max(ranked, key=lambda item: item[:2])
    span = prediction["start"], prediction["end"]
    return {**locate(passages[-rank - 1], -rank, span), "probability": probability}


def chat_answer(
    index: Index,
    run: Run,
    question: str,
    passages: Sequence[Passage],
    how: tuple[int, Callable[[str], Any] | None],
) -> dict[str, Any]:
    """The answer of a chat run with its checked citations; no answer where it writes that there is none."""
    from textus.pipelines.answers import REFUSALS, chat_messages, check_citations, fit_passages

    max_tokens, on_text = how
    context = run.model.config.context_length

    def count_ids(messages: list[dict[str, str]]) -> int:
        return len(run.tokenizer.apply_chat_template(messages, add_generation_prompt=True))

    kept = fit_passages(question, passages, count_ids, context and context - min(max_tokens, context // 2))
    params = SamplingParams(max_tokens=max_tokens, temperature=0)
    text = ""
    for piece in run.stream_chat(chat_messages(question, kept), params):
        text += piece
        if on_text:
            on_text(piece)
    text = text.strip()
    if not text or any(refusal.rstrip(".。") in text for refusal in REFUSALS):
        return {"answer": None}
    return {"answer": text, **check_citations(index, text, kept)}


@with_options(ReadOptions)
def calibrate_index(
    index: str | Path,
    on: str | Path,
    *,
    refuse: float = 0.85,
    config: ReadOptions | None = None,
    **options: Any,
) -> dict[str, Any]:
    """Learn from questions when `ask` refuses, and store it in the index: rows with a question (`text`) and the text
    (`document`) or id (`document_id`) of the document that answers it; none: no document does. `refuse`: the share of
    questions without an answer that are refused; the result has the share of answerable ones refused with them.

    Raises UsageError for a share outside (0, 1), DataError for fewer than 20 questions with a document.

    Example:
        >>> textus.calibrate_index("work/index", "many_queries.csv")["questions"]  # doctest: +SKIP
        120
    """
    from textus.pipelines.calibration import calibrate

    config = build_request(ReadOptions, config, options)
    return calibrate(open_index(index), to_path(on, "on"), config, refuse=refuse)
