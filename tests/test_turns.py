"""Where an answer ends: at every id that the files of a model name, as `transformers` ends it; and never at, nor in,
ids that no tokenizer knows."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import gguf as peer
import httpx
import pytest
import tokenizers
import torch
import transformers
from raising import raises
from served import running
from test_gguf import finish, in_pairs, names

from textus.api import Run, export, import_model
from textus.core.errors import RunError
from textus.generation.engine import Engine
from textus.generation.params import SamplingParams
from textus.generation.sampling import generate, mask_unused_ids, sample_id
from textus.interop import folder
from textus.interop.tokenizer_json import byte_level
from textus.serving.scheduler import ServedModel
from textus.tokenizers import CHAT_TEMPLATE
from textus.tokenizers import train as train_tokenizer

BEGIN, TEXT, HEAD, TAIL, TURN, TOOL = range(6)
SPECIAL = [
    "<|begin_of_text|>",
    "<|end_of_text|>",
    "<|start_header_id|>",
    "<|end_header_id|>",
    "<|eot_id|>",
    "<|eom_id|>",
]
LETTERS = ["Ċ", *"abcdefghij", "ij"]
PIECES = [*SPECIAL, *LETTERS]
ROWS = len(PIECES) + 1
"""One more than the tokenizer has: models round their vocabulary up."""
TEMPLATE = (
    "{{ bos_token }}{% for m in messages %}{{ '<|start_header_id|>' + m['role'] + '<|end_header_id|>\n\n'"
    " + m['content'] + '<|eot_id|>' }}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|start_header_id|>assistant<|end_header_id|>\n\n' }}{% endif %}"
)
PROMPTS = [first + second for first in "abcdefghij" for second in "abc"]
GREEDY: dict[str, Any] = {"temperature": 0, "max_tokens": 30}


def llama3() -> Any:
    """A random model of Llama 3's kind that often ends, by each of its three ids."""
    config = transformers.LlamaConfig(
        vocab_size=ROWS, hidden_size=64, intermediate_size=96, num_hidden_layers=2, num_attention_heads=4,
        num_key_value_heads=2, max_position_embeddings=128, tie_word_embeddings=False, bos_token_id=BEGIN,
        eos_token_id=TEXT, pad_token_id=None,
    )  # fmt: skip
    model = transformers.LlamaForCausalLM(config).eval()
    torch.manual_seed(5)
    with torch.no_grad():
        for parameter in model.parameters():
            torch.nn.init.normal_(parameter, mean=float(parameter.ndim == 1), std=0.3)
    model.generation_config.eos_token_id = [TEXT, TURN, TOOL]
    return model


def tokenizer_of(model: Any) -> Any:
    """Its tokenizer in `transformers`: letters, Llama 3's special tokens, a text begun by one of them."""
    record = byte_level(PIECES, ["i j"], split="llama-bpe", added=dict.fromkeys(range(len(SPECIAL)), True))
    backend = tokenizers.Tokenizer.from_str(json.dumps(record))
    backend.post_processor = tokenizers.processors.TemplateProcessing(
        single="<|begin_of_text|> $A", special_tokens=[("<|begin_of_text|>", BEGIN)]
    )
    result = transformers.PreTrainedTokenizerFast(
        tokenizer_object=backend, bos_token=PIECES[BEGIN], eos_token=PIECES[TEXT]
    )
    result.chat_template = TEMPLATE
    return result


@pytest.fixture(scope="module")
def theirs() -> Any:
    return llama3()


