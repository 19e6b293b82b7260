"""Content in parts: a template that reads parts is given parts, one that reads strings strings, and one that drops what
the user writes is refused (attack 2, rows 1, 6 and 14).
"""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import httpx
import pytest
from chats import TEMPLATES, turns, write_folder
from raising import raises
from served import refused, remembering, running

from textus import open_run
from textus.api import exchange
from textus.core.errors import UsageError
from textus.serving import create_app
from textus.serving.scheduler import ServedModel
from textus.tokenizers import Tokenizer, load
from textus.tokenizers.chat_template import check_template

transformers = pytest.importorskip("transformers")

TURNS, END = "{% for m in messages %}<|im_start|>{{m.role}}\n", "<|im_end|>{% endfor %}"
LOOP = "{% for c in m['content'] %}{% if c['type'] == 'text' %}{{ c['text'] }}{% endif %}{% endfor %}"
PARTS = {
    "loop": TURNS + LOOP + END,
    "loop without a type": TURNS + "{% for c in m.content %}{{ c.text }}{% endfor %}" + END,
    "selected": TURNS
    + "{{ m.content | selectattr('type', 'equalto', 'text') | map(attribute='text') | join(' ') }}"
    + END,
    "a string fails": TURNS
    + "{% if m.content is string %}{{ raise_exception('parts only') }}{% endif %}"
    + LOOP
    + END,
    "system is a string": "{% if messages[0].role == 'system' %}{{ messages[0].content + '\n' }}"
    "{% set messages = messages[1:] %}{% endif %}" + TURNS + LOOP + END,
    "system first": "{% if messages[0].role != 'system' %}{{ raise_exception('system first') }}{% endif %}"
    + TURNS
    + LOOP
    + END,
}
BOTH = {
    "qwen 2 vl": TURNS + "{% if m.content is string %}{{ m.content }}{% else %}" + LOOP + "{% endif %}" + END,
    "blanks between": TURNS
    + "{% if m.content is string %}{{ m.content }}{% else %}{% for c in m.content %}{{ c.text | trim }} {% endfor %}"
    "{% endif %}" + END,
    "a macro": "{% macro text(content) %}{% if content is string %}{{ content }}{% else %}"
    "{% for c in content %}{{ c.text }}{% endfor %}{% endif %}{% endmacro %}"
    + TURNS
    + "{{ text(m.content) }}"
    + END,
}
STRINGS = {
    name: TEMPLATES[name] for name in ("chatml", "qwen thinking", "gemma 3", "json", "nothing but text")
}


@pytest.fixture(scope="module")
def both(tmp_path_factory: pytest.TempPathFactory) -> tuple[Tokenizer, Any]:
    folder = write_folder(tmp_path_factory.mktemp("parts"), "byte-level", "plain")
    return load(folder), transformers.AutoTokenizer.from_pretrained(folder)


def parts(*texts: str) -> list[dict[str, str]]:
    return [{"type": "text", "text": text} for text in texts]


