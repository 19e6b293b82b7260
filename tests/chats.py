# ruff: noqa: E501 — templates are as long as they are
"""Chat templates in the styles that models use, conversations, and small tokenizers with every option that decides
how blanks and special tokens are read: what the ids of chats are tested over.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import tokenizers
from tokenizers import AddedToken, decoders, models, normalizers, pre_tokenizers, trainers

TURNS = "{% for m in messages %}"
END = "{% endfor %}"
ASK = "{% if add_generation_prompt %}"

TEMPLATES: dict[str, str] = {
    "chatml": TURNS + "{{ '<|im_start|>' + m['role'] + '\\n' + m['content'] + '<|im_end|>' + '\\n' }}" + END
    + ASK + "{{ '<|im_start|>assistant\\n' }}{% endif %}",
    "chatml in data": TURNS + "<|im_start|>{{ m.role }}\n{{ m.content }}<|im_end|>\n" + END + ASK
    + "<|im_start|>assistant\n{% endif %}",
    "chatml default system": "{% if messages[0]['role'] != 'system' %}{{ '<|im_start|>system\\nYou are helpful.<|im_end|>\\n' }}"
    "{% endif %}" + TURNS + "{{'<|im_start|>' + m['role'] + '\\n' + m['content'] | trim + '<|im_end|>' + '\\n'}}" + END
    + ASK + "{{ '<|im_start|>assistant\\n' }}{% endif %}",
    "qwen": "{%- if messages[0]['role'] == 'system' %}\n    {{- '<|im_start|>system\\n' + messages[0]['content'] + '<|im_end|>\\n' }}\n"
    "{%- else %}\n    {{- '<|im_start|>system\\nYou are Q.<|im_end|>\\n' }}\n{%- endif %}\n{%- for message in messages %}\n"
    "    {%- if (message.role == 'user') or (message.role == 'system' and not loop.first) or (message.role == 'assistant' and"
    " not message.tool_calls) %}\n        {{- '<|im_start|>' + message.role + '\\n' + message.content + '<|im_end|>' + '\\n' }}\n"
    "    {%- endif %}\n{%- endfor %}\n{%- if add_generation_prompt %}\n    {{- '<|im_start|>assistant\\n' }}\n{%- endif %}\n",
    "qwen thinking": "{%- set ns = namespace(multi_step_tool=true, last_query_index=messages|length - 1) %}\n"
    "{%- for message in messages[::-1] %}\n    {%- set index = (messages|length - 1) - loop.index0 %}\n"
    "    {%- if ns.multi_step_tool and message.role == 'user' and message.content is string and"
    " not(message.content.startswith('<tool_response>') and message.content.endswith('</tool_response>')) %}\n"
    "        {%- set ns.multi_step_tool = false %}\n        {%- set ns.last_query_index = index %}\n    {%- endif %}\n{%- endfor %}\n"
    "{%- for message in messages %}\n    {%- set content = message.content if message.content is string else '' %}\n"
    "    {%- if message.role == 'assistant' %}\n        {%- if '</think>' in content %}\n"
    "            {%- set content = content.split('</think>')[-1].lstrip('\\n') %}\n        {%- endif %}\n"
    "        {%- if loop.index0 > ns.last_query_index %}\n            {{- '<|im_start|>assistant\\n<think>\\n\\n</think>\\n\\n' + content.lstrip('\\n') }}\n"
    "        {%- else %}\n            {{- '<|im_start|>assistant\\n' + content }}\n        {%- endif %}\n        {{- '<|im_end|>\\n' }}\n"
    "    {%- else %}\n        {{- '<|im_start|>' + message.role + '\\n' + content + '<|im_end|>' + '\\n' }}\n    {%- endif %}\n{%- endfor %}\n"
    "{%- if add_generation_prompt %}\n    {{- '<|im_start|>assistant\\n' }}\n"
    "    {%- if enable_thinking is defined and enable_thinking is false %}\n        {{- '<think>\\n\\n</think>\\n\\n' }}\n    {%- endif %}\n{%- endif %}",
    "llama 2": "{% if messages[0]['role'] == 'system' %}{% set rest = messages[1:] %}{% set sys = messages[0]['content'] %}"
    "{% else %}{% set rest = messages %}{% set sys = false %}{% endif %}{% for m in rest %}"
    "{% if (m['role'] == 'user') != (loop.index0 % 2 == 0) %}{{ raise_exception('Roles must alternate user/assistant') }}{% endif %}"
    "{% if loop.index0 == 0 and sys != false %}{% set body = '<<SYS>>\\n' + sys + '\\n<</SYS>>\\n\\n' + m['content'] %}"
    "{% else %}{% set body = m['content'] %}{% endif %}{% if m['role'] == 'user' %}"
    "{{ bos_token + '[INST] ' + body.strip() + ' [/INST]' }}{% elif m['role'] == 'assistant' %}"
    "{{ ' ' + body.strip() + ' ' + eos_token }}{% endif %}{% endfor %}",
    "llama 2 by a set block": TURNS + "{% set body %}{% if loop.first %}<<SYS>> {{ m.content }}\n{% else %} {{ m.content }} {% endif %}"
    "{% endset %}{{ bos_token ~ '[INST] ' ~ body | trim ~ ' [/INST]' }}{{ eos_token if loop.last }}" + END,
    "llama 3": "{% set loop_messages = messages %}{% for message in loop_messages %}{% set content ="
    " '<|start_header_id|>' + message['role'] + '<|end_header_id|>\\n\\n'+ message['content'] | trim + '<|eot_id|>' %}"
    "{% if loop.index0 == 0 %}{% set content = bos_token + content %}{% endif %}{{ content }}{% endfor %}"
    + ASK + "{{ '<|start_header_id|>assistant<|end_header_id|>\\n\\n' }}{% endif %}",
    "llama 3 with the date": "{{- bos_token }}\n{%- if not date_string is defined %}{%- set date_string = strftime_now('%d %b %Y') %}{%- endif %}\n"
    "{%- if messages[0]['role'] == 'system' %}\n    {%- set system_message = messages[0]['content']|trim %}\n"
    "    {%- set messages = messages[1:] %}\n{%- else %}\n    {%- set system_message = '' %}\n{%- endif %}\n"
    "{{- '<|start_header_id|>system<|end_header_id|>\\n\\n' }}\n{{- 'Today: ' + date_string + '\\n\\n' }}\n{{- system_message }}\n"
    "{{- '<|eot_id|>' }}\n{%- for message in messages %}\n{{- '<|start_header_id|>' + message['role'] + '<|end_header_id|>\\n\\n' +"
    " message['content'] | trim + '<|eot_id|>' }}\n{%- endfor %}\n" + ASK
    + "{{- '<|start_header_id|>assistant<|end_header_id|>\\n\\n' }}{%- endif %}\n",
    "mistral": "{{ bos_token }}" + TURNS + "{% if m['role'] == 'user' %}{{ '[INST] ' + m['content'] + ' [/INST]' }}"
    "{% elif m['role'] == 'assistant' %}{{ m['content'] + eos_token + ' ' }}{% else %}"
    "{{ raise_exception('Only user and assistant roles are supported!') }}{% endif %}" + END,
    "mistral without blanks": "{{- bos_token }}" + TURNS + "{% if m.role == 'user' %}[INST]{{ m.content }}[/INST]{% else %}"
    "{{ m.content + eos_token }}{% endif %}" + END,
    "mistral v7": "{%- set default = 'Be good.' %}{%- if messages[0]['role'] == 'system' %}{%- set sys = messages[0]['content'] %}"
    "{%- set turns = messages[1:] %}{%- else %}{%- set sys = default %}{%- set turns = messages %}{%- endif %}"
    "{{- '<s>[SYSTEM_PROMPT]' + sys + '[/SYSTEM_PROMPT]' }}{%- for m in turns %}{%- if m['role'] == 'user' %}"
    "{{- '[INST]' + m['content'] + '[/INST]' }}{%- else %}{{- m['content'] + eos_token }}{%- endif %}{%- endfor %}",
    "gemma": "{{ bos_token }}{% if messages[0]['role'] == 'system' %}{{ raise_exception('System role not supported') }}{% endif %}"
    + TURNS + "{% if (m['role'] == 'assistant') %}{% set role = 'model' %}{% else %}{% set role = m['role'] %}{% endif %}"
    "{{ '<start_of_turn>' + role + '\\n' + m['content'] | trim + '<end_of_turn>\\n' }}" + END
    + ASK + "{{'<start_of_turn>model\\n'}}{% endif %}",
    "gemma 3": "{{ bos_token }}{%- if messages[0]['role'] == 'system' -%}{%- set first = messages[0]['content'] + '\\n\\n' -%}"
    "{%- set turns = messages[1:] -%}{%- else -%}{%- set first = '' -%}{%- set turns = messages -%}{%- endif -%}"
    "{%- for m in turns -%}{%- if (m['role'] == 'assistant') -%}{%- set role = 'model' -%}{%- else -%}{%- set role = m['role'] -%}"
    "{%- endif -%}{{ '<start_of_turn>' + role + '\\n' + (first if loop.first else '') }}{%- if m['content'] is string -%}"
    "{{ m['content'] | trim }}{%- endif -%}{{ '<end_of_turn>\\n' }}{%- endfor -%}{%- if add_generation_prompt -%}"
    "{{ '<start_of_turn>model\\n' }}{%- endif -%}",
    "zephyr": "{% for message in messages %}\n{% if message['role'] == 'user' %}\n{{ '<|user|>\\n' + message['content'] + eos_token }}\n"
    "{% elif message['role'] == 'system' %}\n{{ '<|system|>\\n' + message['content'] + eos_token }}\n"
    "{% elif message['role'] == 'assistant' %}\n{{ '<|assistant|>\\n'  + message['content'] + eos_token }}\n{% endif %}\n"
    "{% if loop.last and add_generation_prompt %}\n{{ '<|assistant|>' }}\n{% endif %}\n{% endfor %}",
    "phi 3": TURNS + "{{'<|' + m['role'] + '|>' + '\\n' + m['content'] + '<|end|>\\n' }}" + END
    + ASK + "{{ '<|assistant|>\\n' }}{% else %}{{ eos_token }}{% endif %}",
    "phi 3 by tilde": TURNS + "{{ '<|' ~ m.role ~ '|>\\n' ~ m.content ~ '<|end|>\\n' }}" + END,
    "vicuna": "{% if messages[0].role == 'system' %}{{ messages[0].content ~ ' ' }}{% endif %}" + TURNS
    + "{% if m.role == 'user' %}{{ 'USER: ' + m.content + ' ' }}{% elif m.role == 'assistant' %}"
    "{{ 'ASSISTANT: ' + m.content + eos_token }}{% endif %}" + END + ASK + "{{ 'ASSISTANT:' }}{% endif %}",
    "alpaca": TURNS + "{% if m['role'] == 'system' %}{{ m['content'] + '\\n\\n' }}{% elif m['role'] == 'user' %}"
    "{{ '### Instruction:\\n' + m['content'] + '\\n\\n'}}{% else %}{{ '### Response:\\n' + m['content'] + eos_token + '\\n\\n'}}"
    "{% endif %}" + END + ASK + "{{ '### Response:\\n' }}{% endif %}",
    "deepseek": "{% set ns = namespace(is_first=false, system_prompt='') %}" + TURNS + "{%- if m['role'] == 'system' %}"
    "{% set ns.system_prompt = m['content'] %}{%- endif %}" + END + "{{bos_token}}{{ns.system_prompt}}" + TURNS
    + "{%- if m['role'] == 'user' %}{{'<|Human|>' + m['content']}}{%- endif %}{%- if m['role'] == 'assistant' and m['content'] is not none %}"
    "{% set content = m['content'] %}{% if '</think>' in content %}{% set content = content.split('</think>')[-1] %}{% endif %}"
    "{{'<|Bot|>' + content + eos_token}}{%- endif %}" + END + ASK + "{{'<|Bot|>'}}{% endif %}",
    "deepseek coder": "{{ bos_token }}" + TURNS + "{% if m['role'] == 'user' %}{{ 'User: ' + m['content'] + '\\n\\n' }}"
    "{% elif m['role'] == 'assistant' %}{{ 'Assistant: ' + m['content'] + eos_token }}{% else %}{{ m['content'] + '\\n\\n' }}{% endif %}"
    + END + ASK + "{{ 'Assistant:' }}{% endif %}",
    "command r": "{{ bos_token }}{% if messages[0]['role'] == 'system' %}{% set turns = messages[1:] %}{% set sys = messages[0]['content'] %}"
    "{% else %}{% set turns = messages %}{% set sys = 'You are C.' %}{% endif %}"
    "{{ '<|turn|><|system|>' + sys + '<|end|>' }}{% for m in turns %}{% set content = m['content'] %}{% if m['role'] == 'user' %}"
    "{{ '<|turn|><|user|>' + content.strip() + '<|end|>' }}{% else %}{{ '<|turn|><|assistant|>'  + content.strip() + '<|end|>' }}"
    "{% endif %}{% endfor %}" + ASK + "{{ '<|turn|><|assistant|>' }}{% endif %}",
    "glm": "[gMASK]<sop>{% for item in messages %}{% if item['content'] %}\n<|{{ item['role'] }}|>\n{{ item['content'] }}{% endif %}"
    "{% endfor %}" + ASK + "\n<|assistant|>{% endif %}",
    "openchat": "{{ bos_token }}" + TURNS + "{{ 'GPT4 Correct ' + m['role'].title() + ': ' + m['content'] + '<|end|>'}}" + END
    + ASK + "{{ 'GPT4 Correct Assistant:' }}{% endif %}",
    "role in capitals": TURNS + "{{ m.role | upper ~ ': ' ~ m.content | replace('\\n', ' ') ~ eos_token }}" + END,
    "nothing but text": TURNS + "{{ m.content }}" + END,
    "special token after every word": TURNS + "{{ m.content.split() | join('<|end|>') }}" + END,
    "trim after joining": TURNS + "{{ ('<|user|> ' + m.content + ' ') | trim }}{{ (' ' ~ m.content ~ '<|end|> ').lstrip() }}" + END,
    "strips after joining": TURNS + "{{ (m.role + ':  ' + m.content + '\\n\\n').rstrip() + eos_token }}" + END,
    "cases after joining": TURNS + "{{ ('<|user|>' + m.content) | lower }}{{ (m.content ~ 'x') | capitalize }}{{ (m.content ~ 'x').title() }}" + END,
    "replace after joining": TURNS + "{{ ('<|im_start|>' + m.content + '<|im_end|>').replace('\\n', '<|end|>').replace('  ', ' ') }}" + END,
    "split after joining": TURNS + "{{ (m.role ~ '<|end|>' ~ m.content).split('<|end|>')[-1] }}{{ (m.content ~ ' a b').rsplit(' ', 1)[0] }}"
    "{{ (m.content ~ '##' ~ m.role).partition('##')[2] }}" + END,
    "slices after joining": TURNS + "{{ ('<|user|>' ~ m.content)[:12] }}{{ (m.content ~ '<|end|>')[-9:] }}{{ (m.content ~ '')[::-1] }}" + END,
    "joined lists": "{{ messages | map(attribute='content') | map('trim') | join('<|end|>') }}{{ messages | map(attribute='role') | list | join(', ') }}",
    "selected": "{% for m in messages | selectattr('role', 'equalto', 'user') %}<|user|>{{ m.content }}<|end|>{% endfor %}"
    "{{ (messages | rejectattr('role', 'in', ['user']) | list | length) }}",
    "sorted and grouped": "{% for g in messages | groupby('role') %}<|{{ g.grouper }}|>{{ g.list | map(attribute='content') | sort | join('|') }}{% endfor %}",
    "macros": "{% macro turn(role, text, end='<|end|>') %}<|{{ role }}|>\n{{ text }}{{ end }}\n{% endmacro %}" + TURNS
    + "{{ turn(m.role, m.content) }}" + END + ASK + "{{ turn('assistant', '', end='') }}{% endif %}",
    "macro with a caller": "{% macro boxed(role) %}<|{{ role }}|>{{ caller() | trim }}<|end|>{% endmacro %}" + TURNS
    + "{% call boxed(m.role) %}  {{ m.content }}\n{% endcall %}" + END,
    "filter block": TURNS + "<|{{ m.role }}|>{% filter trim | indent(2) %} {{ m.content }} {% endfilter %}<|end|>" + END,
    "generation": TURNS + "{% if m.role == 'assistant' %}<|assistant|>{% generation %}{{ m.content }}<|end|>{% endgeneration %}"
    "{% else %}<|{{ m.role }}|>{{ m.content }}<|end|>{% endif %}" + END,
    "percent": TURNS + "{{ '<|%s|>%s<|end|>' % (m.role, m.content) }}" + END + "{{ '%d messages' % (messages | length) }}",
    "percent by name": TURNS + "{{ '<|user|>%(a)s<|end|>%(b)5d%%' % {'a': m.content, 'b': loop.index} }}" + END,
    "format": TURNS + "{{ '<|{}|>{}<|end|>'.format(m.role, m.content) }}{{ '%s: %s' | format(m.role, m.content) }}{{ '{r:>12}'.format(r=m.role) }}" + END,
    "json": TURNS + "<|{{ m.role }}|>{{ m | tojson }}{{ m.content | tojson }}<|end|>" + END + "{{ messages | tojson(indent=2) }}",
    "json sorted": "{{ messages | tojson(sort_keys=true, separators=(',', ':')) }}{{ {'a': messages[0].content, 'b': [1, none, true, 2.5]} | tojson(indent=4) }}",
    "indented": TURNS + "<|{{ m.role }}|>{{ m.content | indent }}{{ m.content | indent(2, true) }}{{ m.content | indent('> ', blank=true) }}<|end|>" + END,
    "escaped": TURNS + "<|{{ m.role }}|>{{ m.content | e }}<|end|>{{ m.content | escape | trim }}{{ m.content | safe }}" + END,
    "loops": TURNS + "{% if loop.first %}<|system|>{% elif loop.last %}<|user|>{% else %}{{ loop.index ~ loop.revindex0 ~ loop.length }}{% endif %}"
    "{{ loop.cycle('a', 'b') }}{{ m.content }}{% if not loop.last and loop.nextitem.role == 'user' %}<|end|>{% endif %}" + END,
    "break and continue": TURNS + "{% if m.role == 'system' %}{% continue %}{% endif %}<|{{ m.role }}|>{{ m.content }}{% if loop.index > 3 %}{% break %}{% endif %}" + END,
    "characters": TURNS + "{% for c in m.content %}{{ c }}{% if c == ' ' %}<|end|>{% endif %}{% endfor %}" + END,
    "lines": TURNS + "{% for line in m.content.splitlines() %}<|user|>{{ line.strip() }}{% endfor %}" + END,
    "gathered": "{% set ns = namespace(text='') %}" + TURNS + "{% set ns.text = ns.text + '<|' + m.role + '|>' + m.content + '<|end|>' %}" + END
    + "{{ ns.text | trim }}",
    "bos and eos": "{{ bos_token }}" + TURNS + "{{ m.content ~ (eos_token or '') }}" + END + "{{ bos_token + eos_token }}",
    "none tokens": "{{ sep_token or '' }}{% if cls_token is defined and cls_token is not none %}{{ cls_token }}{% endif %}" + TURNS
    + "{{ m.content }}{{ eos_token }}" + END,
    "whitespace control": "\n{%- for m in messages -%}\n  {%- if m.role == 'user' +%}\n  <|user|>\n  {{- m.content }}  \n{%- else %}\n"
    "    <|assistant|> {{ m.content -}}   \n  <|end|>\n  {% endif %}\n\n{%- endfor %}\n  {# a remark #}\n",
    "blanks around special tokens": TURNS + " <|user|>  {{ m.content }}  <|end|>  <|assistant|> " + END,
    "letters around special tokens": TURNS + "x<|user|>x{{ m.content }}x<|end|>x<|user|><|end|>" + END,
    "the unknown token": TURNS + "{{ m.content }}<unk> [UNK] <pad>" + END,
    "tools": "{% if tools is not none and tools %}{{ tools | tojson }}{% endif %}{% if documents %}{{ documents }}{% endif %}" + TURNS
    + "{{ '<|' + m.role + '|>' + (m.content or '') }}{% if m.tool_calls is defined %}{{ m.tool_calls | tojson }}{% endif %}" + END,
    "alternation": TURNS + "{% if loop.index0 > 0 and m.role == messages[loop.index0 - 1].role %}"
    "{{ raise_exception('Conversation roles must alternate, at ' ~ loop.index0) }}{% endif %}<|{{ m.role }}|>{{ m.content }}" + END,
}  # fmt: skip


def turns(*texts: str, system: str | None = None) -> list[dict[str, Any]]:
    """A conversation of user and assistant by turns."""
    roles = ["user", "assistant"] * len(texts)
    messages = [{"role": role, "content": text} for role, text in zip(roles, texts, strict=False)]
    return messages if system is None else [{"role": "system", "content": system}, *messages]


CONVERSATIONS: dict[str, list[dict[str, Any]]] = {
    "one": turns("hello"),
    "system": turns("Hello\n", "Hi there.", " What is a cat? ", system="Be brief."),
    "blanks": turns("  two  blanks \n\n and lines\t", " a\n", "\n\n", "ok ", "end", system=" x "),
    "scripts": turns("你好 世界, naïve café ﬁne ÀÉ ①", "Straße İstanbul ŉ", "🙂 مرحبا a\u0301 ½"),
    "marks": turns(
        "a < b | c > d & \"e\" 'f' {{ x }} {% y %}", "[x] #1 50% </think> <think>", "[INST user] <<SYS"
    ),
    "empty": turns("", "", "x", "", "yes"),
}

SPECIAL = (
    "<unk>", "<s>", "</s>", "<pad>", "<|im_start|>", "<|im_end|>", "<|start_header_id|>", "<|end_header_id|>", "<|eot_id|>",
    "<start_of_turn>", "<end_of_turn>", "<|user|>", "<|assistant|>", "<|system|>", "<|end|>", "[INST]", "[/INST]",
    "<|Human|>", "<|Bot|>", "<|turn|>", "[gMASK]", "<sop>", "[SYSTEM_PROMPT]", "[/SYSTEM_PROMPT]",
)  # fmt: skip
TEXT = [
    "the cat sat on the mat in 1934.\n\nYes;\nno 你好 世界 hello user assistant system model Be brief. What is a cat?",
    "two  blanks and lines café naïve straße [INST] Instruction Response ### USER: ASSISTANT:",
] * 20
FLAGS = {
    "plain": {},
    "lstrip": {"lstrip": True},
    "rstrip": {"rstrip": True},
    "both": {"lstrip": True, "rstrip": True},
    "single": {"single_word": True},
    "normalized": {"normalized": True},
    "normalized rstrip": {"normalized": True, "rstrip": True},
    "single both": {"single_word": True, "lstrip": True, "rstrip": True},
}
BLANK = "▁"


def finished(backend: tokenizers.Tokenizer, flags: str) -> tokenizers.Tokenizer:
    """The tokenizer with the special tokens that are not pieces of its model added, by these flags."""
    options = {"normalized": False, **FLAGS[flags]}
    backend.add_special_tokens([AddedToken(name, **options) for name in SPECIAL])
    backend.add_tokens([AddedToken("<think>", normalized=False), AddedToken("</think>", normalized=False)])
    return backend


def trained(backend: tokenizers.Tokenizer, trainer: Any) -> tokenizers.Tokenizer:
    """The tokenizer trained on TEXT; what it held of special tokens is taken out again."""
    backend.train_from_iterator(TEXT, trainer)
    return tokenizers.Tokenizer.from_str(json.dumps({**json.loads(backend.to_str()), "added_tokens": []}))


def byte_level(
    flags: str, *, add_prefix_space: bool = False, pattern: str | None = None
) -> tokenizers.Tokenizer:
    """BPE over bytes, as GPT-2, Llama 3 and Qwen have it."""
    backend = tokenizers.Tokenizer(models.BPE())
    level = pre_tokenizers.ByteLevel(add_prefix_space=add_prefix_space, use_regex=pattern is None)
    split = [] if pattern is None else [pre_tokenizers.Split(tokenizers.Regex(pattern), "isolated")]
    backend.pre_tokenizer = pre_tokenizers.Sequence([*split, level])
    backend.decoder = decoders.ByteLevel()
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    trainer = trainers.BpeTrainer(vocab_size=420, initial_alphabet=alphabet, show_progress=False)
    return finished(trained(backend, trainer), flags)


def sentencepiece(
    flags: str, scheme: str, *, split: bool = False, prepend: bool = False
) -> tokenizers.Tokenizer:
    """BPE of SentencePiece with byte fallback, as Llama 2, Mistral and Gemma have it; `prepend`: by normalizers."""
    backend = tokenizers.Tokenizer(models.BPE(unk_token="<unk>", fuse_unk=True, byte_fallback=True))
    backend.pre_tokenizer = pre_tokenizers.Metaspace(prepend_scheme="always")
    pieces = ["<unk>", "<s>", "</s>", *(f"<0x{byte:02X}>" for byte in range(256))]
    trainer = trainers.BpeTrainer(vocab_size=600, special_tokens=pieces, show_progress=False)
    backend = trained(backend, trainer)
    if prepend:
        backend.pre_tokenizer = None
        backend.normalizer = normalizers.Sequence(
            [normalizers.Prepend(BLANK), normalizers.Replace(" ", BLANK)]
        )
    else:
        backend.pre_tokenizer = pre_tokenizers.Metaspace(prepend_scheme=scheme, split=split)
    replaced, fuse = decoders.Replace(BLANK, " "), decoders.Fuse()
    strip = [] if scheme == "never" else [decoders.Strip(" ", 1, 0)]
    backend.decoder = decoders.Sequence([replaced, decoders.ByteFallback(), fuse, *strip])
    return finished(backend, flags)


def replacing(flags: str) -> tokenizers.Tokenizer:
    """Gemma's: blanks replaced by the normalizer, nothing set before, the split at blanks."""
    backend = sentencepiece(flags, "never")
    backend.normalizer = normalizers.Replace(" ", BLANK)
    backend.pre_tokenizer = pre_tokenizers.Split(" ", "merged_with_previous")
    return backend


