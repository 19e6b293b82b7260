"""The decoder against `transformers`, which was written by others; and what masks let through.

Weights of small random models are copied over; logits and cached generation must agree to 1e-4.
"""

from __future__ import annotations

from typing import Any

import pytest
import torch
from raising import raises
from torch import Tensor

from textus.core.errors import UsageError
from textus.data.batch import Batch
from textus.models.decoder import Decoder
from textus.models.nn.attention import DecoderConfig
from textus.models.nn.layers import (
    ACTIVATIONS,
    GATED,
    causal_mask,
    first_key,
    fused_attention,
    plain_attention,
)

V, CONTEXT = 29, 24
Weights = dict[str, Tensor]


def random_weights(model: torch.nn.Module) -> None:
    """Nothing left at zero or one, where a mistake would not show."""
    torch.manual_seed(3)
    with torch.no_grad():
        for parameter in model.parameters():
            torch.nn.init.normal_(parameter, mean=float(parameter.ndim == 1), std=0.3)


def llama(n_kv_head: int, qk_norm: bool) -> Any:
    """A Llama, or with `qk_norm` a Qwen3, of `transformers`."""
    import transformers

    shape = {
        "vocab_size": V, "hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 2,
        "num_attention_heads": 4, "num_key_value_heads": n_kv_head, "max_position_embeddings": CONTEXT,
        "rms_norm_eps": 1e-6, "head_dim": 8, "tie_word_embeddings": False,
        "rope_parameters": {"rope_type": "default", "rope_theta": 10_000.0},
    }  # fmt: skip
    if qk_norm:
        return transformers.Qwen3ForCausalLM(transformers.Qwen3Config(**shape))
    return transformers.LlamaForCausalLM(transformers.LlamaConfig(**shape))


def from_llama(theirs: Weights, qk_norm: bool) -> Weights:
    results = {
        "embedding.weight": theirs["model.embed_tokens.weight"],
        "norm.weight": theirs["model.norm.weight"],
        "head.weight": theirs["lm_head.weight"],
    }
    for n in range(2):
        old, new = f"model.layers.{n}.", f"blocks.{n}."
        attention, feed = old + "self_attn.", old + "mlp."
        results |= {
            new + "attention.qkv.weight": torch.cat([theirs[f"{attention}{p}_proj.weight"] for p in "qkv"]),
            new + "attention.out.weight": theirs[attention + "o_proj.weight"],
            new + "attention_norm.weight": theirs[old + "input_layernorm.weight"],
            new + "feed_forward_norm.weight": theirs[old + "post_attention_layernorm.weight"],
            new + "feed_forward.gate_up.weight": torch.cat(
                [theirs[f"{feed}{p}_proj.weight"] for p in ("gate", "up")]
            ),
            new + "feed_forward.down.weight": theirs[feed + "down_proj.weight"],
        }
        if qk_norm:
            results |= {
                f"{new}attention.{p}_norm.weight": theirs[f"{attention}{p}_norm.weight"] for p in "qk"
            }
    return results


def gpt2() -> Any:
    import transformers

    config = transformers.GPT2Config(
        vocab_size=V, n_positions=CONTEXT, n_embd=32, n_layer=2, n_head=4,
        resid_pdrop=0.0, embd_pdrop=0.0, attn_pdrop=0.0,
    )  # fmt: skip
    return transformers.GPT2LMHeadModel(config)


def from_gpt2(theirs: Weights) -> Weights:
    results = {"embedding.weight": theirs["transformer.wte.weight"]}
    results["position.weight"] = theirs["transformer.wpe.weight"]
    names = {
        "ln_1": "attention_norm",
        "ln_2": "feed_forward_norm",
        "attn.c_attn": "attention.qkv",
        "attn.c_proj": "attention.out",
        "mlp.c_fc": "feed_forward.up",
        "mlp.c_proj": "feed_forward.down",
    }
    for kind in ("weight", "bias"):
        results[f"norm.{kind}"] = theirs[f"transformer.ln_f.{kind}"]
        for n in range(2):
            for old, new in names.items():
                value = theirs[f"transformer.h.{n}.{old}.{kind}"]
                results[f"blocks.{n}.{new}.{kind}"] = value.t() if "c_" in old else value
    return results