def in_parts(messages: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Each message's text in two parts."""
    return [{**m, "content": parts(m["content"][:3], m["content"][3:])} for m in messages]


CONVERSATION = turns("Hello there", "Hi. How may I help?", " 你好 世界", system="Be brief.")


@pytest.mark.parametrize("name", [*PARTS, *BOTH])
def test_parts_make_the_ids_of_transformers(both: tuple[Tokenizer, Any], name: str) -> None:
    ours, theirs = both
    ours.chat_template = theirs.chat_template = {**PARTS, **BOTH}[name]
    messages = in_parts(CONVERSATION)
    if name == "system is a string":  # what transformers cannot do with parts
        messages[0] = CONVERSATION[0]
    expected = theirs.apply_chat_template(messages, add_generation_prompt=True, return_dict=False)
    assert ours.apply_chat_template(messages) == expected
    assert "Hello there" in ours.decode(expected).replace("Hel lo", "Hello")


@pytest.mark.parametrize("name", PARTS)
def test_a_string_reaches_a_template_of_parts_as_one_part(both: tuple[Tokenizer, Any], name: str) -> None:
    ours, theirs = both
    ours.chat_template = theirs.chat_template = PARTS[name]
    messages = [{**m, "content": parts(m["content"])} for m in CONVERSATION]
    if name == "system is a string":
        messages[0] = CONVERSATION[0]
    expected = theirs.apply_chat_template(messages, add_generation_prompt=True, return_dict=False)
    assert ours.apply_chat_template(CONVERSATION) == expected
    assert ours.apply_chat_template(
        [CONVERSATION[0], {"role": "user", "content": ""}]
    )  # an empty text is a text


@pytest.mark.parametrize("name", [*STRINGS, *BOTH])
def test_a_string_stays_a_string_where_the_template_reads_one(both: tuple[Tokenizer, Any], name: str) -> None:
    ours, theirs = both
    ours.chat_template = theirs.chat_template = {**STRINGS, **BOTH}[name]
    expected = theirs.apply_chat_template(CONVERSATION, add_generation_prompt=True, return_dict=False)
    assert ours.apply_chat_template(CONVERSATION) == expected


@pytest.mark.parametrize("name", STRINGS)
def test_parts_are_joined_for_a_template_of_strings(both: tuple[Tokenizer, Any], name: str) -> None:
    """`transformers` fails here, drops the text, or prints a list as Python writes it."""
    ours, _ = both
    ours.chat_template = STRINGS[name]
    assert ours.apply_chat_template(in_parts(CONVERSATION)) == ours.apply_chat_template(CONVERSATION)


def test_only_the_first_part_read_is_all_of_them(both: tuple[Tokenizer, Any]) -> None:
    """Gemma 3 reads content[0] of the system message: a second part would be dropped."""
    ours, _ = both
    ours.chat_template = TURNS + "{% if m.content is not string %}{{ m.content[0]['text'] }}{% endif %}" + END
    assert "Hello there" in ours.decode(
        ours.apply_chat_template([{"role": "user", "content": parts("Hello ", "there")}])
    )


def test_special_tokens_in_parts_are_text(both: tuple[Tokenizer, Any]) -> None:
    ours, _ = both
    ours.chat_template = PARTS["loop"]
    ids = ours.apply_chat_template([{"role": "user", "content": parts("<|im_", "end|> <|im_end|>")}])
    assert ids.count(ours.special["<|im_end|>"]) == 1


@pytest.mark.parametrize(
    "part", [{"type": "image", "text": "x"}, {"type": "text"}, {"text": 1}, "x", {"type": "image_url"}]
)
def test_a_part_that_is_no_text_is_refused(both: tuple[Tokenizer, Any], part: Any) -> None:
    ours, _ = both
    ours.chat_template = PARTS["loop"]
    with raises(UsageError, "invalid_message", "0"):
        ours.apply_chat_template([{"role": "user", "content": [part]}])


@pytest.mark.parametrize(
    "template",
    [
        "{{ bos_token }}<|user|>",
        "{% for m in messages %}<|{{ m.role }}|>{{ m.text }}{% endfor %}",
        TURNS + "{% for c in m.content %}{{ c.value }}{% endfor %}" + END,
        "{% for m in messages %}{% if m.role == 'assistant' %}{{ m.content }}{% endif %}{% endfor %}",
        "",
    ],
)
def test_a_template_that_drops_the_users_text_is_refused(both: tuple[Tokenizer, Any], template: str) -> None:
    ours, _ = both
    ours.chat_template = template
    with raises(UsageError, "template_unsupported"):
        ours.apply_chat_template(turns("Hello"))


@pytest.mark.parametrize("name", [*TEMPLATES, *PARTS, *BOTH])
def test_no_template_in_use_is_taken_for_one_that_drops_the_text(name: str) -> None:
    check_template({**TEMPLATES, **PARTS, **BOTH}[name], {"bos_token": "<s>", "eos_token": "</s>"})


# ── named templates (row 6) ──


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A small Llama's folder, without a template."""
    torch = pytest.importorskip("torch")
    folder = write_folder(tmp_path_factory.mktemp("hub") / "m", "byte-level", "plain")
    torch.manual_seed(1)
    config = transformers.LlamaConfig(
        vocab_size=409, hidden_size=32, intermediate_size=32, num_hidden_layers=1, num_attention_heads=2,
        max_position_embeddings=128, bos_token_id=1, eos_token_id=2,
    )  # fmt: skip
    transformers.LlamaForCausalLM(config).save_pretrained(folder)
    return folder


def with_template(folder: Path, value: Any) -> Path:
    """The folder, its tokenizer_config.json with this chat_template."""
    path = folder / "tokenizer_config.json"
    settings = {k: v for k, v in json.loads(path.read_text()).items() if k != "chat_template"}
    path.write_text(json.dumps(settings if value is None else {**settings, "chat_template": value}))
    return folder


CHATML = TEMPLATES["chatml"]


@pytest.mark.parametrize(
    "value",
    [
        CHATML,
        {"default": CHATML},
        {"rag": "no", "default": CHATML},
        [{"name": "rag", "template": "no"}, {"name": "default", "template": CHATML}],
    ],
    ids=["text", "object", "object of two", "list"],
)
def test_the_default_template_is_taken_as_transformers_takes_it(model: Path, value: Any) -> None:
    """Attack 2, row 6: of an object too."""
    theirs = transformers.AutoTokenizer.from_pretrained(with_template(model, value))
    expected = theirs.apply_chat_template(CONVERSATION, add_generation_prompt=True, return_dict=False)
    assert load(model).apply_chat_template(CONVERSATION) == expected


@pytest.mark.parametrize(
    ("value", "names"),
    [
        (
            [{"name": "rag", "template": CHATML}, {"name": "tool_use", "template": CHATML}],
            "'rag', 'tool_use'",
        ),
        ({"rag": CHATML}, "'rag'"),
        ({"default": None}, "'default'"),
        ([], "none"),
        ({}, "none"),
        (5, "is 5, no text"),
        ([CHATML], "none"),
    ],
)
def test_templates_without_a_default_are_named(
    model: Path, tmp_path: Path, value: Any, names: str, capsys: pytest.CaptureFixture[str]
) -> None:
    """Attack 2, row 6: not dropped without a word, nor "no chat template"."""
    tokenizer = load(with_template(model, value))
    with raises(UsageError, "template_missing", "chat_template.jinja") as caught:
        tokenizer.apply_chat_template(CONVERSATION)
    assert names in str(caught.value)
    assert "no chat template" not in str(caught.value)
    exchange.import_run(model, tmp_path / "run")
    assert names in capsys.readouterr().err
    assert names in open_run(tmp_path / "run").chat_fault


# ── what the importer refused (rows 1 and 14) ──


def test_a_dropping_template_is_refused_at_import_and_reported_by_chat_and_server(
    model: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Attack 2, rows 1 and 14: not "was trained to continue text"."""
    fault = "drops the text of the user"
    out = tmp_path / "run"
    exchange.import_run(with_template(model, "{{ bos_token }}<|user|>"), out)
    assert fault in capsys.readouterr().err
    run = open_run(out)
    assert not run.supports_chat
    assert fault in run.chat_fault
    textus = str(Path(sys.executable).with_name("textus"))
    words = [textus, "chat", str(out), "--max-tokens", "1"]
    done = subprocess.run(words, input="hello\n", capture_output=True, text=True, check=True)
    assert fault in done.stderr
    served = ServedModel("m", run.model, run.tokenizer, 1, run.supports_chat, 128, run.chat_fault)
    with running(served) as address:
        body = {"model": "m", "messages": turns("Hello")}
        error = refused(httpx.post(f"{address}/v1/chat/completions", json=body), 400)
        assert (error["code"], fault in error["message"]) == ("model_not_chat", True)


def test_a_run_without_a_template_has_no_fault(
    model: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    exchange.import_run(with_template(model, None), tmp_path / "run")
    run = open_run(tmp_path / "run")
    assert (run.supports_chat, run.chat_fault) == (False, "")
    assert "template" not in capsys.readouterr().err


def test_text_reaches_the_model_over_http_and_in_python(model: Path, tmp_path: Path) -> None:
    """Attack 2, row 1: any text gave 8 prompt tokens and the same answer."""
    exchange.import_run(with_template(model, PARTS["loop"]), tmp_path / "run")
    run = open_run(tmp_path / "run")
    assert run.supports_chat
    given = [parts("Hello there"), "Hello there", parts("Hello ", "there")]
    theirs = transformers.AutoTokenizer.from_pretrained(model)
    with running(ServedModel("m", run.model, run.tokenizer, 1, True, 128)) as address:
        for content in given:
            messages = [{"role": "user", "content": content}]
            body = {"model": "m", "messages": messages, "max_tokens": 1}
            n = httpx.post(f"{address}/v1/chat/completions", json=body).json()["usage"]["prompt_tokens"]
            wanted = [{"role": "user", "content": parts(content) if isinstance(content, str) else content}]
            expected = theirs.apply_chat_template(wanted, add_generation_prompt=True, return_dict=False)
            assert n == len(expected) > 8
            assert run.tokenizer.apply_chat_template(messages) == expected


def test_a_run_that_continues_texts_reads_parts_as_their_text(model: Path, tmp_path: Path) -> None:
    exchange.import_run(with_template(model, None), tmp_path / "run")
    run = open_run(tmp_path / "run")
    expected = run._conversation([{"role": "user", "content": "Hello there"}])
    assert run._conversation([{"role": "user", "content": parts("Hello ", "there")}]) == expected


def test_a_dropping_template_is_not_served() -> None:
    """A run made before such templates were refused."""
    served = remembering("old", chat=True)
    served.tokenizer.chat_template = "{{ bos_token }}"
    with raises(UsageError, "template_unsupported", "old"):
        create_app([served])
