# ruff: noqa: E501 — templates are as long as they are
"""Chat templates that would take all the time or memory there is, and what a conversation must be to set them off."""

from __future__ import annotations


def doubled(expression: str, start: str, times: int = 60) -> str:
    """A name `ns.x` that begins as `start` and becomes `expression` so many times."""
    return (
        f"{{% set ns = namespace(x={start}) %}}{{% for i in range({times}) %}}"
        f"{{% set ns.x = {expression} %}}{{% endfor %}}"
    )


LISTS = doubled("[ns.x, ns.x]", "1")
TUPLES = doubled("(ns.x, ns.x)", "1")
MILLION = "('a' * 1000000)"

BOMBS = {
    "field: squares": doubled("ns.x * ns.x", "10"),
    "field: replace": "{{ " + MILLION + ".replace('a', 'b' * 4000) | length }}",
    "field: at the third message": "{% if messages | length > 2 %}"
    + doubled("ns.x * ns.x", "10")
    + "{% endif %}",
    "power": "{{ 9 ** 9 ** 9 }}",
    "power of a float chain": doubled("ns.x ** 1.5", "10", 90000),
    "power by a variable": "{% set x = 2 ** 60 %}{{ x ** x }}",
    "negative power": "{{ 2 ** -(10 ** 30) }}",
    "long division": doubled("ns.x * ns.x // 3", "10"),
    "digits": "{{ ('9' * 1000000) | int }}",
    "digits of base 16": "{{ ('f' * 1000000) | int(0, 16) * ('f' * 1000000) | int(0, 16) }}",
    "round": "{{ 1 | round(-1000000000) }}",
    "round up": "{{ 1.5 | round(100000000, 'ceil') }}",
    "repetition": "{{ 'a' * 10 ** 9 }}",
    "repetition from the left": "{{ 10 ** 9 * 'a' }}",
    "list repetition": "{{ ([1] * 10 ** 9) | length }}",
    "plus": doubled("ns.x + ns.x", "'aa'"),
    "tilde": doubled("ns.x ~ ns.x", "'aa'"),
    "list plus": doubled("ns.x + ns.x", "[1]"),
    "set block": "{% set ns = namespace(x='aa') %}{% for i in range(60) %}"
    "{% set ns.x %}{{ ns.x }}{{ ns.x }}{% endset %}{% endfor %}",
    "macro": "{% macro f(x) %}{{ x }}{{ x }}{{ x }}{% endmacro %}" + doubled("f(ns.x)", "'aa'"),
    "output": "{% for i in range(90000) %}{{ 'some twenty characters' }}{% endfor %}",
    "join": "{{ ([" + MILLION + "] * 5000) | join }}",
    "join by a long separator": "{{ (range(100000) | list) | join(" + MILLION + ") | length }}",
    "join method": "{{ " + MILLION + ".join('a' * 1000000) | length }}",
    "replace nothing": "{{ " + MILLION + ".replace('', 'b' * 1000) | length }}",
    "replace filter": "{{ " + MILLION + " | replace('a', 'b' * 4000) | length }}",
    "nested replace": doubled("ns.x.replace('a', 'aaaaaaaaaa')", "'a'"),
    "percent width": "{{ '%1000000000s' % 'x' }}",
    "percent precision": "{{ '%.1000000000f' % 1.5 }}",
    "percent star": "{{ '%*d' % (1000000000, 1) }}",
    "format filter width": "{{ '%1000000000d' | format(1) }}",
    "format width": "{{ '{:1000000000}'.format('x') }}",
    "format width in a field": "{{ '{:{w}}'.format('x', w=1000000000) }}",
    "format precision": "{{ '{:.1000000000f}'.format(1.5) }}",
    "format many": "{{ ('{0}' * 100000).format(" + MILLION + ") }}",
    "format_map": "{{ '{a:1000000000}'.format_map({'a': 1}) }}",
    "center": "{{ 'a' | center(1000000000) }}",
    "ljust": "{{ 'a'.ljust(1000000000) }}",
    "rjust": "{{ 'a'.rjust(1000000000) }}",
    "zfill": "{{ '1'.zfill(1000000000) }}",
    "expandtabs": "{{ ('\\t' * 100000).expandtabs(1000000) }}",
    "indent": "{{ ('a\\n' * 100000) | indent(1000000) }}",
    "indent by a word": "{{ ('a\\n' * 100000) | indent('b' * 100000) }}",
    "truncate": "{{ 'aaaa' | truncate(2, true, 'b' * 1000000000) }}",
    "tojson indent": "{{ [[[[1]]]] | tojson(indent=1000000000) }}",
    "tojson indent word": "{{ [[[[1]]]] | tojson(indent='x' * 1000000) }}",
    "tojson separators": "{{ range(1000) | list | tojson(separators=('x' * 1000000, 'y' * 1000000)) }}",
    "tojson of doubled lists": LISTS + "{{ ns.x | tojson }}",
    "printed doubled lists": LISTS + "{{ ns.x }}",
    "string of doubled lists": LISTS + "{{ ns.x | string | length }}",
    "tilde of doubled lists": LISTS + "{{ ns.x ~ '' }}",
    "percent of doubled lists": LISTS + "{{ '%s' % [ns.x] }}",
    "percent r of doubled lists": LISTS + "{{ '%r' % [ns.x] }}",
    "format of doubled lists": LISTS + "{{ '{}'.format(ns.x) }}",
    "join of doubled lists": LISTS + "{{ ns.x | join }}",
    "upper of doubled lists": LISTS + "{{ ns.x | upper }}",
    "lower test of doubled lists": LISTS + "{{ ns.x is lower }}",
    "attribute of doubled lists": LISTS + "{{ messages | map(attribute=ns.x) | list }}",
    "comparison of doubled lists": LISTS + "{% set a = ns.x %}" + LISTS + "{{ a == ns.x }}",
    "comparison test of doubled lists": LISTS + "{% set a = ns.x %}" + LISTS + "{{ a is eq(ns.x) }}",
    "doubled lists among others": LISTS + "{% set a = ns.x %}" + LISTS + "{{ a in [ns.x] }}",
    "index of doubled lists": LISTS + "{% set a = ns.x %}" + LISTS + "{{ [a].index(ns.x) }}",
    "select by doubled lists": LISTS + "{% set a = ns.x %}" + LISTS + "{{ [a] | select('eq', ns.x) | list }}",
    "changed": LISTS
    + "{% set a = ns.x %}"
    + LISTS
    + "{% for x in [a, ns.x] %}{{ loop.changed(x) }}{% endfor %}",
    "doubled tuples as a key": TUPLES + "{{ {ns.x: 1} | length }}",
    "doubled tuples looked up": TUPLES + "{{ {1: 1}[ns.x] }}",
    "doubled tuples by get": TUPLES + "{{ {1: 1}.get(ns.x) }}",
    "unique doubled tuples": TUPLES + "{{ [ns.x] | unique | list }}",
    "dict of doubled tuples": TUPLES + "{{ dict([(ns.x, 1)]) | length }}",
    "sorted doubled lists": LISTS + "{% set a = ns.x %}" + LISTS + "{{ [a, ns.x] | sort | length }}",
    "grouped doubled tuples": TUPLES + "{{ [{'k': ns.x}, {'k': ns.x}] | groupby('k') | length }}",
    "refusal with doubled lists": LISTS + "{{ raise_exception(ns.x) }}",
    "namespaces in namespaces": doubled("namespace(a=ns.x, b=ns.x)", "1") + "{{ ns.x }}",
    "sort of long strings": "{{ ([" + MILLION + "] * 100000) | sort | length }}",
    "unique of long strings": "{{ ([" + MILLION + "] * 100000) | unique | list | length }}",
    "sum of lists": "{{ ([[1] * 10000] * 10000) | sum(start=[]) | length }}",
    "slice": "{{ [1] | slice(1000000000) | list | length }}",
    "batch": "{{ [1] | batch(1000000000, 0) | list | length }}",
    "range": "{{ range(10 ** 12) | list | length }}",
    "silent loops": "{% for a in range(99999) %}{% for b in range(99999) %}{% endfor %}{% endfor %}",
    "loops with a condition": "{% for a in range(99999) %}{% for b in range(99999) if false %}{% endfor %}{% endfor %}",
    "loop over a long string": "{% for a in 'a' * 1000000 %}{% for b in 'a' * 1000000 %}{% endfor %}{% endfor %}",
    "many filters on a range": "{{ range(99999)" + " | map('string')" * 2000 + " | list | length }}",
    "selected for ever": "{{ range(99999)" + " | select" * 3000 + " | list | length }}",
    "filters inside filters": doubled("(ns.x | map('string'))", "range(3)", 90000) + "{{ ns.x | list }}",
    "upper many times": "{{ " + MILLION + " | upper" * 5000 + " | length }}",
    "slices": "{% set x = " + MILLION + " %}" + "{{ x[::-1] | length }}" * 3000,
    "split": "{{ " + MILLION + ".split('a') | length }}",
    "split and join": doubled("'aa'.join(ns.x.split('a'))", "'a'"),
    "splitlines": "{{ ('\\n' * 1000000).splitlines() | length }}",
    "list of characters": "{% for i in range(1000) %}{{ ('a' * 1000000) | list | length }}{% endfor %}",
    "words": "{% for i in range(99999) %}{{ ('a ' * 500000) | wordcount }}{% endfor %}",
    "searching": "{% for i in range(99999) %}{{ ('a' * 500000 ~ 'b') in ('a' * 1000000) }}{% endfor %}",
    "counting": "{% set x = " + MILLION + " %}{% for i in range(99999) %}{{ x.count('aa') }}{% endfor %}",
    "recursive macro": "{% macro f() %}{{ f() }}{% endmacro %}{{ f() }}",
    "macro that calls itself twice": "{% macro f(n) %}{% if n > 0 %}{{ f(n - 1) }}{{ f(n - 1) }}{% endif %}{% endmacro %}"
    "{{ f(60) }}",
    "recursive loop": "{% for x in [1] recursive %}{{ loop([1, 1]) }}{% endfor %}",
    "recursive block": "{% block a %}{{ self.a() }}{{ self.a() }}{% endblock %}",
    "strftime": "{{ strftime_now('%1000000000d') }}",
    "long strftime": "{{ strftime_now('%A' * 500000) | length }}",
    "bytes of a number": "{{ (5).to_bytes(1000000000, 'big') | length }}",
    "translate": "{{ " + MILLION + ".translate({97: 'b' * 1000000}) | length }}",
    "lipsum": "{{ lipsum(1000000000) }}",
    "urlize": "{{ " + MILLION + " | urlize }}",
    "wordwrap": "{{ ('a ' * 500000) | wordwrap(1, true, 'b' * 1000000) }}",
    "pprint": LISTS + "{{ ns.x | pprint }}",
    "xmlattr": LISTS + "{{ {'a': ns.x} | xmlattr }}",
    "parentheses": "{{ " + "(" * 20000 + "1" + ")" * 20000 + " }}",
    "nots": "{{ " + "not " * 15000 + "1 }}",
    "lists in lists": "{{ " + "[" * 20000 + "]" * 20000 + " }}",
    "attributes": "{{ a" + ".a" * 30000 + " }}",
    "ifs in ifs": "{% if 1 %}" * 3000 + "{% endif %}" * 3000,
    "loops in loops": "{% for a in [1, 2] %}" * 200 + "{% endfor %}" * 200,
    "pluses": "{{ 1" + " + 1" * 15000 + " }}",
    "a long number": "{{ " + "9" * 60000 + " }}",
    "a long number in hexadecimal": "{{ 0x" + "f" * 60000 + " * 2 }}",
    "too long": "x" * 70_000,
    "the template's own blanks": "{{ '"
    + " " * 30000
    + "'.strip() }}"
    + " " * 30000
    + "{%- if x -%}{%- endif -%}",
}
"""What makes one: a number, a length, nesting, or a loop, by every operator, filter and method of the sandbox."""