SHAPE = {"vocab_size": V, "context_length": CONTEXT, "n_layer": 2, "n_head": 4, "d_model": 32}
GPT2 = {
    "position": "learned",
    "norm": "layer",
    "activation": "gelu",
    "qk_norm": False,
    "bias": True,
    "tie_head": True,
}


def twins(name: str) -> tuple[Decoder, Any]:
    """A decoder and the model of `transformers` with the same weights."""
    n_kv_head = 2 if "few" in name else 4
    qk_norm = name.startswith("qwen3")
    theirs = gpt2() if name == "gpt2" else llama(n_kv_head, qk_norm)
    random_weights(theirs)
    weights = theirs.state_dict()
    if name == "gpt2":
        mine, weights = Decoder(DecoderConfig(**SHAPE, **GPT2)), from_gpt2(weights)
    else:
        shape = {**SHAPE, "n_kv_head": n_kv_head, "d_ff": 48, "qk_norm": qk_norm}
        mine, weights = Decoder(DecoderConfig(**shape)), from_llama(weights, qk_norm)
    mine.load_state_dict(weights)
    return mine.eval(), theirs.eval()


PEERS = ["llama", "llama with few key-value heads", "qwen3", "qwen3 with few key-value heads", "gpt2"]


def ids(rows: int = 3, length: int = CONTEXT, seed: int = 0) -> Tensor:
    return torch.randint(0, V, (rows, length), generator=torch.Generator().manual_seed(seed))