@pytest.fixture(scope="module")
def hub(theirs: Any, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Model, tokenizer and generation_config.json in a folder. Tests must not change it."""
    path = tmp_path_factory.mktemp("hub")
    theirs.save_pretrained(path)
    tokenizer_of(theirs).save_pretrained(path)
    return path


def write_gguf(path: Path, model: Any, **metadata: Any) -> Path:
    """The same model and tokenizer as a GGUF file; `said` are ids by the names of its metadata."""
    writer, table = peer.GGUFWriter(path, "llama"), names()
    sizes = {"context_length": 128, "embedding_length": 64, "block_count": 2, "feed_forward_length": 96}
    for name, value in {**sizes, "attention.head_count": 4, "attention.head_count_kv": 2}.items():
        writer.add_uint32(f"llama.{name}", value)
    writer.add_layer_norm_rms_eps(1e-6)
    writer.add_tokenizer_model("gpt2")
    writer.add_tokenizer_pre("llama-bpe")
    writer.add_token_list(PIECES)
    writer.add_token_types([3] * len(SPECIAL) + [1] * len(LETTERS))
    writer.add_token_merges(["i j"])
    writer.add_chat_template(TEMPLATE)
    writer.add_bos_token_id(BEGIN)
    for name, value in metadata.items():
        (writer.add_string if isinstance(value, str) else writer.add_uint32)(f"tokenizer.ggml.{name}", value)
    heads = {"q_proj": 4, "k_proj": 2}
    for name, parameter in model.named_parameters():
        stem, _, ending = name.rpartition(".")
        number, count = parameter.detach().numpy(), heads.get(stem.split(".")[-1])
        writer.add_tensor(f"{table[stem]}.{ending}", in_pairs(number, count) if count else number)
    finish(writer)
    return path


@pytest.fixture(scope="module", params=["hf", "gguf"])
def run(
    request: pytest.FixtureRequest, theirs: Any, hub: Path, tmp_path_factory: pytest.TempPathFactory
) -> Run:
    place = tmp_path_factory.mktemp("runs")
    if request.param == "hf":
        return import_model(hub, out=place / "run")
    ends = {"eos_token_id": TEXT, "eot_token_id": TURN, "eom_token_id": TOOL}
    return import_model(write_gguf(place / "m.gguf", theirs, **ends), out=place / "run")


def written(model: Any, ids: list[int], **options: Any) -> list[int]:
    """What `transformers` goes on with, greedily; padded ids are kept from it."""
    options = {"max_new_tokens": 30, "do_sample": False, "suppress_tokens": [ROWS - 1], **options}
    return model.generate(torch.tensor([ids]), **options)[0, len(ids) :].tolist()


def told(ids: list[int]) -> str:
    return "".join(PIECES[number] for number in ids if number >= len(SPECIAL)).replace("Ċ", "\n")


# ── ends ───────────────────────────────────────────────────────────────────────────────────────


@pytest.mark.promise(
    "Families",
    "A text or turn ends where `transformers` ends it: generate, chat, server, after export; "
    "forgetting the ends is caught",
)
def test_a_text_ends_where_transformers_ends_it(run: Run, theirs: Any) -> None:
    last = set()
    for prompt in PROMPTS:
        expected = written(theirs, [BEGIN, *(PIECES.index(letter) for letter in prompt)])
        last.add(expected[-1] if len(expected) < 30 else None)
        assert run.generate(prompt, **GREEDY) == told(expected), prompt
    assert {TEXT, TURN, TOOL} <= last, "each of the three ends some of them"


def test_an_answer_ends_where_transformers_ends_it(run: Run, theirs: Any) -> None:
    asking, last = tokenizer_of(theirs), set()
    for prompt in PROMPTS:
        messages = [{"role": "user", "content": prompt}]
        ids = asking.apply_chat_template(messages, add_generation_prompt=True, return_dict=False)
        assert run.tokenizer.apply_chat_template(messages) == ids
        expected = written(theirs, ids)
        last.add(expected[-1] if len(expected) < 30 else None)
        assert run.chat(messages, **GREEDY) == told(expected), prompt
    assert TURN in last


def test_the_server_ends_there_too(run: Run, theirs: Any) -> None:
    served = ServedModel("m", run.model, run.tokenizer, created=1, chat=run.supports_chat, context_length=128)
    asking, reasons = tokenizer_of(theirs), set()
    with running(served) as address, httpx.Client(base_url=address) as client:
        for prompt in PROMPTS[::3]:
            body = {"model": "m", "temperature": 0, "max_tokens": 30}
            messages = [{"role": "user", "content": prompt}]
            chat = client.post("/v1/chat/completions", json={**body, "messages": messages}).json()
            ids = asking.apply_chat_template(messages, add_generation_prompt=True, return_dict=False)
            expected = written(theirs, ids)
            assert chat["choices"][0]["message"]["content"] == told(expected)
            assert chat["choices"][0]["finish_reason"] == ("stop" if len(expected) < 30 else "length")
            plain = client.post("/v1/completions", json={**body, "prompt": prompt}).json()
            expected = written(theirs, [BEGIN, *(PIECES.index(letter) for letter in prompt)])
            assert plain["choices"][0]["text"] == told(expected)
            assert plain["usage"]["completion_tokens"] == len(expected) - (len(expected) < 30)
            reasons.add(plain["choices"][0]["finish_reason"])
    assert reasons == {"stop", "length"}


def test_the_plain_loop_and_the_engine_end_at_any_of_several(run: Run, theirs: Any) -> None:
    ends, n_ids = run.tokenizer.end_ids, run.tokenizer.vocab_size
    for prompt in PROMPTS[:20]:
        ids = [BEGIN, *run.tokenizer.encode(prompt)]
        plain = generate(run.model, ids, SamplingParams(**GREEDY), ends, n_ids=n_ids)
        events = Engine(run.model, end_id=ends, n_ids=n_ids).stream([ids], SamplingParams(**GREEDY))
        assert [event.id for event in events if event.id is not None] == plain
        assert [item for item in written(theirs, ids) if item not in ends] == plain


def test_an_export_shows_its_ends_and_comes_back_with_them(run: Run, tmp_path: Path) -> None:
    export(run.path, out=tmp_path / "hf")
    model = transformers.AutoModelForCausalLM.from_pretrained(tmp_path / "hf").eval()
    assert set(model.generation_config.eos_token_id) == {TEXT, TURN, TOOL}
    for prompt in PROMPTS[:10]:
        ids = [BEGIN, *run.tokenizer.encode(prompt)]
        assert told(written(model, ids)) == run.generate(prompt, **GREEDY)
    again = import_model(tmp_path / "hf", out=tmp_path / "run").tokenizer
    assert set(again.end_ids) == {TEXT, TURN, TOOL}
    assert again.fingerprint == run.tokenizer.fingerprint


def test_a_reader_that_forgets_the_ends_is_caught(
    hub: Path, theirs: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The planted fault: without what generation_config.json says, texts run on past their ends."""
    monkeypatch.setattr(folder, "eos_ids_from_config", lambda *_: [])
    deaf = import_model(hub, out=tmp_path / "run")
    assert deaf.tokenizer.end_ids == (TEXT,)
    with pytest.raises(AssertionError):
        test_a_text_ends_where_transformers_ends_it(deaf, theirs)


def edited(hub: Path, to: Path, **changes: Any) -> Path:
    """A copy in which generation_config.json and config.json say this; None takes a key out."""
    shutil.copytree(hub, to)
    for name in ("generation_config.json", "config.json"):
        report = {**json.loads((to / name).read_text()), **changes}
        kept = {key: value for key, value in report.items() if value is not None}
        (to / name).write_text(json.dumps(kept))
    return to


def test_what_no_file_states_comes_from_the_template(hub: Path, tmp_path: Path) -> None:
    run = import_model(edited(hub, tmp_path / "hub", eos_token_id=None), out=tmp_path / "run")
    assert (run.tokenizer.end_ids, run.tokenizer.turn_end_ids) == ((TEXT,), (TEXT, TURN))
    native = train_tokenizer("char", ["abc"], vocab_size=20)
    assert native.turn_end_ids == (native.end_id, native.special["<|im_end|>"])
    assert native.end_ids == (native.end_id,)
    broken = train_tokenizer("char", ["abc"], vocab_size=20, chat_template=CHAT_TEMPLATE + "{{ 1 / 0 }}")
    assert broken.turn_end_ids == native.turn_end_ids


@pytest.mark.parametrize("end", ["<|eot_id|>", [TEXT, "4"], True, 1.0, {"id": 4}])
def test_ends_that_are_no_ids_are_refused(end: Any, hub: Path, tmp_path: Path) -> None:
    with raises(RunError, "damaged") as caught:
        import_model(edited(hub, tmp_path / "hub", eos_token_id=end), out=tmp_path / "run")
    assert repr(end) in str(caught.value)


def test_ends_that_are_no_ids_are_refused_in_gguf_too(theirs: Any, tmp_path: Path) -> None:
    path = write_gguf(tmp_path / "m.gguf", theirs, eos_token_id=TEXT, eot_token_id="<|eot_id|>")
    with raises(RunError, "damaged", "m.gguf", "tokenizer.ggml.eot_token_id", "'<|eot_id|>'"):
        import_model(path, out=tmp_path / "run")


@pytest.mark.parametrize("end", [10**6, -1, len(PIECES)])
def test_an_end_beyond_the_vocabulary_is_noticed(
    end: int, hub: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run = import_model(edited(hub, tmp_path / "hub", eos_token_id=[TURN, end]), out=tmp_path / "run")
    assert (
        f"eos_token_id names id {end}, the tokenizer has {len(PIECES)} ids; it ends nothing"
        in capsys.readouterr().err
    )
    assert run.tokenizer.end_ids == (TEXT, TURN)


def test_ends_changed_in_a_run_are_refused(hub: Path, tmp_path: Path) -> None:
    from textus.tokenizers import load

    tokenizer = import_model(hub, out=tmp_path / "run").tokenizer
    path = tmp_path / "run" / "tokenizer_config.json"
    path.write_text(path.read_text().replace(f"{TOOL}\n", f"{len(PIECES)}\n"))
    assert str(len(PIECES)) in path.read_text(), tokenizer.end_ids
    with raises(RunError, "damaged", "textus_end_ids"):
        load(tmp_path / "run")


# ── ids that no tokenizer knows ────────────────────────────────────────────────────────────────


@pytest.fixture(scope="module")
def greedy_for_padding(theirs: Any, hub: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[Run, Any]:
    """A model whose head favours the padded id almost everywhere."""
    place = tmp_path_factory.mktemp("padded")
    shutil.copytree(hub, place / "hub")
    model = llama3()
    with torch.no_grad():
        model.lm_head.weight[ROWS - 1] = 3 * model.lm_head.weight[:-1].abs().max(0).values
        model.lm_head.weight[ROWS - 1, ::2] *= -1
    model.save_pretrained(place / "hub")
    return import_model(place / "hub", out=place / "run"), model


@pytest.mark.promise(
    "Families", "An id that no tokenizer knows is never chosen; likelihoods stay the model's"
)
def test_a_padded_id_is_never_chosen(greedy_for_padding: tuple[Run, Any]) -> None:
    run, model = greedy_for_padding
    wanted = 0
    for prompt in PROMPTS:
        ids = [BEGIN, *run.tokenizer.encode(prompt)]
        wanted += ROWS - 1 in written(model, ids, suppress_tokens=None)
        assert run.generate(prompt, **GREEDY) == told(written(model, ids))
        assert set(run.generate(prompt, temperature=3.0, seed=wanted, max_tokens=30)) <= set("\nabcdefghij")
    assert wanted > 10, "the head was planted well"


def test_without_the_mask_a_padded_id_is_chosen(greedy_for_padding: tuple[Run, Any]) -> None:
    """The planted fault: the loop that is not told how many ids there are."""
    run, _ = greedy_for_padding
    prompts = [[BEGIN, *run.tokenizer.encode(prompt)] for prompt in PROMPTS]
    for n_ids, result in ((None, True), (len(PIECES), False)):
        events = Engine(run.model, end_id=None, n_ids=n_ids).stream(
            prompts, SamplingParams(temperature=0, max_tokens=3)
        )
        assert any(event.id == ROWS - 1 for event in events) is result


@pytest.mark.parametrize(
    "filters",
    [{}, {"top_k": 3}, {"top_p": 0.5}, {"min_p": 0.3}, {"repetition_penalty": 1.7}, {"temperature": 0}],
)
def test_what_is_out_of_reach_changes_nothing_else(filters: dict[str, Any]) -> None:
    """Choosing among the known ids is choosing as if there were no others."""
    logits = torch.randn(200, 12, generator=torch.Generator().manual_seed(2))
    logits[:, 9:] += 5
    sampling = SamplingParams(**{"temperature": 1.0, **filters})
    for step, row in enumerate(logits):
        assert sample_id(mask_unused_ids(row, 9), sampling, [1, 2, 11], step) == sample_id(
            row[:9], sampling, [1, 2], step
        )


def test_likelihoods_are_those_of_the_model(greedy_for_padding: tuple[Run, Any]) -> None:
    run, model = greedy_for_padding
    ids = torch.tensor([[BEGIN, *run.tokenizer.encode("abcabjih")]])
    with torch.no_grad():
        answer = torch.log_softmax(model(ids).logits[0, :-1], -1)
    expected = -answer.gather(1, ids[0, 1:, None])[:, 0]
    result = torch.as_tensor(run.score("abcabjih").nats)
    torch.testing.assert_close(result.flatten().double(), expected.double(), atol=1e-4, rtol=1e-4)
