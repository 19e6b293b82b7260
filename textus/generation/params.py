"""The request of generation: `SamplingParams`, with what each of its fields may be."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, fields, replace
from numbers import Integral, Real
from typing import Any

from textus.core.errors import UsageError
from textus.core.names import unknown_name_error
from textus.core.requests import option

DEFAULT_TEMPERATURE = 0.8
MAX_STOP_LENGTH = 1000
"""Characters a stop string may have."""


@dataclass(frozen=True)
class Bound:
    """What one sampling field may be: a number, or a whole one, from `low` to `high` but for those `without`."""

    low: float
    high: float
    wanted: str
    whole: bool = False
    without: tuple[float, ...] = ()

    def holds(self, value: Any) -> bool:
        """Whether a value is within the bound; of another type it is not."""
        if isinstance(value, bool) or not isinstance(value, Integral if self.whole else Real):
            return False
        number: Any = value  # compared as it is: as floats 2^64 - 1 and 2^64 are one
        return self.low <= number <= self.high and number not in self.without


BOUNDS = {
    "temperature": Bound(0, 100, "a number from 0 (greedy) to 100"),
    "top_k": Bound(0, 2**31 - 1, "a whole number from 0 (all) to 2147483647", whole=True),
    "top_p": Bound(0, 1, "a number above 0, at most 1", without=(0,)),
    "min_p": Bound(0, 1, "a number from 0, below 1", without=(1,)),
    "repetition_penalty": Bound(0.01, 100, "a number from 0.01 to 100 (1 is none)"),
    "max_tokens": Bound(1, 2**31 - 1, "a whole number of 1 or more", whole=True),
    "beams": Bound(1, 256, "a whole number from 1 (no search) to 256", whole=True),
    "length_penalty": Bound(-5, 5, "a number from -5 to 5 (0 is none)"),
    "seed": Bound(-(2**63), 2**64 - 1, "a whole number from -2^63 to 2^64 - 1", whole=True),
}
"""The one place where the command line, Python and HTTP look up what a sampling field may be. Beyond these bounds
logits overflow: a repetition penalty of 1e-300 makes them infinite."""


@dataclass(frozen=True)
class SamplingParams:
    """How the next id is chosen, and when to stop. Temperature 0 is greedy; 0, 1 and 0 leave a filter out."""

    temperature: float = option(
        DEFAULT_TEMPERATURE,
        "Divides the logits: higher is more random, 0 is greedy. With --beams the default is 0.",
    )
    max_tokens: int = option(200, "Tokens to write at most.")
    seed: int = option(0, "The same seed writes the same text.")
    top_k: int = option(0, "Sample from the k likeliest tokens (and ties with the last of them); 0 is all.")
    top_p: float = option(1.0, "Sample from the likeliest tokens that together have this probability.")
    min_p: float = option(0.0, "Leave out tokens less likely than this share of the likeliest one.")
    repetition_penalty: float = option(1.0, "Above 1, tokens already used become less likely.")
    beams: int = option(
        1, "Search with this many texts at once for the likeliest one, without sampling; 1 is no search."
    )
    length_penalty: float = option(
        1.0, "With beams, a text's score is its log-probability / length^this: higher favours longer texts."
    )
    early_stopping: bool = option(
        False, "With beams, end the search once as many texts ended, though one still running may be better."
    )
    stop: tuple[str, ...] = option((), "Stop before this text; may be repeated.")
    sliding: bool = option(
        False, "When the context is full, continue without the first half of the text; else the text ends."
    )

    def __post_init__(self) -> None:
        if self.searches and self.temperature == DEFAULT_TEMPERATURE:  # not set: nothing is sampled
            object.__setattr__(self, "temperature", 0.0)

    @property
    def searches(self) -> bool:
        """Whether there are beams, so that `beam.beam_search` is to write the text."""
        return BOUNDS["beams"].holds(self.beams) and self.beams > 1

    def check(self) -> None:
        """UsageError naming the first value that is out of range."""
        for name, bound in BOUNDS.items():
            if not bound.holds(value := getattr(self, name)):
                raise UsageError("out_of_range", f"{name}={value!r:.60} is out of range; give {bound.wanted}")
        self._check_search()
        if isinstance(self.stop, str) or not all(isinstance(text, str) for text in self.stop):
            raise UsageError("wrong_type", f"stop={self.stop!r}: give a tuple of texts, such as ('\\n\\n',)")
        if not all(0 < len(text) <= MAX_STOP_LENGTH for text in self.stop):
            raise UsageError(
                "out_of_range",
                f"stop={str(self.stop)[:100]!r} is out of range; give texts of 1 to {MAX_STOP_LENGTH:,} characters",
            )

    def _check_search(self) -> None:
        """UsageError where beams meet an option that has no meaning for them."""
        if not self.searches:
            return
        for name, only in {"temperature": 0, "repetition_penalty": 1, "sliding": False}.items():
            if (value := getattr(self, name)) != only:
                raise UsageError(
                    "incompatible_settings",
                    f"beams={self.beams} search for the likeliest text, and {name}={value} changes what is likely;"
                    f" leave {name} out, or set beams=1",
                )


def sampling_params(params: SamplingParams | None, options: Mapping[str, Any]) -> SamplingParams:
    """`params`, or the defaults, with keywords in place of its fields; checked. `stop` may be one string or a list.

    Raises UsageError for an unknown option or a value out of range.
    """
    names = [field.name for field in fields(SamplingParams)]
    for name in options:
        if name not in names:
            raise unknown_name_error("sampling option", name, names)
    values = dict(options)
    if isinstance(stop := values.get("stop", ()), str | list):
        values["stop"] = (stop,) if isinstance(stop, str) else tuple(stop)
    params = replace(params or SamplingParams(), **values)
    params.check()
    return params