def unigram(flags: str, scheme: str, *, normalizer: Any = None) -> tokenizers.Tokenizer:
    """Unigram of SentencePiece, as T5 and XLM-R have it, its special tokens pieces of its vocabulary."""
    backend = tokenizers.Tokenizer(models.Unigram())
    backend.pre_tokenizer = pre_tokenizers.Metaspace(prepend_scheme="always")
    trainer = trainers.UnigramTrainer(
        vocab_size=300,
        special_tokens=["<unk>", "<s>", "</s>", "<pad>"],
        unk_token="<unk>",
        show_progress=False,
    )
    backend = trained(backend, trainer)
    if normalizer is not None:
        backend.normalizer = normalizer
    backend.pre_tokenizer = pre_tokenizers.Metaspace(prepend_scheme=scheme)
    backend.decoder = decoders.Metaspace(prepend_scheme=scheme)
    return finished(backend, flags)


def wordpiece(flags: str, *, lowercase: bool = True) -> tokenizers.Tokenizer:
    """BERT's, which loses case and accents and knows few characters."""
    letters = "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789.,;:?!'\"<>|/[]#%&{}()_é你好"
    pieces = ["<unk>", *letters, *(f"##{letter}" for letter in letters), "the", "cat", "hello", "user"]
    backend = tokenizers.Tokenizer(models.WordPiece({p: n for n, p in enumerate(pieces)}, unk_token="<unk>"))
    backend.normalizer = normalizers.BertNormalizer(lowercase=lowercase)
    backend.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    backend.decoder = decoders.WordPiece()
    return finished(backend, flags)


