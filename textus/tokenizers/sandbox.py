"""jinja2's immutable sandbox for chat templates of strangers: every operation is paid for before it is done.

jinja2 compiles a template to Python. The generator here makes that code call back for everything that takes time or
memory, or that makes text: operators, comparisons, slices, filters, tests, calls, printing, each round of a loop. What
comes back is bounded (`provenance.RenderBudget`), and the template's own words come in as `TrackedText` that carries
its origin. Names, filters and methods are those that `transformers` offers a template; the few that could not be
bounded, or whose answer is random, are left out, so a template that uses one is refused by its name.
"""

from __future__ import annotations

import re
import string
from collections.abc import Callable, Iterable, Iterator
from datetime import datetime
from functools import lru_cache
from typing import Any, cast

from textus.core.errors import UsageError
from textus.tokenizers.filters import (
    OPERATORS,
    binary,
    bounded_filters,
    bounded_tests,
    charge,
    charge_items,
    charge_search,
)
from textus.tokenizers.provenance import (
    STEP,
    RenderBudget,
    SafeText,
    TemplateError,
    TrackedText,
    as_tracked,
    budget,
    check_length,
    check_widths,
    derive,
    spend,
    template_text,
    to_tracked,
)

TEMPLATE_CHARACTERS = 1 << 16
METHODS = frozenset(
    re.findall(
        r"\w+",
        """capitalize casefold center copy count endswith expandtabs find format format_map get index isalnum isalpha
    isascii isdecimal isdigit islower isnumeric isprintable isspace istitle isupper items join keys ljust lower lstrip
    partition removeprefix removesuffix replace rfind rindex rjust rpartition rsplit rstrip split splitlines startswith
    strip swapcase title upper values zfill""",
    )
)


class TemplateRefusal(UsageError):
    """The template itself refuses these messages, by raise_exception."""


@lru_cache(maxsize=32)
def compile_template(template: str) -> Any:
    """The template as a program; UsageError for one that is too long, jinja2's errors for one that is not valid."""
    if len(template) > TEMPLATE_CHARACTERS:
        raise UsageError(
            "template_limit",
            f"the chat template has {len(template):,} characters; the limit is {TEMPLATE_CHARACTERS:,}",
        )
    sandbox = _environment()
    tree = sandbox.parse(template)
    _prepare(tree, sandbox)
    program = sandbox.compile(tree)
    return sandbox.template_class.from_code(sandbox, program, sandbox.make_globals(None))


def run_template(template: str, names: dict[str, Any], characters: int) -> TrackedText:
    """What a template prints with these names, within the budget of a conversation of so many characters.

    Raises UsageError: whatever goes wrong, in one line; BrokenTemplate where other messages would not help; Raises
    TemplateRefusal where the template refuses the messages.
    """
    try:
        with RenderBudget(characters):
            program = _program(template)
            return concat(program.root_render_func(program.new_context(names)))
    except UsageError:
        raise
    except Exception as error:  # a stranger's program may fail in any way; the person gets one line
        raise UsageError("template_failed", _failure(error)) from error


def _program(template: str) -> Any:
    """The template as a program; BrokenTemplate where it is missing."""
    try:
        return compile_template(template)
    except UsageError as error:
        raise TemplateError("template_failed", str(error)) from error
    except Exception as error:
        raise TemplateError("template_failed", _failure(error)) from error


def _failure(error: Exception) -> str:
    return f"the chat template failed: {type(error).__name__}: {' '.join(str(error).split())}"[:300]


# ── what the compiled code calls ───────────────────────────────────────────────────────────────


def _call(sandbox: Any, function: Any, arguments: Iterable[Any]) -> None:
    """Pay for a call: all of its arguments, and the text or list whose method it is."""
    from jinja2.runtime import LoopContext, Macro

    spend(STEP)
    if isinstance(function, Macro | LoopContext):
        spend(4 * STEP)
        return
    owner = getattr(function, "__self__", None)
    if isinstance(owner, str):
        spend(len(owner))
    elif isinstance(owner, list | tuple):
        charge(owner)
    for argument in arguments:
        charge(argument)


