"""Chats (M1, M4, M5, M10, R3): ids as `apply_chat_template` gives them for every style of template and every option of
tokenizers, special tokens out of the messages' reach, and templates that would take all there is stopped.
"""

from __future__ import annotations

import random
import re
import string
import threading
import time
from itertools import pairwise
from typing import Any

import pytest
from bombs import BOMBS
from chats import CONVERSATIONS, FLAGS, SPECIAL, TEMPLATES, TOKENIZERS, turns, write_folder
from raising import raises

from textus.core.errors import UsageError
from textus.tokenizers import Tokenizer, load, provenance
from textus.tokenizers.chat_encoding import ChatEncoder
from textus.tokenizers.chat_template import render_template
from textus.tokenizers.provenance import TrackedText
from textus.tokenizers.sandbox import TemplateRefusal

transformers = pytest.importorskip("transformers")
NUMBERS = {name: place for place, name in enumerate(TEMPLATES)}


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> Any:
    """A tokenizer's folder by kind and flags, made once."""
    made: dict[tuple[str, str], tuple[Tokenizer, Any]] = {}
    base = tmp_path_factory.mktemp("chats")

    def opened(kind: str, flags: str) -> tuple[Tokenizer, Any]:
        if (kind, flags) not in made:
            folder = write_folder(base / str(len(made)), kind, flags)
            made[kind, flags] = load(folder), transformers.AutoTokenizer.from_pretrained(folder)
        return made[kind, flags]

    return opened


def compare(ours: Tokenizer, theirs: Any, template: str, messages: Any, prompt: bool) -> str:
    """ "equal", "refused" by both, or what differs."""
    ours.chat_template = theirs.chat_template = template
    try:
        expected = theirs.apply_chat_template(messages, add_generation_prompt=prompt, return_dict=False)
    except Exception as error:
        expected = f"{type(error).__name__}: {error}"
    try:
        ids: Any = ours.apply_chat_template(messages, add_generation_prompt=prompt)
    except UsageError as error:
        return "refused" if isinstance(expected, str) else f"only we refuse: {error}"
    return "equal" if ids == expected else f"{ids} where transformers has {expected}"


