"""Errors by their code: the wording of a message is free, its code and the offending values are not."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import pytest

from textus.core.errors import CODES, CodedError

KNOWN = frozenset(code for codes in CODES.values() for code in codes)


@contextmanager
def raises(
    kind: type[CodedError] | tuple[type[CodedError], ...], code: str, *values: str
) -> Iterator[pytest.ExceptionInfo[CodedError]]:
    """The body must raise an error of this class, which decides the exit code, and of this code, whose message holds
    all of the values.
    """
    assert code in KNOWN, f"{code} is no code of an error"
    with pytest.raises(kind) as caught:
        yield caught
    error = caught.value
    assert error.code == code, f"{error.code}, not {code}: {error}"
    assert [value for value in values if value not in str(error)] == [], str(error)