@pytest.mark.parametrize("name", PEERS)
@torch.no_grad()
def test_logits_are_those_of_transformers(name: str) -> None:
    mine, theirs = twins(name)
    expected = theirs(ids()).logits
    assert expected.std() > 0.1
    torch.testing.assert_close(mine(ids()), expected, atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize("name", PEERS)
@torch.no_grad()
def test_cached_reading_is_that_of_transformers(name: str) -> None:
    """A prompt of seven ids at once, then one after the other."""
    mine, theirs = twins(name)
    cache, past, given = mine.new_cache(2, CONTEXT), None, ids(2)
    for start, end in [(0, 7), *((t, t + 1) for t in range(7, CONTEXT))]:
        out = theirs(given[:, start:end], past_key_values=past, use_cache=True)
        past = out.past_key_values
        torch.testing.assert_close(mine(given[:, start:end], cache), out.logits, atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize("name", PEERS)
@torch.no_grad()
def test_greedy_text_is_that_of_transformers(name: str) -> None:
    from textus.generation.engine import Engine
    from textus.generation.params import SamplingParams

    mine, theirs = twins(name)
    prompt = ids(1, 5)
    options = {"max_new_tokens": 12, "do_sample": False, "eos_token_id": None, "pad_token_id": 0}
    expected = theirs.generate(prompt, **options)[0, 5:].tolist()
    sampling = SamplingParams(temperature=0, max_tokens=12)
    events = list(Engine(mine, end_id=None).stream([prompt[0].tolist()], [sampling]))
    assert [event.id for event in events if event.id is not None] == expected


@torch.no_grad()
def test_gradients_are_those_of_transformers() -> None:
    mine, theirs = twins("qwen3 with few key-value heads")
    given = ids()
    with torch.enable_grad():
        batch = Batch(given[:, :-1], given[:, 1:], torch.ones(3, CONTEXT - 1))
        mine.loss(batch).mean.backward()
        theirs(given, labels=given).loss.backward()
    expected = from_llama({n: p.grad for n, p in theirs.named_parameters() if p.grad is not None}, True)
    for name, parameter in mine.named_parameters():
        assert parameter.grad is not None
        torch.testing.assert_close(parameter.grad, expected[name], atol=1e-5, rtol=1e-3)


@pytest.mark.parametrize("fault", ["qk_norm", "rope_theta", "activation"])
@torch.no_grad()
def test_a_planted_difference_is_seen(fault: str) -> None:
    mine, theirs = twins("gpt2" if fault == "activation" else "qwen3")
    change = {"qk_norm": False, "rope_theta": 9_000.0, "activation": "relu"}[fault]
    other = Decoder(DecoderConfig(**{**vars(mine.config), fault: change}))
    other.load_state_dict(mine.state_dict(), strict=False)
    assert (other(ids()) - theirs(ids()).logits).abs().max() > 1e-3


# ── what each query may see ────────────────────────────────────────────────────────────────────


def drawn(**shape: Any) -> Decoder:
    model = Decoder(DecoderConfig(**{**SHAPE, "n_layer": 1, **shape}))
    random_weights(model)
    return model


def reach(model: Decoder, documents: Tensor | None = None) -> Tensor:
    """(T, T): whether the state at t changes with the id at s, by gradients through the embedding."""
    given = ids(1, 12)
    embedded: list[Tensor] = []
    hook = model.embedding.register_forward_hook(
        lambda module, inputs, output: embedded.append(output.detach().requires_grad_()) or embedded[-1]
    )
    hidden = model.hidden(given, documents=documents)
    hook.remove()
    rows = [torch.autograd.grad(hidden[0, t].sum(), embedded[0], retain_graph=True)[0] for t in range(12)]
    return torch.stack([row[0].abs().sum(-1) > 0 for row in rows])


def test_a_position_sees_itself_and_what_came_before() -> None:
    assert torch.equal(reach(drawn()), torch.ones(12, 12).tril().bool())


def test_a_window_ends_what_is_seen() -> None:
    expected = torch.ones(12, 12).tril() - torch.ones(12, 12).tril(-4)
    assert torch.equal(reach(drawn(window=4)), expected.bool())
    assert not torch.equal(reach(drawn(window=5)), expected.bool())


DOCUMENTS = torch.tensor([[4] * 5 + [5] * 3 + [6] * 4])


@pytest.mark.parametrize("step", ["eager", "native"])
def test_one_document_does_not_see_another(step: str) -> None:
    model = drawn()
    if step == "native" and model.native_unsupported_reason():
        pytest.skip(str(model.native_unsupported_reason()))
    model.set_compute("float32", "plain", step)
    expected = torch.block_diag(torch.ones(5, 5), torch.ones(3, 3), torch.ones(4, 4)).tril().bool()
    assert torch.equal(reach(model, DOCUMENTS), expected)
    assert torch.equal(reach(model), torch.ones(12, 12).tril().bool())  # without numbers they would see it


@torch.no_grad()
def test_a_document_reads_the_same_alone_and_packed() -> None:
    model = drawn(n_layer=2)
    given = ids(1, 12)
    packed = model.hidden(given, documents=DOCUMENTS)[0, 5:8]
    torch.testing.assert_close(packed, model.hidden(given[:, 5:8])[0], atol=1e-5, rtol=1e-4)


def test_a_text_that_comes_round_again_is_not_its_own_past() -> None:
    """On the loader's ring a window may end with the beginning of the document it began in the middle of."""
    ring = torch.tensor([[3, 3, 0, 0, 3, 3]])
    mask = causal_mask(6, ring)[0, 0]
    assert not mask[4, :4].any()
    position = torch.arange(6)
    interval = (position <= position[:, None]) & (position >= first_key(1, 6, ring, None)[0][:, None])
    assert torch.equal(mask, interval)


@pytest.mark.parametrize("length", [1, 2, 7, 12])
@pytest.mark.parametrize("documents", [None, DOCUMENTS])
def test_all_ways_of_attending_agree(length: int, documents: Tensor | None) -> None:
    q, k, v = torch.randn(3, 1, 2, length, 4).unbind(0)
    mask = causal_mask(length, documents[:, :length] if documents is not None else None, 5)[
        ..., :length, :length
    ]
    expected = plain_attention(q, k, v, mask)
    for attention in (fused_attention,):
        torch.testing.assert_close(attention(q, k, v, mask), expected)
    if length > 2:
        assert not torch.allclose(plain_attention(q, k, v, causal_mask(length)), expected) or length <= 5


# ── options ────────────────────────────────────────────────────────────────────────────────────

OPTIONS: list[dict[str, Any]] = [
    *({"activation": item} for item in (*GATED, *ACTIVATIONS)),
    *({"norm": item} for item in ("rms", "layer")),
    *({"position": item} for item in ("rotary", "learned", "none")),
    {"qk_norm": False}, {"tie_head": True}, {"bias": True}, {"dropout": 0.2}, {"window": 3},
    {"n_kv_head": 1}, {"d_ff": 20}, {"rope_theta": 100.0},
]  # fmt: skip


@pytest.mark.parametrize("option", OPTIONS, ids=str)
@pytest.mark.parametrize("attention", ["plain", "fused"])
def test_every_option_learns(option: dict[str, Any], attention: str) -> None:
    torch.manual_seed(0)
    model = Decoder(DecoderConfig(**{**SHAPE, **option}))
    model.set_compute("float32", attention, "eager")
    given = ids(2)
    batch = Batch(given[:, :-1], given[:, 1:], torch.ones(2, CONTEXT - 1))
    optimiser = torch.optim.SGD(model.parameters(), lr=0.3)
    losses = []
    for _ in range(4):
        optimiser.zero_grad()
        loss = model.loss(batch).mean
        loss.backward()
        optimiser.step()
        losses.append(loss.item())
    assert losses[-1] < losses[0]
    assert all(parameter.grad is not None for parameter in model.parameters())


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ({"d_model": 30}, "d_model=30 must split into n_head=4"),
        ({"d_model": 12}, "d_model=12 must split into n_head=4 heads of even width"),
        ({"n_kv_head": 3}, "n_head=4 must be a multiple of n_kv_head=3"),
        ({"n_kv_head": -2}, "n_kv_head=-2: must be at least 1"),
        ({"n_layer": 0}, "n_layer=0: must be at least 1"),
        ({"d_ff": -1}, "d_ff=-1: must be at least 1"),
        ({"window": 0}, "window=0: must be at least 1"),
        ({"dropout": 1.0}, "dropout=1.0: must be at least 0 and below 1"),
        ({"rope_theta": 0.0}, "rope_theta=0.0: must be above 0"),
        ({"position": "rotry"}, "unknown position 'rotry'; did you mean 'rotary'"),
        ({"norm": "rmss"}, "unknown norm 'rmss'; did you mean 'rms'"),
        ({"activation": "gleu"}, "unknown activation 'gleu'; did you mean 'gelu'"),
    ],
)
def test_what_cannot_be_is_refused_in_one_line(wrong: dict[str, Any], message: str) -> None:
    with pytest.raises(UsageError) as error:
        Decoder(DecoderConfig(**{**SHAPE, **wrong}))
    assert message in str(error.value)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize(
    ("choice", "message"),
    [
        (("float23", "plain", "eager"), "unknown precision of a decoder 'float23'; did you mean 'float32'"),
        (("float32", "plan", "eager"), "unknown attention 'plan'; did you mean 'plain'"),
        (("float32", "plain", "nativ"), "unknown step of a decoder 'nativ'; did you mean 'native'"),
    ],
)
def test_unknown_choices_are_refused(choice: tuple[str, str, str], message: str) -> None:
    with pytest.raises(UsageError) as error:
        drawn().set_compute(*choice)
    assert message in str(error.value)


@pytest.mark.parametrize(
    "option", [{"norm": "layer"}, {"bias": True}, {"activation": "gelu"}, {"position": "none"}]
)
def test_the_kernels_name_what_they_do_not_support(option: dict[str, Any]) -> None:
    with raises(UsageError, "unsupported_kernel"):
        drawn(**option).set_compute("bfloat16", "plain", "native")


def test_more_ids_than_the_context_are_refused() -> None:
    with pytest.raises(UsageError, match=f"25 ids are more than the context of {CONTEXT}"):
        drawn()(ids(1, 25))
