"""The options of request objects in the signatures and docstrings of functions that take them as keywords."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from textwrap import fill
from typing import Any, TypeVar

from textus.core.requests import options_of

Function = TypeVar("Function", bound=Callable[..., Any])


def with_options(request: type) -> Callable[[Function], Function]:
    """Show the fields of a request class as keywords of a function whose parameters end in `**options`."""

    def documented(function: Function) -> Function:
        signature = inspect.signature(function)
        parameters = list(signature.parameters.values())[:-1]
        known = {parameter.name for parameter in parameters}
        lines = []
        for option in options_of(request):
            if option.name not in known:
                parameters.append(
                    inspect.Parameter(
                        option.name,
                        inspect.Parameter.KEYWORD_ONLY,
                        default=option.default,
                        annotation=option.type,
                    )
                )
            text = f"{option.name} ({option.type}): {option.metadata['help']}"
            lines.append(fill(text, 110, initial_indent="    ", subsequent_indent="        "))
        function.__signature__ = signature.replace(parameters=parameters)  # type: ignore[attr-defined]
        about = inspect.getdoc(function) or ""
        function.__doc__ = f"{about}\n\nOptions, the fields of `{request.__name__}`:\n" + "\n".join(lines)
        return function

    return documented
