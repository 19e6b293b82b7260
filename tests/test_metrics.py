"""Figures by hand, by brute force, and by repeating them."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from raising import raises

from textus.core.errors import UsageError
from textus.metrics.resampling import (
    BLOCK,
    FEWEST,
    MOST_BLOCKS,
    ByteBlocks,
    bootstrap,
    corpus_distinct_n,
    distinct_n,
    longest_match,
    mean_over_sequences,
    ngrams,
    paired_bootstrap,
    repetition,
)


def test_the_value_is_a_ratio_of_sums_not_a_mean_of_ratios() -> None:
    value, low, high = bootstrap([1.0, 30.0], [1.0, 10.0])
    assert value == pytest.approx(31 / 11)
    assert low == pytest.approx(1.0)  # a resample of the first block alone
    assert high == pytest.approx(3.0)


def test_equal_blocks_have_no_spread_and_one_block_has_no_interval() -> None:
    assert bootstrap([2.0] * 10, [4.0] * 10) == (0.5, 0.5, 0.5)
    assert bootstrap([3.0], [2.0]) == (1.5, 1.5, 1.5)


def test_same_seed_same_interval_another_seed_another() -> None:
    values = np.random.default_rng(1).normal(size=50)
    first = bootstrap(values, np.ones(50), seed=1)
    assert first == bootstrap(values, np.ones(50), seed=1)
    assert first != bootstrap(values, np.ones(50), seed=2)


@pytest.mark.promise("Results", "The 95 % interval covers the truth about 95 times in 100")
def test_the_interval_covers_the_truth_about_95_times_in_100() -> None:
    rng = np.random.default_rng(0)
    hits = 0
    for trial in range(300):
        weights = rng.uniform(1, 3, size=60)
        values = weights * 2.0 + rng.normal(scale=1.0, size=60)
        _, low, high = bootstrap(values, weights, seed=trial, n=400)
        hits += low <= 2.0 <= high
    assert (
        0.90 <= hits / 300 <= 0.985
    )  # 5 standard errors of the coverage of a percentile interval of 60 blocks


def test_many_blocks_are_resampled_in_chunks_of_flat_memory() -> None:
    values = np.random.default_rng(0).normal(1.0, 1.0, size=100_000)
    value, low, high = bootstrap(values, np.ones(100_000), n=100)
    assert high - low == pytest.approx(4 * 1.0 / np.sqrt(100_000), rel=0.4)  # ± 2 standard errors
    assert low < value < high


def test_pairs_see_a_difference_that_single_intervals_hide() -> None:
    rng = np.random.default_rng(0)
    hard = rng.normal(5, 2, size=100)  # passages differ far more than models do
    first, second = hard + 0.1 + rng.normal(0, 0.05, 100), hard
    difference, low, high = paired_bootstrap(first, second, np.ones(100))
    assert difference == pytest.approx(0.1, abs=0.02)
    assert 0 < low < high
    alone = bootstrap(first, np.ones(100)), bootstrap(second, np.ones(100))
    assert alone[0][1] < alone[1][2]  # these overlap


@pytest.mark.parametrize(
    ("values", "weights"), [([], []), ([1.0], [1.0, 2.0]), ([1.0], [0.0]), ([[1.0]], [[1.0]])]
)
def test_what_has_no_ratio_is_refused(values: list, weights: list) -> None:
    with pytest.raises(UsageError):
        bootstrap(values, weights)


def test_pairs_of_different_blocks_are_refused() -> None:
    with raises(UsageError, "size_mismatch"):
        paired_bootstrap([1.0], [1.0, 2.0], [1.0])


def test_blocks_keep_every_cost_and_every_byte() -> None:
    rng = np.random.default_rng(0)
    blocks, total = ByteBlocks(), 0.0
    for _ in range(40):
        sizes = rng.integers(1, 5, size=200)
        costs = rng.uniform(size=200)
        total += costs.sum()
        blocks.add(int(sizes.sum()), sizes, costs)
    sums, weights = blocks.totals()
    assert sums.sum() == pytest.approx(total)
    assert weights.sum() == blocks.n_bytes
    assert len(sums) == len(weights) == -(-blocks.n_bytes // blocks.size)
    assert blocks.size == 512  # 20 blocks or so: the text is too short for more of BLOCK bytes
    assert len(sums) >= FEWEST


def test_a_token_counts_in_the_block_where_it_begins() -> None:
    blocks = ByteBlocks(size=4)
    blocks.add(10, [3, 3, 3, 1], [1.0, 10.0, 100.0, 1000.0])  # begin at 0, 3, 6, 9
    assert blocks.sums.tolist() == [11.0, 100.0, 1000.0]


def test_blocks_follow_the_text_whatever_the_tokens() -> None:
    fine, coarse = ByteBlocks(), ByteBlocks()
    fine.add(100_000, [1] * 100_000, [0.5] * 100_000)
    coarse.add(100_000, [10] * 10_000, [5.0] * 10_000)
    assert fine.totals()[1].tolist() == coarse.totals()[1].tolist()
    assert fine.size == BLOCK
    assert np.allclose(fine.totals()[0], coarse.totals()[0], atol=5.0)


def test_a_long_text_does_not_have_more_blocks() -> None:
    blocks = ByteBlocks()
    for _ in range(50):
        blocks.add(1_000_000, [1000] * 1000, [1.0] * 1000)
    assert len(blocks.sums) <= MOST_BLOCKS
    assert blocks.totals()[1].sum() == 50_000_000
    assert blocks.sums.sum() == 50_000


def test_distinct_and_repetition_by_hand() -> None:
    assert distinct_n("abab", 1) == 0.5
    assert distinct_n("abab", 2) == pytest.approx(2 / 3)  # ab ba ab
    assert repetition("abcdabcd", 4) == pytest.approx(1 / 5)  # abcd comes twice among five
    assert repetition([1, 2, 3], 4) == 0.0
    assert distinct_n([], 1) == 1.0
    assert repetition("a" * 100) == pytest.approx(96 / 97)


@given(st.lists(st.integers(0, 3), max_size=40), st.integers(1, 4))
def test_repetition_counts_what_was_seen_before(sequence: list[int], n: int) -> None:
    seen: set = set()
    again = total = 0
    for at in range(len(sequence) - n + 1):
        gram = tuple(sequence[at : at + n])
        again += gram in seen
        total += 1
        seen.add(gram)
    assert repetition(sequence, n) == pytest.approx(again / total if total else 0.0)


def test_pooled_is_over_all_ngrams_and_leaves_short_samples_be() -> None:
    result = mean_over_sequences(["aaaa", "ab", ""], 2, distinct_n)
    assert result is not None
    assert result["value"] == pytest.approx((1 + 1) / (3 + 1))
    assert result["n"] == 3
    assert mean_over_sequences(["a", ""], 2, distinct_n) is None


@pytest.mark.promise("Families", "One text repeated again and again does not count as varied")
def test_distinct_over_sees_what_one_sample_alone_does_not_show() -> None:
    same, other = list("abcdefgh"), list("ijklmnop")
    collapsed, varied = corpus_distinct_n([same] * 10, 2), corpus_distinct_n([same, other], 2)
    assert collapsed is not None
    assert varied is not None
    assert collapsed["value"] == pytest.approx(1 / 10)
    assert collapsed["low"] == pytest.approx(collapsed["high"]) == pytest.approx(1 / 10)
    assert varied == {"value": 1.0, "low": 1.0, "high": 1.0, "n": 2}
    alone = mean_over_sequences(
        [same] * 10, 2, distinct_n
    )  # the fault that was: within each sample nothing repeats
    assert alone is not None
    assert alone["value"] == 1.0
    assert corpus_distinct_n(["a", ""], 2) is None


def test_distinct_over_is_the_number_of_kinds_and_its_interval_covers_it() -> None:
    """Beside the definition; and beside fresh draws of samples: about 95 in 100 intervals hold their mean."""
    rng = np.random.default_rng(0)
    draws = [[rng.integers(0, 40, size=60).tolist() for _ in range(12)] for _ in range(120)]
    results = [corpus_distinct_n(samples, 2) for samples in draws]
    for samples, figure in zip(draws, results, strict=True):
        grams = [gram for sample in samples for gram in ngrams(sample, 2)]
        assert figure is not None
        assert figure["value"] == pytest.approx(len(set(grams)) / len(grams))
        assert figure["low"] <= figure["value"] <= figure["high"]
    mean = np.mean([figure["value"] for figure in results if figure])
    assert np.mean([figure["low"] <= mean <= figure["high"] for figure in results if figure]) >= 0.9


def test_zero_grams_are_refused() -> None:
    with raises(UsageError, "out_of_range"):
        ngrams("abc", 0)


@settings(max_examples=200)
@given(st.text("ab", max_size=12), st.text("ab", max_size=25))
def test_longest_match_by_brute_force(sample: str, corpus: str) -> None:
    result = longest_match(sample, corpus)
    assert result in sample
    assert result in corpus
    parts = (sample[i:j] for i in range(len(sample)) for j in range(i, len(sample) + 1))
    assert len(result) == max((len(part) for part in parts if part in corpus), default=0)
