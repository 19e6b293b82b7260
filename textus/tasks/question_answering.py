"""Extractive question answering: the span of a context that answers a question, or no answer.

Fields: `question`, `context`, and `answers`: [{"text", "start"}, …] or {"text": […], "answer_start": […]}, in
characters; an empty list: the context has no answer. SQuAD and CMRC 2018 files are read as they are. A context that
is too long for the model is read in overlapping windows (Devlin et al. 2019); a window without the whole answer is
trained on "no answer". An encoder with a third segment (model.segments=3) marks the tokens of the context that are also
in the question, which helps where data is small (Chen et al. 2017).

Shapes: B rows, T positions.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from itertools import groupby
from typing import Any, Literal

import numpy as np
import torch
from torch import Tensor

from textus.core.console import log_notice
from textus.core.errors import DataError, UsageError
from textus.data.batch import Batch
from textus.data.labeled import Record
from textus.data.skipping import parse_rows
from textus.metrics import spans as measuring
from textus.models.nn.heads import context_mask, padding_mask, span_scores
from textus.tasks.base import EncodedExample, Example, InputTemplate, Task, read_field
from textus.tasks.reporting import Floats, most_confident
from textus.tokenizers import Tokenizer

MAX_SHIFT = 5
"""Characters by which the given start of an answer may be off."""
ELSEWHERE = -1
"""The start of an answer that is not literally in the context: used for evaluation, not for training."""
N_LIKELY = 200
"""Spans over which an expected F1 is taken."""

Span = tuple[int, int]


@dataclass(frozen=True)
class QuestionAnsweringSettings:
    """`longest`: ids of a window, question and context together (0: the model's context); `stride`: tokens from one
    window to the next, at most half of its part of the context; `longest_answer` in tokens; `no_answer`: whether the
    model may answer that there is none (set if training rows have no answer); `answer`: the likeliest span, or the one
    with the highest expected F1, which is longer where the model is unsure; `dropout` of the head's input.
    """

    longest: int = 384
    stride: int = 128
    longest_answer: int = 30
    no_answer: bool = False
    answer: Literal["likeliest", "expected-f1"] = "likeliest"
    dropout: float = 0.1


@dataclass(frozen=True)
class GoldAnswers:
    """The right answers as texts (none: the context has no answer) and as spans of the context, in characters."""

    texts: tuple[str, ...]
    spans: tuple[Span, ...]


@dataclass(frozen=True)
class QuestionExample(Example):
    """A question and its context; `changes` counts the corrections of `locate_answers`."""

    changes: Counter[str] = field(default_factory=Counter)


@dataclass(frozen=True)
class Window:
    """The origin of a row: the number of its example, the position of its first context token, and the span of the
    context, in characters, of each context token.
    """

    example: int
    first: int
    places: list[Span]


@dataclass(frozen=True)
class SpanPrediction:
    """The best span of a context, in characters; `margin`: its log-probability (or that of all spans, times its
    expected F1) over that of "no answer"; the probabilities of both among all spans of all windows.
    """

    span: Span
    margin: float
    probability: float
    no_answer_probability: float


class QuestionAnswering(Task):
    """See the module."""

    name = "question-answering"
    config = QuestionAnsweringSettings
    settings: QuestionAnsweringSettings
    group_fields = ("context",)
    empty_reason = "have no question or no context"

    @classmethod
    def from_records(
        cls, settings: QuestionAnsweringSettings, records: Sequence[Record]
    ) -> QuestionAnswering:
        if settings.longest_answer < 1 or settings.stride < 1:
            raise UsageError(
                "out_of_range",
                f"task.longest_answer={settings.longest_answer}, task.stride={settings.stride}: must be at least 1",
            )
        rows = parse_rows(records, cls.row_parser(settings, records, labelled=True))
        n_unanswerable = sum(not row.label.texts for row in rows)
        if n_unanswerable == len(rows):
            raise DataError(
                "no_labels", f"none of the {len(rows):,} rows has an answer: there is nothing to learn"
            )
        return cls(replace(settings, no_answer=settings.no_answer or n_unanswerable > 0), [])

    def is_empty(self, example: Example) -> bool:
        return not all(text.strip() for text in example.texts)

    def make_examples(self, records: Sequence[Record], *, labelled: bool) -> list[Example]:
        examples: list[Any] = super().make_examples(records, labelled=labelled)
        counts = sum((example.changes for example in examples), Counter[str]())
        elsewhere = [example.where for example in examples if example.changes["elsewhere"]]
        if counts["moved"]:
            log_notice(
                f"{counts['moved']:,} answers were up to {MAX_SHIFT} characters off the given offset; offsets corrected"
            )
        if elsewhere:
            log_notice(
                f"{counts['elsewhere']:,} answers are not at the given offset, but occur once elsewhere in their"
                f" contexts: offsets corrected; the first is of {elsewhere[0]}"
            )
        if counts["nowhere"]:
            log_notice(
                f"{counts['nowhere']:,} answers do not occur in their contexts (start {ELSEWHERE}): they are used for"
                f" evaluation, not for training; {counts['untrained']:,} questions have no other"
            )
        return examples

    @classmethod
    def row_parser(
        cls, settings: QuestionAnsweringSettings, records: Sequence[Record], *, labelled: bool
    ) -> Callable[[Record], Example]:
        def parse(record: Record) -> Example:
            texts, changes = read_question(record), Counter[str]()
            label = locate_answers(record, texts[1], changes) if labelled else None
            return QuestionExample(texts, label, record.where, changes=changes)

        return parse

    @classmethod
    def can_split(
        cls, settings: QuestionAnsweringSettings, train: Sequence[Record], held: Sequence[Record]
    ) -> bool:
        return bool(held) and any(read_answers(record) for record in train)

    @classmethod
    def used_fields(cls, settings: QuestionAnsweringSettings, values: dict[str, Any]) -> list[str]:
        return ["question", "context", "answers"]

    def head_spec(self) -> dict[str, Any]:
        return {"kind": "span", "dropout": self.settings.dropout}

    # ── rows ───────────────────────────────────────────────────────────────────────────────────

    def encode(
        self, examples: Sequence[Example], tokenizer: Tokenizer, template: InputTemplate
    ) -> list[EncodedExample]:
        if wrong := [example for example in examples if len(example.texts) != 2]:
            raise UsageError(
                "wrong_number_of_texts",
                f"{wrong[0].where}: give two texts, a question and the context that answers it",
            )
        contexts = list(dict.fromkeys(example.texts[1] for example in examples))
        read = dict(zip(contexts, tokenizer.encode_with_offsets(contexts), strict=True))
        questions = tokenizer.encode_batch([example.texts[0] for example in examples])
        rows: list[EncodedExample] = []
        counts: Counter[str] = Counter()
        for number, (example, question) in enumerate(zip(examples, questions, strict=True)):
            ids, places = read[example.texts[1]]
            span = self.answer_tokens(example, places, counts)
            kept, holds = split_window(question, len(ids), template)
            counts["cut"] += len(kept) < len(question)
            for start in window_starts(len(ids), holds, self.settings.stride):
                window = slice(start, start + holds)
                row, first = encode_window(kept, ids[window], template)
                label = None
                if span is not None:
                    label = answer_positions(span, start, len(ids[window]), first, len(row.ids))
                rows.append(replace(row, label=label, meta=Window(number, first, places[window])))
        self.report_encoding(counts, len(examples), template)
        return rows

    def answer_tokens(self, example: Example, places: list[Span], counts: Counter[str]) -> Span | None:
        """The first and last token of the most frequent answer; (-1, -1): no answer; None: unknown."""
        gold = example.label
        if gold is None or (gold.texts and not gold.spans):
            return None
        if not gold.texts:
            return ELSEWHERE, ELSEWHERE
        begin, end = Counter(gold.spans).most_common(1)[0][0]
        inside = [at for at, (low, high) in enumerate(places) if low < high and low < end and high > begin]
        if not inside:
            counts["without a token"] += 1
            return None
        first, last = inside[0], inside[-1]
        tokens = strip_span(example.texts[1], (places[first][0], places[last][1]))[0]
        counts["through a token"] += tokens != example.texts[1][begin:end].strip()
        counts["too long"] += last - first >= self.settings.longest_answer
        return first, last

    def report_encoding(self, counts: Counter[str], n: int, template: InputTemplate) -> None:
        """Report what was truncated or cannot be trained on."""
        messages = {
            "cut": f"questions are longer than half of {template.max_length} tokens: their ends are not read",
            "without a token": "answers have no token of their own: they are not trained on",
            "through a token": "answers begin or end within a token: they are trained on as whole tokens",
            "too long": f"answers are longer than {self.settings.longest_answer} tokens, the most an answer may have:"
            " set task.longest_answer to more",
        }
        for name, what in messages.items():
            log_notice(counts[name], " of ", n, f" {what}")

    # ── answers ────────────────────────────────────────────────────────────────────────────────

    def predict(self, head: Any, hidden: Tensor, batch: Batch) -> list[Any]:
        """For each row the first and last position of its best span, then log-odds against no answer: the margin of
        `SpanPrediction`, that of the span, and that of all spans together.
        """
        longest = self.settings.longest_answer
        scores = span_scores(head(hidden, context_mask(batch)), longest)  # (B, T, T)
        row_numbers = torch.arange(len(scores), device=scores.device)
        closing = padding_mask(hidden, batch.mask).sum(1) - 1  # (B,)
        none = scores[row_numbers, closing, closing].clone()
        scores[row_numbers, closing] = float("-inf")
        scores[row_numbers, :, closing] = float("-inf")
        total = scores.flatten(1).logsumexp(1)
        if self.settings.answer == "likeliest":
            best, place = scores.flatten(1).max(1)
            time = hidden.shape[1]
            first, last = place // time, place % time
        else:
            value, first, last = best_expected_f1(scores, longest)
            best = total + value.log()
        odds = torch.stack([best, scores[row_numbers, first, last], total], 1) - none[:, None]
        return list(zip(first.tolist(), last.tolist(), *odds.double().cpu().T.tolist(), strict=True))

    def aggregate_windows(self, rows: Sequence[EncodedExample], outputs: list[Any]) -> list[Any]:
        answers = []
        pairs = zip([row.meta for row in rows], outputs, strict=True)
        for _, part in groupby(pairs, key=lambda pair: pair[0].example):
            bests, totals = [], [0.0] if self.settings.no_answer else []
            for window, (first, last, margin, own, total) in part:
                if margin > -np.inf:  # else the context has no token
                    places = window.places
                    span = (places[first - window.first][0], places[last - window.first][1])
                    bests.append((margin, span, own))
                    totals.append(total)
            if not bests:
                answers.append(SpanPrediction((0, 0), -np.inf, 0.0, 1.0))
                continue
            every = float(np.logaddexp.reduce(totals))
            margin, span, _ = max(bests)
            alike = np.logaddexp.reduce([own for _, other, own in bests if other == span])
            none = float(np.exp(-every)) if self.settings.no_answer else 0.0
            answers.append(SpanPrediction(span, margin, float(np.exp(alike - every)), none))
        return answers

    def answer(self, example: Example, prediction: SpanPrediction) -> tuple[str, Span | None]:
        """The answer, stripped, and its span; "" and None if no answer is likelier."""
        if prediction.margin < 0 and (self.settings.no_answer or prediction.span == (0, 0)):
            return "", None
        return strip_span(example.texts[1], prediction.span)

    def metrics(
        self, examples: Sequence[Example], outputs: Sequence[Any], *, intervals: bool = True
    ) -> dict[str, Any]:
        style = measuring.answer_style([example.texts[1] for example in examples])
        golds = [example.label.texts for example in examples]
        answers = [self.answer(example, output)[0] for example, output in zip(examples, outputs, strict=True)]
        scores = measuring.answer_scores(answers, golds, style, intervals=intervals)
        if not intervals:
            return scores
        if self.settings.no_answer and not all(golds):
            pairs = zip(examples, outputs, strict=True)
            best = [strip_span(example.texts[1], output.span)[0] for example, output in pairs]
            f1 = [measuring.score_answer(*pair, style)[1] for pair in zip(best, golds, strict=True)]
            margins = np.clip([-output.margin for output in outputs], -1e9, 1e9)
            known = np.asarray([bool(right) for right in golds])
            value, threshold = measuring.best_threshold(np.asarray(f1), known, margins)
            scores |= {"best_f1": value, "best_threshold": threshold}
        scores["mistakes"] = self.mistakes(examples, outputs, answers, style)
        return scores

    def per_example_metric(self, examples: Sequence[Example], outputs: Sequence[Any]) -> tuple[str, Floats]:
        style = measuring.answer_style([example.texts[1] for example in examples])
        answers = [self.answer(example, output)[0] for example, output in zip(examples, outputs, strict=True)]
        golds = [example.label.texts for example in examples]
        f1 = [measuring.score_answer(*pair, style)[1] for pair in zip(answers, golds, strict=True)]
        return "f1", np.asarray(f1)

    def mistakes(
        self, examples: Sequence[Example], outputs: Sequence[SpanPrediction], answers: list[str], style: str
    ) -> list[dict[str, Any]]:
        """The answers of F1 0 that were given with most confidence, first."""
        return most_confident(
            {
                "text": example.texts[0][:300], "label": " | ".join(dict.fromkeys(example.label.texts)),
                "where": example.where, "answer": text,
                "probability": output.probability if text else output.no_answer_probability,
            }
            for example, output, text in zip(examples, outputs, answers, strict=True)
            if measuring.score_answer(text, example.label.texts, style)[1] == 0
        )  # fmt: skip

    def answer_columns(self) -> list[str]:
        none = ["no_answer_probability"] if self.settings.no_answer else []
        return ["answer", "start", "end", "probability", *none]

    def to_json(self, example: Example, output: Any) -> dict[str, Any]:
        text, span = self.answer(example, output)
        start, end = span or (None, None)
        result = {"answer": text, "start": start, "end": end}
        result["probability"] = round(output.no_answer_probability if span is None else output.probability, 6)
        if self.settings.no_answer:
            result["no_answer_probability"] = round(output.no_answer_probability, 6)
        return result


def best_expected_f1(scores: Tensor, longest: int) -> tuple[Tensor, Tensor, Tensor]:
    """For each row of `span_scores` (B, T, T) the highest expected F1 of a span, in tokens, over the `N_LIKELY`
    likeliest spans, and the first and last position of that span (B,).
    """
    time = scores.shape[1]
    # int32: a row has millions of pairs
    steps = torch.arange(max(time, longest), device=scores.device).int()
    best = []
    for row in scores:
        chances, places = row.flatten().softmax(0).topk(min(N_LIKELY, time * time))
        places, chances = places[chances > 0].int(), chances[chances > 0]
        first, last = places // time, places % time
        # spans outside have no token in common with the likely ones
        low, high = (int(first.min()), int(last.max())) if len(places) else (0, 0)
        starts = steps[low : high + 1, None, None]
        ends = (starts + steps[:longest, None]).clamp(max=high)  # (starts, longest, 1)
        common = torch.minimum(ends, last).sub_(torch.maximum(starts, first)).add_(1).clamp_(min=0)
        f1 = 2 * common / (ends - starts + last - first + 2) @ (chances / chances.sum())
        possible = row[low : high + 1].gather(1, ends[..., 0].long()) > float("-inf")
        value, place = f1.masked_fill(~possible, 0).flatten().max(0)
        best.append(torch.stack([value, low + place // longest, ends.flatten()[place]]))
    values, first, last = torch.stack(best).T
    return values, first.long(), last.long()


# ── windows ────────────────────────────────────────────────────────────────────────────────────


def split_window(question: list[int], n_context: int, template: InputTemplate) -> tuple[list[int], int]:
    """The question, cut to half of a window where the context is long, and how many context tokens a window holds."""
    if template.max_length is None:
        return question, max(1, n_context)
    max_ids = template.max_length - len(template.begin) - 1 - template.n_separators
    if max_ids < 2:
        raise UsageError(
            "out_of_range",
            f"a window of {template.max_length} ids holds no context: set task.longest to more",
        )
    kept = question[: max(max_ids - n_context, max_ids - max_ids // 2)]
    return kept, max_ids - len(kept)


def window_starts(n: int, holds: int, stride: int) -> range:
    """The starts of the windows on `n` tokens; neighbours share at least half of their tokens."""
    step = min(stride, max(1, holds // 2))
    return range(0, max(1, n - holds + step), step)


def encode_window(
    question: list[int], context: list[int], template: InputTemplate
) -> tuple[EncodedExample, int]:
    """The row of a question and a part of its context, and the position of that part's first token."""
    ids, segments, _ = replace(template, max_length=None).apply([question, context])
    first = len(ids) - len(context) - 1
    if template.n_segments > 2:
        segments[first:-1] = [1 + (id_ in question) for id_ in context]
    return EncodedExample(ids, segments), first


def answer_positions(span: Span, start: int, n: int, first: int, length: int) -> list[int]:
    """The positions of an answer in a row of `length` ids, whose `n` context tokens from `start` on begin at position
    `first`; those of the closing id if the row does not have the whole answer.
    """
    if start <= span[0] and span[1] < start + n:
        return [at - start + first for at in span]
    return [length - 1] * 2


# ── fields ─────────────────────────────────────────────────────────────────────────────────────


def strip_span(context: str, span: Span) -> tuple[str, Span]:
    """The text of a span, stripped, and the span of that."""
    text = context[slice(*span)]
    start = span[0] + len(text) - len(text.lstrip())
    return text.strip(), (start, start + len(text.strip()))


def read_question(record: Record) -> tuple[str, str]:
    """The question and its context. Raises DataError where one is missing or no string."""
    for name in ("question", "context"):
        value = read_field(record, name)
        if not isinstance(value, str):
            raise DataError(
                "invalid_row",
                f"{record.where}: the {name} is {type(value).__name__} ({value!r}), not a string",
            )
    return record.values["question"], record.values["context"]


def read_answers(record: Record) -> list[tuple[str, int]]:
    """The text and start of each answer. Raises DataError for anything else."""
    where, value = record.where, read_field(record, "answers")
    if isinstance(value, dict):
        texts, starts = value.get("text"), value.get("answer_start")
        if not (isinstance(texts, list) and isinstance(starts, list) and len(texts) == len(starts)):
            raise DataError(
                "invalid_row",
                f"{where}: answers {value!r} need 'text' and 'answer_start', two lists of one length",
            )
        value = [{"text": text, "start": start} for text, start in zip(texts, starts, strict=True)]
    if not isinstance(value, list):
        raise DataError(
            "invalid_row",
            f"{where}: answers is {value!r}; give a list of {{'text', 'start'}}, empty for no answer",
        )
    answers = []
    for answer in value:
        text = answer.get("text") if isinstance(answer, dict) else None
        start = answer.get("start", answer.get("answer_start")) if isinstance(answer, dict) else None
        if not isinstance(text, str) or not text.strip() or type(start) is not int:
            raise DataError(
                "invalid_row", f"{where}: the answer {answer!r} is not a text and the character it starts at"
            )
        answers.append((text, start))
    return answers


def locate_answers(record: Record, context: str, counts: Counter[str]) -> GoldAnswers:
    """The right answers of a row, looked up in the context. DataError for one that is not near its start."""
    given = read_answers(record)
    spans: list[Span] = []
    for text, start in given:
        near = (start + by for by in sorted(range(-MAX_SHIFT, MAX_SHIFT + 1), key=abs))
        at = next((place for place in near if place >= 0 and context.startswith(text, place)), None)
        if start == ELSEWHERE:
            counts["nowhere"] += 1
        elif at is None and (once := context.find(text)) >= 0 and context.rfind(text) == once:
            counts["elsewhere"] += 1
            spans.append((once, once + len(text)))
        elif at is None:
            raise DataError(
                "invalid_span",
                f"{record.where}: the answer {text!r} is not at {start} of the context, which has"
                f" {context[max(0, start) :][:30]!r} there; correct the row (start {ELSEWHERE} for an answer in other"
                " words)",
            )
        else:
            counts["moved"] += at != start
            spans.append((at, at + len(text)))
    counts["untrained"] += bool(given) and not spans
    return GoldAnswers(tuple(text for text, _ in given), tuple(spans))
