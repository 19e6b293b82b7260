"""The stretch of a context that answers a question, or that there is none (extractive question answering).

Fields: `question`, `context`, and `answers`: [{"text", "start"}, …] or {"text": […], "answer_start": […]}, in
characters; an empty list says that the context has no answer. SQuAD's and CMRC 2018's files are read as they are. A
context that is longer than the model reads at once is read in windows that overlap (Devlin et al. 2019); a window
without the whole answer is taught that it has none. An encoder with a third segment (model.segments=3) is told which
tokens of the context the question has too: little data does not teach it to compare (Chen et al. 2017).

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
from textus.tasks.base import EncodedExample, Example, InputTemplate, Task
from textus.tasks.reporting import Floats
from textus.tokenizers import Tokenizer

MAX_SHIFT = 5
"""Characters an answer may stand beside where its row says."""
ELSEWHERE = -1
"""The start of an answer that does not stand in the context word for word: it is measured by, not learnt."""
SHOWN = 10
N_LIKELY = 200
"""Spans over which an expected F1 is taken."""

Span = tuple[int, int]


@dataclass(frozen=True)
class QuestionAnsweringSettings:
    """`longest`: ids of a window, question and context together (0: as many as the model's context holds); `stride`:
    how far a window begins after the one before, at most half of what it holds of the context; `longest_answer` in
    tokens; `no_answer`: whether "there is none" may be answered (set where the data to learn from has such rows);
    `answer`: the likeliest span, or the one that has most in common with all spans that are likely, which is longer
    where the model is not sure; `dropout` of the states the head reads.
    """

    longest: int = 384
    stride: int = 128
    longest_answer: int = 30
    no_answer: bool = False
    answer: Literal["likeliest", "expected-f1"] = "likeliest"
    dropout: float = 0.1


@dataclass(frozen=True)
class GoldAnswers:
    """The right answers: as texts (none: the context has no answer), and the stretches of the context they stand at."""

    texts: tuple[str, ...]
    spans: tuple[Span, ...]


@dataclass(frozen=True)
class QuestionExample(Example):
    """A question and its context; `changes` counts what `locate_answers` corrected."""

    changes: Counter[str] = field(default_factory=Counter)


@dataclass(frozen=True)
class Window:
    """What a row was made of: the number of its example, the position of the first token of the context in it, and the
    characters of the context that each of its tokens stands for.
    """

    example: int
    first: int
    places: list[Span]


@dataclass(frozen=True)
class SpanPrediction:
    """The best span of a context, in characters, its log-probability (or of all spans, times its expected F1) over that
    of "no answer", and the probabilities of both among all spans of all windows; windows that agree on the span add up.
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
        examples = super().make_examples(records, labelled=labelled)
        counts: Counter[str] = Counter()
        elsewhere: list[str] = []
        for example in examples:
            assert isinstance(example, QuestionExample)
            counts.update(example.changes)
            elsewhere += [example.where] * example.changes["elsewhere"]
        if counts["moved"]:
            log_notice(
                f"{counts['moved']:,} answers were up to {MAX_SHIFT} characters off the given offset; offsets corrected"
            )
        if elsewhere:
            log_notice(
                f"{len(elsewhere):,} answers are not at the given offset, but occur once elsewhere in their contexts:"
                f" offsets corrected; the first is of {elsewhere[0]}"
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
        if wrong := [each for each in examples if len(each.texts) != 2]:
            raise UsageError(
                "wrong_number_of_texts",
                f"{wrong[0].where}: give two texts, a question and the context that answers it",
            )
        contexts = list(dict.fromkeys(each.texts[1] for each in examples))
        read = dict(zip(contexts, tokenizer.encode_with_offsets(contexts), strict=True))
        questions = tokenizer.encode_batch([each.texts[0] for each in examples])
        rows: list[EncodedExample] = []
        told: Counter[str] = Counter()
        for number, (example, question) in enumerate(zip(examples, questions, strict=True)):
            ids, places = read[example.texts[1]]
            span = self.answer_tokens(example, places, told)
            asked, holds = split_window(question, len(ids), template)
            told["cut"] += len(asked) < len(question)
            for start in window_starts(len(ids), holds, self.settings.stride):
                window = slice(start, start + holds)
                row, first = encode_window(asked, ids[window], template)
                label = (
                    None
                    if span is None
                    else answer_positions(span, start, len(ids[window]), first, len(row.ids))
                )
                rows.append(replace(row, label=label, meta=Window(number, first, places[window])))
        self.report_encoding(told, len(examples), template)
        return rows

    def answer_tokens(self, example: Example, places: list[Span], told: Counter[str]) -> Span | None:
        """The first and last token of the answer most often given, (-1, -1) where there is none; None: not known."""
        gold = example.label
        if gold is None or (gold.texts and not gold.spans):
            return None
        if not gold.texts:
            return ELSEWHERE, ELSEWHERE
        begin, end = Counter(gold.spans).most_common(1)[0][0]
        inside = [at for at, (low, high) in enumerate(places) if low < high and low < end and high > begin]
        if not inside:
            told["without a token"] += 1
            return None
        first, last = inside[0], inside[-1]
        tokens = strip_span(example.texts[1], (places[first][0], places[last][1]))[0]
        told["through a token"] += tokens != example.texts[1][begin:end].strip()
        told["too long"] += last - first >= self.settings.longest_answer
        return first, last

    def report_encoding(self, told: Counter[str], n: int, template: InputTemplate) -> None:
        """What reading changed or could not do."""
        said = {
            "cut": f"questions are longer than half of {template.max_length} tokens: their ends are not read",
            "without a token": "answers have no token of their own: they are not learnt",
            "through a token": "answers begin or end within a token: they are learnt as whole tokens",
            "too long": f"answers are longer than {self.settings.longest_answer} tokens, the most an answer may have:"
            " set task.longest_answer to more",
        }
        for name, what in said.items():
            if told[name]:
                log_notice(told[name], " of ", n, f" {what}")

    def label_tensor(self, labels: list[Any], length: int) -> Tensor:
        return torch.tensor(labels)  # (B, 2)

    # ── answers ────────────────────────────────────────────────────────────────────────────────

    def predict(self, head: Any, hidden: Tensor, batch: Batch) -> list[Any]:
        """Of each row the first and last position of its best span, then log-odds against no answer: how good that
        span is, its own, and those of all spans together.
        """
        longest = self.settings.longest_answer
        scores = span_scores(head(hidden, context_mask(batch)), longest)  # (B, T, T)
        each = torch.arange(len(scores), device=scores.device)
        closing = padding_mask(hidden, batch.mask).sum(1) - 1  # (B,)
        none = scores[each, closing, closing].clone()
        scores[each, closing] = float("-inf")
        scores[each, :, closing] = float("-inf")
        total = scores.flatten(1).logsumexp(1)
        if self.settings.answer == "likeliest":
            best, place = scores.flatten(1).max(1)
            time = hidden.shape[1]
            first, last = place // time, place % time
        else:
            value, first, last = best_expected_f1(scores, longest)
            best = total + value.log()
        odds = torch.stack([best, scores[each, first, last], total], 1) - none[:, None]
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

    def answer(self, example: Example, found: SpanPrediction) -> tuple[str, Span | None]:
        """The answer, without blanks around it, and where it stands; "" where there is likelier none."""
        if found.margin < 0 and (self.settings.no_answer or found.span == (0, 0)):
            return "", None
        return strip_span(example.texts[1], found.span)

    def metrics(
        self, examples: Sequence[Example], outputs: Sequence[Any], *, intervals: bool = True
    ) -> dict[str, Any]:
        ruler = measuring.answer_style([each.texts[1] for each in examples])
        golds = [each.label.texts for each in examples]
        said = [self.answer(each, output)[0] for each, output in zip(examples, outputs, strict=True)]
        found = measuring.answer_scores(said, golds, ruler, intervals=intervals)
        if not intervals:
            return found
        if self.settings.no_answer and not all(golds):
            best = [
                strip_span(each.texts[1], output.span)[0]
                for each, output in zip(examples, outputs, strict=True)
            ]
            f1 = [
                measuring.score_answer(text, right, ruler)[1] for text, right in zip(best, golds, strict=True)
            ]
            margins = np.clip([-output.margin for output in outputs], -1e9, 1e9)
            known = np.asarray([bool(right) for right in golds])
            value, threshold = measuring.best_threshold(np.asarray(f1), known, margins)
            found |= {"best_f1": value, "best_threshold": threshold}
        found["mistakes"] = self.mistakes(examples, outputs, said, ruler)
        return found

    def per_example_metric(self, examples: Sequence[Example], outputs: Sequence[Any]) -> tuple[str, Floats]:
        ruler = measuring.answer_style([each.texts[1] for each in examples])
        said = [self.answer(each, output)[0] for each, output in zip(examples, outputs, strict=True)]
        pairs = zip(said, examples, strict=True)
        return "f1", np.asarray(
            [measuring.score_answer(text, each.label.texts, ruler)[1] for text, each in pairs]
        )

    def mistakes(
        self, examples: Sequence[Example], outputs: Sequence[SpanPrediction], said: list[str], ruler: str
    ) -> list[dict[str, Any]]:
        """The answers without anything right in them that were given with most confidence, first."""
        sure = [
            each.probability if text else each.no_answer_probability
            for each, text in zip(outputs, said, strict=True)
        ]
        wrong = [
            at
            for at, (text, each) in enumerate(zip(said, examples, strict=True))
            if measuring.score_answer(text, each.label.texts, ruler)[1] == 0
        ]
        wrong.sort(key=lambda at: -sure[at])
        return [
            {
                "text": examples[at].texts[0][:300], "label": " | ".join(dict.fromkeys(examples[at].label.texts)),
                "where": examples[at].where, "answer": said[at], "probability": round(sure[at], 4),
            }
            for at in wrong[:SHOWN]
        ]  # fmt: skip

    def answer_columns(self) -> list[str]:
        none = ["no_answer_probability"] if self.settings.no_answer else []
        return ["answer", "start", "end", "probability", *none]

    def to_json(self, example: Example, output: Any) -> dict[str, Any]:
        text, span = self.answer(example, output)
        start, end = span or (None, None)
        found = {"answer": text, "start": start, "end": end}
        found["probability"] = round(output.no_answer_probability if span is None else output.probability, 6)
        return (
            {**found, "no_answer_probability": round(output.no_answer_probability, 6)}
            if self.settings.no_answer
            else found
        )


def best_expected_f1(scores: Tensor, longest: int) -> tuple[Tensor, Tensor, Tensor]:
    """Of each row of `span_scores` (B, T, T): the highest expected F1 of a span, in tokens, over the `LIKELY` likeliest
    spans, and the first and last position of the span that has it (B,).
    """
    time = scores.shape[1]
    steps = torch.arange(
        max(time, longest), device=scores.device
    ).int()  # narrow: a row has millions of pairs
    found = []
    for row in scores:
        chances, places = row.flatten().softmax(0).topk(min(N_LIKELY, time * time))
        places, chances = places[chances > 0].int(), chances[chances > 0]
        first, last = places // time, places % time
        low, high = (
            (int(first.min()), int(last.max())) if len(places) else (0, 0)
        )  # outside nothing is in common
        starts = steps[low : high + 1, None, None]
        ends = (starts + steps[:longest, None]).clamp(max=high)  # (starts, longest, 1)
        common = torch.minimum(ends, last).sub_(torch.maximum(starts, first)).add_(1).clamp_(min=0)
        f1 = 2 * common / (ends - starts + last - first + 2) @ (chances / chances.sum())
        possible = row[low : high + 1].gather(1, ends[..., 0].long()) > float("-inf")
        value, place = f1.masked_fill(~possible, 0).flatten().max(0)
        found.append(torch.stack([value, low + place // longest, ends.flatten()[place]]))
    values, first, last = torch.stack(found).T
    return values, first.long(), last.long()


# ── windows ────────────────────────────────────────────────────────────────────────────────────


def split_window(question: list[int], n_context: int, template: InputTemplate) -> tuple[list[int], int]:
    """What is read of a question (at most half of what a window holds, where the context is long), and how many tokens
    of the context a window then holds.
    """
    if template.max_length is None:
        return question, max(1, n_context)
    room = template.max_length - len(template.begin) - 1 - template.n_separators
    if room < 2:
        raise UsageError(
            "out_of_range",
            f"a window of {template.max_length} ids holds no context: set task.longest to more",
        )
    target_positions = question[: max(room - n_context, room - room // 2)]
    return target_positions, room - len(target_positions)


def window_starts(n: int, holds: int, stride: int) -> range:
    """Where the windows of `n` tokens begin: neighbours share at least half of what a window holds."""
    step = min(stride, max(1, holds // 2))
    return range(0, max(1, n - holds + step), step)


def encode_window(
    question: list[int], context: list[int], template: InputTemplate
) -> tuple[EncodedExample, int]:
    """The row of a question and a part of its context, and the position of that part's first token."""
    ids, segments, _ = replace(template, max_length=None).apply([question, context])
    first = len(ids) - len(context) - 1
    if template.n_segments > 2:
        segments[first:-1] = [1 + (each in question) for each in context]
    return EncodedExample(ids, segments), first


def answer_positions(span: Span, start: int, n: int, first: int, length: int) -> list[int]:
    """The positions of an answer in a row of `length` whose part of the context, `n` tokens from the `start`-th on,
    begins at `first`; the closing id where that part does not hold it whole.
    """
    if start <= span[0] and span[1] < start + n:
        return [at - start + first for at in span]
    return [length - 1] * 2


# ── fields ─────────────────────────────────────────────────────────────────────────────────────


def strip_span(context: str, span: Span) -> tuple[str, Span]:
    """The text of a span without blanks around it, and where that stands."""
    text = context[slice(*span)]
    start = span[0] + len(text) - len(text.lstrip())
    return text.strip(), (start, start + len(text.strip()))


def read_question(record: Record) -> tuple[str, str]:
    """The question and its context. Raises DataError where one is not there, or is no text."""
    for name in ("question", "context"):
        if name not in record.values:
            shown = ", ".join(map(repr, list(record.values)[:30]))
            raise DataError(
                "column_not_found",
                f"{record.where} has no field {name!r}; it has {shown}: name its column with --columns {name}=COLUMN",
            )
        value = record.values[name]
        if not isinstance(value, str):
            raise DataError(
                "invalid_row",
                f"{record.where}: the {name} is {type(value).__name__} ({value!r}), not a string",
            )
    return record.values["question"], record.values["context"]


def read_answers(record: Record) -> list[tuple[str, int]]:
    """Each answer's text and start as the row has them. Raises DataError for anything else."""
    where = record.where
    if "answers" not in record.values:
        shown = ", ".join(map(repr, list(record.values)[:30]))
        raise DataError("column_not_found", f"{where} has no field 'answers'; it has {shown}")
    value = record.values["answers"]
    if isinstance(value, dict):
        texts, starts = (value.get(name) for name in ("text", "answer_start"))
        if not (isinstance(texts, list) and isinstance(starts, list) and len(texts) == len(starts)):
            raise DataError(
                "invalid_row",
                f"{where}: answers {value!r} need 'text' and 'answer_start', two lists of one length",
            )
        value = [{"text": text, "start": start} for text, start in zip(texts, starts, strict=True)]
    if not isinstance(value, list):
        raise DataError(
            "invalid_row",
            f"{where}: answers is {value!r}; give a list of {{'text', 'start'}}, empty where there is none",
        )
    found = []
    for each in value:
        text = each.get("text") if isinstance(each, dict) else None
        start = each.get("start", each.get("answer_start")) if isinstance(each, dict) else None
        if not isinstance(text, str) or not text.strip() or type(start) is not int:
            raise DataError(
                "invalid_row", f"{where}: the answer {each!r} is not a text and the character it starts at"
            )
        found.append((text, start))
    return found


def locate_answers(record: Record, context: str, answer: Counter[str]) -> GoldAnswers:
    """The right answers of a row, each looked up in the context. DataError for one that is not near its start."""
    given = read_answers(record)
    found: list[Span] = []
    for text, start in given:
        near = (start + by for by in sorted(range(-MAX_SHIFT, MAX_SHIFT + 1), key=abs))
        at = next((each for each in near if each >= 0 and context.startswith(text, each)), None)
        if start == ELSEWHERE:
            answer["nowhere"] += 1
        elif at is None and (once := context.find(text)) >= 0 and context.rfind(text) == once:
            answer["elsewhere"] += 1
            found.append((once, once + len(text)))
        elif at is None:
            raise DataError(
                "invalid_span",
                f"{record.where}: the answer {text!r} does not stand at {start} of the context, where there is"
                f" {context[max(0, start) :][:30]!r}; mend the row (start {ELSEWHERE} for an answer in other words)",
            )
        else:
            answer["moved"] += at != start
            found.append((at, at + len(text)))
    answer["untrained"] += bool(given) and not found
    return GoldAnswers(tuple(text for text, _ in given), tuple(found))