QWEN = r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
TOKENIZERS: dict[str, Callable[[str], tokenizers.Tokenizer]] = {
    "byte-level": byte_level,
    "byte-level, blank before": lambda flags: byte_level(flags, add_prefix_space=True),
    "byte-level, Qwen's pattern": lambda flags: byte_level(flags, pattern=QWEN),
    "byte-level, Qwen's pattern, blank before": lambda flags: byte_level(flags, add_prefix_space=True, pattern=QWEN),
    "Metaspace first": lambda flags: sentencepiece(flags, "first"),
    "Metaspace always": lambda flags: sentencepiece(flags, "always"),
    "Metaspace never": lambda flags: sentencepiece(flags, "never"),
    "Metaspace first, split": lambda flags: sentencepiece(flags, "first", split=True),
    "Metaspace always, split": lambda flags: sentencepiece(flags, "always", split=True),
    "Prepend (legacy Llama)": lambda flags: sentencepiece(flags, "always", prepend=True),
    "Replace (Gemma)": replacing,
    "Unigram first": lambda flags: unigram(flags, "first"),
    "Unigram always, NFKC": lambda flags: unigram(flags, "always", normalizer=normalizers.NFKC()),
    "Unigram never, lower": lambda flags: unigram(flags, "never", normalizer=normalizers.Lowercase()),
    "WordPiece": wordpiece,
    "WordPiece, cased": lambda flags: wordpiece(flags, lowercase=False),
}  # fmt: skip


def write_folder(folder: Path, kind: str, flags: str) -> Path:
    """A folder as `transformers` saves it, with this tokenizer."""
    from transformers import PreTrainedTokenizerFast

    theirs = PreTrainedTokenizerFast(
        tokenizer_object=TOKENIZERS[kind](flags),
        bos_token="<s>", eos_token="</s>", unk_token="<unk>", pad_token="<pad>",
    )  # fmt: skip
    theirs.save_pretrained(folder)
    return folder