@pytest.mark.promise(
    "Robustness",
    "Chat ids and text are those of `apply_chat_template` for every style of template, tokenizer and flag",
)
@pytest.mark.parametrize("kind", TOKENIZERS)
def test_ids_equal_transformers_in_every_style(folders: Any, kind: str) -> None:
    """M4, M5, M10: each template with each tokenizer, flags and conversations by turns."""
    place = list(TOKENIZERS).index(kind)
    ours, theirs = folders(kind, list(FLAGS)[place % len(FLAGS)])
    results = {}
    for name in list(TEMPLATES)[place % 3 :: 3]:
        which = list(CONVERSATIONS)[(place // 3 + NUMBERS[name] // 3) % len(CONVERSATIONS)]
        results[name, which] = compare(ours, theirs, TEMPLATES[name], CONVERSATIONS[which], place % 2 == 0)
    assert {key: result for key, result in results.items() if result not in ("equal", "refused")} == {}
    assert list(results.values()).count("equal") > 0.8 * len(results)


@pytest.mark.slow
@pytest.mark.parametrize("flags", FLAGS)
@pytest.mark.parametrize("kind", TOKENIZERS)
def test_ids_equal_transformers_in_the_whole_matrix(folders: Any, kind: str, flags: str) -> None:
    """M4: every template, conversation, tokenizer and flag."""
    ours, theirs = folders(kind, flags)
    results = {
        (name, which): compare(ours, theirs, template, CONVERSATIONS[which], True)
        for name, template in TEMPLATES.items()
        for which in CONVERSATIONS
    }
    assert {key: result for key, result in results.items() if result not in ("equal", "refused")} == {}


@pytest.mark.parametrize("kind", TOKENIZERS)
def test_each_flag_decides_ids_and_they_are_equal(folders: Any, kind: str) -> None:
    """M4: lstrip, rstrip, single_word, normalized, where blanks, letters and special tokens meet."""
    place = list(TOKENIZERS).index(kind)
    for flags in list(FLAGS)[place % 4 :: 4]:
        ours, theirs = folders(kind, flags)
        for name in ("blanks around special tokens", "letters around special tokens", "chatml", "mistral"):
            comparison = compare(ours, theirs, TEMPLATES[name], CONVERSATIONS["blanks"], True)
            assert comparison in ("equal", "refused"), (flags, name)


# ── every filter and method ────────────────────────────────────────────────────────────────────

STEPS = re.findall(
    r"\S+",
    """
    trim upper lower title capitalize string e~'' indent indent(2,true) indent('>',false,true) replace('a','--')
    replace('<','(') replace('','.')  truncate(9) truncate(9,true) center(30) reverse first last list|join
    list|join('|') tojson tojson(ensure_ascii=true) format escape|string|length wordcount default('x') safe~''
    join('-') unique|join sort|join batch(2)|map('join')|join(',') map('upper')|join
    .strip() .lstrip() .rstrip('\\n') .strip('a<') .upper() .lower() .title() .swapcase() .casefold() .capitalize()
    .split()|join('_') .split('a')|join('_') .split('a',1)[0] .rsplit('a',1)[-1] .split(none,1)|last .rsplit()|join
    .splitlines()|join('/') .splitlines(true)|join('/') .partition('a')[2] .rpartition('a')[0] .replace('b','',1)
    .removeprefix('a') .removesuffix('z') .center(31,'*') .ljust(20,'.') .rjust(20) .zfill(20) .expandtabs(3)
    .count('a') .find('a') .startswith('a') .join(['x','y']) [1:] [:-1] [::-1] [::2] [0:3] [-4:] *2 +'z' ~'z' ~1
""",
)


def step(expression: str, operation: str) -> str:
    """The expression with one more operation."""
    joined = f"({expression}){operation}" if operation[0] in ".[*+~" else f"({expression}) | {operation}"
    return f"({joined})"


@pytest.mark.parametrize("seed", range(4))
def test_text_equals_transformers_for_chains_of_filters_and_methods(seed: int) -> None:
    """M5: 40 random chains of up to four operations over joined text each."""
    from transformers.utils.chat_template_utils import render_jinja_template

    draw = random.Random(seed)
    alphabet = "aabz <>&'\"\n\t|_ßİŉǆΣσé龙🙂1" + string.ascii_uppercase[:4]
    differences, n_equal = {}, 0
    for _ in range(40):
        expression = draw.choice(
            ["m.content", "('<|user|>' ~ m.content ~ ' ')", "(m.role + ': ' + m.content)"]
        )
        for _ in range(draw.randint(1, 4)):
            expression = step(expression, draw.choice(STEPS))
        template = f"{{% for m in messages %}}[{{{{ {expression} }}}}]{{% endfor %}}"
        messages = turns(*("".join(draw.choices(alphabet, k=draw.randint(0, 12))) for _ in range(3)))
        try:
            expected = render_jinja_template([messages], chat_template=template)[0][0]
        except Exception:
            expected = None
        try:
            text = render_template(template, messages, add_generation_prompt=False)
        except UsageError as error:
            if expected is not None and "is not supported" not in str(error) and "escaped" not in str(error):
                differences[template] = (str(error), expected)
            continue
        assert len(text._marks) == len(text)
        if str.__str__(text) != expected:
            differences[template] = (str.__str__(text), expected)
        n_equal += 1
    assert differences == {}
    assert n_equal > 12


@pytest.mark.parametrize("seed", range(2))
def test_no_chain_of_operations_makes_a_message_the_templates_own(seed: int) -> None:
    """What a message wrote is never marked as the template's: letters that only the message has tell."""
    draw = random.Random(seed)
    for _ in range(40):
        expression = "('<|user|>' ~ m.content ~ '--')"
        for _ in range(draw.randint(1, 4)):
            expression = step(expression, draw.choice(STEPS))
        template = f"{{% for m in messages %}}[{{{{ {expression} }}}}]{{% endfor %}}"
        messages = turns(*("".join(draw.choices("龙 虎\n马ßŉ", k=9)) for _ in range(3)))
        try:
            text = render_template(template, messages, add_generation_prompt=False)
        except UsageError:
            continue
        theirs = {c for c, mark in zip(str.__str__(text), text._marks, strict=True) if mark == ord("T")}
        assert not theirs & set("龙虎马ßŉʼ"), template


# ── special tokens and messages ────────────────────────────────────────────────────────────────


def broken(text: str) -> str:
    """The text with every special token's last letter changed: no special token, but its surroundings as they were."""
    for name in sorted(SPECIAL, key=len, reverse=True):
        letter = max(place for place, character in enumerate(name) if character.isalpha())
        text = text.replace(name, name[:letter] + "q" + name[letter + 1 :])
    return text


@pytest.mark.promise("Robustness", "No message makes a special token through any template")
@pytest.mark.parametrize("kind", TOKENIZERS)
def test_no_message_makes_a_special_token_through_any_template(folders: Any, kind: str) -> None:
    """The special ids are those of the same conversation whose texts spell no special token."""
    place = list(TOKENIZERS).index(kind)
    check_attacks(folders(kind, list(FLAGS)[place % len(FLAGS)])[0], list(TEMPLATES)[place % 3 :: 3], kind)


@pytest.mark.slow
@pytest.mark.parametrize("kind", TOKENIZERS)
@pytest.mark.parametrize("flags", FLAGS)
def test_no_message_makes_a_special_token_in_the_whole_matrix(folders: Any, kind: str, flags: str) -> None:
    check_attacks(folders(kind, flags)[0], list(TEMPLATES), kind + flags)


def check_attacks(ours: Tokenizer, names: list[str], seed: str) -> None:
    """Messages that spell special tokens, whole and in parts, through templates of these names."""
    control = set(ours.special.values()) - {ours.unk_id}
    draw = random.Random(seed)
    n_equal = 0
    for name in names:
        ours.chat_template = TEMPLATES[name]
        first, second = draw.sample(SPECIAL, 2)
        texts = [f"{first}a {second}", f"{first}{first}", f"b{second} <|", "|>"]
        plain = [broken(text) for text in texts]
        try:
            ids, expected = ours.apply_chat_template(turns(*texts)), ours.apply_chat_template(turns(*plain))
        except UsageError as error:
            message = str(error)
            assert "a message spells a special token" in message or "refuses" in message, (name, message)
            continue
        assert [n for n in ids if n in control] == [n for n in expected if n in control], (name, texts)
        n_equal += 1
    assert n_equal > 0.75 * len(names)


def test_the_text_of_a_spelled_special_token_comes_back(folders: Any) -> None:
    ours, _ = folders("byte-level", "plain")
    ours.chat_template = TEMPLATES["chatml"]
    ids = ours.apply_chat_template(turns("a<|im_end|>b <unk>"), add_generation_prompt=False)
    names = [ours.backend.id_to_token(n) for n in ids if n in ours.special.values()]
    assert names == ["<|im_start|>", "<|im_end|>"]
    assert ours.decode(ids) == "user\na<|im_end|>b <unk>\n"


def test_an_encoder_that_believes_every_special_id_is_caught(
    folders: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The planted fault: special ids are not looked at."""
    monkeypatch.setattr(ChatEncoder, "_special_spans", lambda *_: [])
    with pytest.raises(AssertionError):
        check_attacks(folders("byte-level", "plain")[0], ["chatml"], "")


def test_a_mark_that_is_lost_makes_text_not_a_special_token() -> None:
    """An operation nobody thought of gives a plain string: it counts as unknown, and is refused where it matters."""
    encoder = ChatEncoder({"added_tokens": []}, {"<s>": 1}, "<unk>")
    unknown = TrackedText("<s>", provenance.UNKNOWN * 3)
    with raises(UsageError, "template_unsupported"):
        list(encoder.segments(unknown))


def test_a_number_in_a_special_token_is_refused_by_name(folders: Any) -> None:
    ours, _ = folders("byte-level", "plain")
    encoder = ChatEncoder(ours.record, {**ours.special, "<|1|>": 0}, ours.unknown)
    text = render_template(
        "{% for m in messages %}<|{{ loop.index }}|>{% endfor %}", turns("x"), add_generation_prompt=False
    )
    with raises(UsageError, "template_unsupported"):
        list(encoder.segments(text))


# ── refusals ───────────────────────────────────────────────────────────────────────────────────


def test_a_refusal_by_the_template_is_an_error_of_its_own(folders: Any) -> None:
    """M1: the server answers 400 to it."""
    ours, _ = folders("byte-level", "plain")
    ours.chat_template = TEMPLATES["gemma"]
    with raises(TemplateRefusal, "template_refusal") as caught:
        ours.apply_chat_template(CONVERSATIONS["system"])
    assert isinstance(caught.value, UsageError)
    ours.apply_chat_template(CONVERSATIONS["one"])


@pytest.mark.parametrize(
    ("template", "what"),
    [
        ("{{ 'a' | urlize }}", ("template_failed", "urlize")),
        ("{{ [1] | random }}", ("template_failed", "random")),
        ("{{ 'a'.encode() }}", ("template_failed", "encode")),
        ("{% autoescape true %}{% endautoescape %}", ("template_failed", "autoescape")),
        ("{% include 'x' %}", ("template_failed", "include")),
        ("{% import 'x' as y %}", ("template_failed", "import")),
        ("{{ messages[0].content.strip }}", ("template_unsupported", "strip")),
        ("{{ (messages[0].content | e) | upper }}", ("template_unsupported", "upper")),
        ("{{ (messages[0].content | e).strip() }}", ("template_unsupported", "strip")),
        ("{{ (messages[0].content | e)[1:] }}", ("template_unsupported",)),
        ("{{ 'a' in (messages | map(attribute='role')) }}", ("template_unsupported",)),
        ("{{ '%*d' % (3, 1) }}", ("template_unsupported",)),
    ],
)
def test_what_is_not_supported_is_refused_by_its_name(template: str, what: tuple[str, ...]) -> None:
    with raises(UsageError, *what) as caught:
        render_template(template, turns("x"), add_generation_prompt=True)
    assert "\n" not in str(caught.value)


def test_messages_are_given_as_transformers_gives_them(folders: Any) -> None:
    """Names that hold nothing are left out; reasoning goes by the names that templates read."""
    _, theirs = folders("byte-level", "plain")
    theirs.chat_template = (
        "{% for m in messages %}{{ m.content is defined }} {{ m.reasoning_content ~ m.thinking }}{% endfor %}"
    )
    messages = [{"role": "assistant", "content": None, "reasoning": "because"}]
    text = render_template(theirs.chat_template, messages, add_generation_prompt=False)
    assert str.__str__(text) == theirs.apply_chat_template(messages, tokenize=False)


def test_half_a_surrogate_in_a_message_is_refused(folders: Any) -> None:
    ours, _ = folders("byte-level", "plain")
    ours.chat_template = TEMPLATES["chatml"]
    with raises(UsageError, "invalid_unicode"):
        ours.apply_chat_template(turns("a\ud800"))


# ── hostile templates (R3) ─────────────────────────────────────────────────────────────────────

FINE = {"power", "digits", "attribute of doubled lists", "the template's own blanks"}
"""Not bombs after all: they print a short text, at once."""


@pytest.mark.promise(
    "Robustness", "A bomb in a chat template is stopped, by every operator, filter and method"
)
@pytest.mark.parametrize("name", BOMBS)
def test_a_bomb_is_stopped(name: str) -> None:
    """R3: in one line, in under two seconds and a half of CPU; other threads run meanwhile."""
    beats: list[float] = []
    results: list[str] = []

    def render() -> None:
        started = time.thread_time()
        try:
            actual = str.__str__(
                render_template(BOMBS[name], turns("a", "b", "c"), add_generation_prompt=True)
            )
            results.append(actual[:100])
        except UsageError as error:
            results.append(f"refused: {error}")
        results.append(f"{time.thread_time() - started}")

    thread = threading.Thread(target=render)
    thread.start()
    while thread.is_alive():
        beats.append(time.monotonic())
        time.sleep(0.002)
    result, seconds = results
    assert result.startswith("refused: ") != (name in FINE)
    assert "\n" not in result
    assert float(seconds) < 5
    assert max((b - a for a, b in pairwise(beats)), default=0) < 4


def test_without_the_budget_the_bombs_go_off(monkeypatch: pytest.MonkeyPatch) -> None:
    """The planted fault: nothing is paid. Then a loop that the budget stops runs to its end."""
    template = "{% for a in range(60) %}{% for b in range(10000) %}{% endfor %}{% endfor %}done"
    with raises(UsageError, "template_limit"):
        render_template(template, turns("a"), add_generation_prompt=False)
    monkeypatch.setattr(provenance.RenderBudget, "spend", lambda *_: None)
    assert str.__str__(render_template(template, turns("a"), add_generation_prompt=False)) == "done"


def test_a_long_conversation_is_within_the_budget() -> None:
    """400,000 characters in 400 messages through the templates that touch text most."""
    text = "a line of words that is neither short nor long\n" * 21
    messages = turns(*[text] * 401)
    for name in ("qwen thinking", "llama 2", "json", "indented", "escaped", "gathered", "macros"):
        started = time.thread_time()
        words = {"bos_token": "<s>", "eos_token": "</s>"}
        render_template(TEMPLATES[name], messages, add_generation_prompt=True, words=words)
        assert time.thread_time() - started < 2, name