def _format_fields(sandbox: Any, template: TrackedText, arguments: Any, names: Any) -> TrackedText:
    """`template.format(…)`: fields without a specification keep the marks of what they print."""
    from jinja2.sandbox import SandboxedFormatter

    fields = SandboxedFormatter(sandbox)
    counted = iter(range(len(arguments) + 1))
    pieces: list[str] = []
    origin = derive("?", template)  # the marks of the text between the fields
    for literal, name, spec, conversion in string.Formatter().parse(template):
        pieces.append(derive(literal, origin))
        if name is None:
            continue
        spend(STEP)
        name = f"{next(counted)}{name}" if name == "" or name[0] in ".[" else name
        value, _ = fields.get_field(name, arguments, names)
        if not spec and conversion in (None, "s"):
            pieces.append(to_tracked(value))
            continue
        charge(value)
        spec = str(_format_fields(sandbox, derive(spec or "", origin), arguments, names))
        check_widths(spec)
        result = format(fields.convert_field(value, cast(Any, conversion)), spec)
        pieces.append(derive(result, value) if isinstance(value, str) else as_tracked(result))
    return template_text("").join(pieces)


def concat(pieces: Iterable[str]) -> TrackedText:
    """Printed pieces as one text, counted as they come."""
    texts, length, now = [], 0, budget()
    for piece in pieces:
        length += len(piece)
        now.spend(STEP // 4)
        now.check_length(length)
        texts.append(piece)
    return template_text("").join(texts)


# ── the environment ────────────────────────────────────────────────────────────────────────────


class MeteredSandbox:
    """What the compiled code calls: paid for first, then done as jinja2's sandbox does it."""

    literals: list[TrackedText]
    weighed, searched, printed = staticmethod(charge), staticmethod(charge_search), staticmethod(to_tracked)

    @property
    def tick(self) -> bool:
        """Paid once in each round of a loop."""
        spend(STEP)
        return True

    def joined(self, values: tuple[Any, ...]) -> TrackedText:
        """`a ~ b`."""
        spend(STEP)
        return template_text("").join(map(to_tracked, values))

    def part(self, value: Any, start: Any, stop: Any, step: Any) -> Any:
        """`value[start:stop:step]`."""
        spend(STEP)
        if isinstance(value, SafeText):
            raise UsageError(
                "template_unsupported",
                "the chat template slices text escaped for HTML; write ~ '' behind it first",
            )
        taken = as_tracked(value)[start:stop:step]
        spend(len(taken))
        return taken

    def call_binop(self, context: Any, operator: str, left: Any, right: Any) -> Any:
        return binary(operator, left, right)

    def call(__self, __context: Any, __function: Any, *args: Any, **kwargs: Any) -> Any:
        _call(__self, __function, [*args, *(v for k, v in kwargs.items() if not k.startswith("_"))])
        result = cast(Any, super()).call(__context, __function, *args, **kwargs)
        return iter(charge_items(result)) if isinstance(result, Iterator) else result

    def getattr(self, obj: Any, attribute: str) -> Any:
        spend(STEP)
        if isinstance(obj, SafeText):
            raise UsageError(
                "template_unsupported",
                f"the chat template calls .{attribute} of text escaped for HTML; write ~ '' behind it first",
            )
        return cast(Any, super()).getattr(as_tracked(obj), attribute)

    def getitem(self, obj: Any, argument: Any) -> Any:
        spend(STEP)
        return cast(Any, super()).getitem(
            as_tracked(obj), charge(argument) if isinstance(argument, tuple) else argument
        )

    def wrap_str_format(self, value: Any) -> Any:
        name = getattr(value, "__name__", "")
        template = getattr(value, "__self__", None)
        if name not in ("format", "format_map") or not isinstance(template, TrackedText):
            return cast(Any, super()).wrap_str_format(value)
        if name == "format_map":
            return lambda names: _format_fields(self, template, (), names)
        return lambda *arguments, **names: _format_fields(self, template, arguments, names)

    def is_safe_attribute(self, obj: Any, attr: str, value: Any) -> bool:
        if isinstance(obj, str | list | dict | tuple | bytes | int | float):
            allowed = attr in METHODS or attr in getattr(obj, "_fields", ())
            return allowed and cast(Any, super()).is_safe_attribute(obj, attr, value)
        return cast(Any, super()).is_safe_attribute(obj, attr, value)


def _environment() -> Any:
    from jinja2.ext import loopcontrols
    from jinja2.sandbox import ImmutableSandboxedEnvironment

    class Sandbox(MeteredSandbox, ImmutableSandboxedEnvironment):
        intercepted_binops = frozenset(OPERATORS)
        concat = staticmethod(concat)
        code_generator_class = _generator()

    sandbox = Sandbox(
        trim_blocks=True,
        lstrip_blocks=True,
        optimized=False,
        extensions=[loopcontrols, _generation_extension()],
    )
    sandbox.filters = bounded_filters(sandbox.filters)
    sandbox.tests = bounded_tests(sandbox.tests)
    sandbox.globals.update(
        raise_exception=_refuse, strftime_now=_now, namespace=_namespace(), dict=_dictionary, range=_range
    )
    sandbox.globals.pop("lipsum")  # random
    sandbox.literals = []
    return sandbox


def _refuse(message: Any) -> None:
    raise TemplateRefusal(
        "template_refusal",
        f"the chat template refuses these messages: {' '.join(to_tracked(message).split())}"[:300],
    )


def _now(form: str) -> TrackedText:
    check_length(max(map(int, re.findall(r"\d{1,9}", form)), default=0))
    if len(form) > 1000:
        raise UsageError(
            "template_limit", "the chat template gives strftime_now a format of over 1,000 characters"
        )
    return derive(datetime.now().strftime(form), form)


def _dictionary(*arguments: Any, **names: Any) -> dict[Any, Any]:
    return dict(*arguments, **names)


def _range(*arguments: int) -> range:
    numbers = range(*arguments)
    if len(numbers) > 100_000:
        raise UsageError(
            "template_limit", f"the chat template makes a range of {len(numbers):,}; the limit is 100,000"
        )
    return numbers


def _namespace() -> type:
    from jinja2.exceptions import SecurityError
    from jinja2.utils import Namespace

    class Names(Namespace):
        """A namespace without names that begin with _: through them a program could leave the sandbox."""

        def __init__(*arguments: Any, **names: Any) -> None:
            self, *rest = arguments
            held = dict(*rest, **names)
            for name in held:
                Names.check(name)
            Namespace.__init__(self, held)

        def __setitem__(self, name: str, value: Any) -> None:
            Names.check(name)
            super().__setitem__(name, value)

        @staticmethod
        def check(name: Any) -> None:
            if isinstance(name, str) and name.startswith("_"):
                raise SecurityError(f"a namespace has no name {name!r}")

    return Names


def _generation_extension() -> type:
    from jinja2 import nodes
    from jinja2.ext import Extension

    class Generation(Extension):
        """`{% generation %}`: marks the assistant's answers, for training; printed as it is."""

        tags = {"generation"}  # noqa: RUF012

        def parse(self, parser: Any) -> Any:
            number = next(parser.stream).lineno
            body = parser.parse_statements(["name:endgeneration"], drop_needle=True)
            return nodes.CallBlock(self.call_method("printed"), [], [], body).set_lineno(number)

        def printed(self, caller: Callable[[], str]) -> str:
            return caller()

    return Generation


# ── compiling ──────────────────────────────────────────────────────────────────────────────────


def _prepare(tree: Any, sandbox: Any) -> None:
    """Let each round of a loop be paid for, and refuse statements that need other files or change the escaping."""
    from jinja2 import nodes

    refused = {
        nodes.Include: "include", nodes.Import: "import", nodes.FromImport: "from", nodes.Extends: "extends",
        nodes.ScopedEvalContextModifier: "autoescape",
    }  # fmt: skip
    for node in tree.find_all(tuple(refused)):
        tag = refused[type(node)]
        raise UsageError(
            "template_unsupported",
            f"the chat template uses {{% {tag} %}}, which is not supported; write it without",
        )
    for loop in list(tree.find_all(nodes.For)):
        tick = nodes.EnvironmentAttribute("tick", lineno=loop.lineno)
        loop.body = [nodes.ExprStmt(tick, lineno=loop.lineno), *loop.body]
        if loop.test is not None:
            loop.test = nodes.And(tick, loop.test, lineno=loop.lineno)
    tree.set_environment(sandbox)


class MeteredCode:
    """What jinja2's code generator writes otherwise here: calls of `Paid`, and strings that carry who wrote them."""

    environment: Any
    write: Callable[[str], None]
    visit: Callable[[Any, Any], None]

    def literal(self, text: str) -> str:
        """Code for a string of the template: read from a table, where it is marked as the template's own."""
        literals = self.environment.literals
        literals.append(template_text(text))
        return f"environment.literals[{len(literals) - 1}]"

    def visit_Const(self, node: Any, frame: Any) -> None:
        if isinstance(node.value, str):
            self.write(self.literal(node.value))
        else:
            cast(Any, super()).visit_Const(node, frame)

    def visit_TemplateData(self, node: Any, frame: Any) -> None:
        self.write(self.literal(node.data))

    def _output_const_repr(self, group: Iterable[Any]) -> str:
        return self.literal("".join(group))

    def _output_child_to_const(self, node: Any, frame: Any, finalize: Any) -> str:
        from jinja2 import nodes

        if isinstance(node, nodes.TemplateData) or (
            isinstance(node, nodes.Const) and isinstance(node.value, str)
        ):
            return str(node.as_const(frame.eval_ctx))
        raise nodes.Impossible()  # nothing is computed while compiling

    def _output_child_pre(self, node: Any, frame: Any, finalize: Any) -> None:
        self.write("environment.printed(")

    def _output_child_post(self, node: Any, frame: Any, finalize: Any) -> None:
        self.write(")")

    def visit_Concat(self, node: Any, frame: Any) -> None:
        self.write("environment.joined((")
        for part in node.nodes:
            self.visit(part, frame)
            self.write(", ")
        self.write("))")

    def visit_Compare(self, node: Any, frame: Any) -> None:
        self.write("(environment.weighed(")
        self.visit(node.expr, frame)
        self.write(")")
        for part in node.ops:
            self.visit(part, frame)
        self.write(")")

    def visit_Operand(self, node: Any, frame: Any) -> None:
        from jinja2.compiler import operators

        check = "searched" if node.op in ("in", "notin") else "weighed"
        self.write(f" {operators[node.op]} environment.{check}(")
        self.visit(node.expr, frame)
        self.write(")")

    def visit_Dict(self, node: Any, frame: Any) -> None:
        self.write("{")
        for pair in node.items:
            self.write("environment.weighed(")
            self.visit(pair.key, frame)
            self.write("): ")
            self.visit(pair.value, frame)
            self.write(", ")
        self.write("}")

    def visit_Getitem(self, node: Any, frame: Any) -> None:
        from jinja2 import nodes

        if not isinstance(node.arg, nodes.Slice):
            cast(Any, super()).visit_Getitem(node, frame)
            return
        self.write("environment.part(")
        for value in (node.node, node.arg.start, node.arg.stop, node.arg.step):
            if value is None:
                self.write("None")
            else:
                self.visit(value, frame)
            self.write(", ")
        self.write(")")


def _generator() -> Any:
    from jinja2.compiler import CodeGenerator

    return type("Generator", (MeteredCode, CodeGenerator), {})
