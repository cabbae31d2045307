"""Retrieval against an obvious slow version, and what must not change its numbers."""
# ruff: noqa: C408 - options are written as the keyword arguments they become
import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from bm.losses import ClipLoss
from bm.metrics.retrieval import ROWS, Retrieval, locate, retrieval, score_blocks, top_credit, unique_candidates
from bm.metrics.stats import binomial_interval


def data(n=300, v=70, shape=(3, 5), seed=0, signal=0.5):
    generator = np.random.default_rng(seed)
    candidates = generator.standard_normal((v, *shape)).astype(np.float32)
    true = generator.integers(v, size=n)
    estimates = generator.standard_normal((n, *shape)).astype(np.float32) + signal * candidates[true]
    return estimates.astype(np.float32), candidates, true


def slow(scores, own, ks):
    """Rank, reciprocal rank and top-k by going through all places a tied candidate may have."""
    better, tied = sum(s > scores[own] for s in scores), sum(s == scores[own] for s in scores)
    places = [better + 1 + j for j in range(tied)]
    return [np.mean(places), np.mean([1 / p for p in places]), *(np.mean([p <= k for p in places]) for k in ks)]


@settings(max_examples=40, deadline=None)
@given(st.integers(1, 12), st.integers(1, 9), st.integers(0, 10_000))
def test_against_slow_version(n, v, seed):
    # Integer vectors of norm 2 have exact scores, with many ties.
    generator = np.random.default_rng(seed)
    candidates = (2 * np.eye(4)[generator.integers(4, size=v)])[:, :, None].astype(np.float32)
    estimates = generator.integers(-2, 3, size=(n, 4, 1)).astype(np.float32)
    true = generator.integers(v, size=n)
    result = retrieval(estimates, candidates, np.arange(v), true, ks=(1, 2, 5))
    scores = estimates[:, :, 0] @ candidates[:, :, 0].T
    for i in range(n):
        got = [result.values[name][i] for name in ("rank", "reciprocal", "top1", "top2", "top5")]
        assert got == pytest.approx(slow(list(scores[i]), true[i], (1, 2, 5)))
    assert result.summary()["median_rank"] == np.median(result.values["rank"])


@settings(max_examples=60, deadline=None)
@given(st.integers(0, 6), st.integers(1, 6), st.integers(1, 8), st.data())
def test_top_credit(greater, ties, k, draw):
    """With several right ones among the tied: all orders counted."""
    from itertools import combinations
    members = draw.draw(st.integers(1, ties))
    places = list(combinations(range(greater + 1, greater + ties + 1), members))
    expected = np.mean([min(p) <= k for p in places])
    assert top_credit(np.array([greater]), np.array([ties]), k, members)[0] == pytest.approx(expected)


def test_same_for_any_batches_memory_and_shards():
    estimates, candidates, true = data(n=700, v=203, shape=(7, 11))
    words = np.arange(203) % 40
    options = dict(candidate_words=words, negatives=150)
    base = retrieval(estimates, candidates, np.arange(203), true, **options)
    order = np.random.default_rng(1).permutation(700)
    versions = [
        retrieval([estimates[i:i + 13] for i in range(0, 700, 13)], candidates, np.arange(203), true, **options),
        retrieval(torch.from_numpy(estimates), torch.from_numpy(candidates), torch.arange(203), true, **options),
        retrieval(estimates, candidates, np.arange(203), true, max_bytes=1, **options),
        retrieval(estimates[order], candidates, np.arange(203), true[order], segment=order, **options),
        Retrieval.merge([retrieval(estimates[i::3], candidates, np.arange(203), true[i::3],
                                   segment=np.arange(700)[i::3], **options) for i in range(3)])]
    for other in versions:
        assert np.array_equal(base.segment, other.segment)
        assert np.array_equal(base.own, other.own) and np.array_equal(base.best, other.best)
        for name, values in base.values.items():
            assert np.allclose(values, other.values[name], rtol=1e-5, atol=1e-6), name
            if name.startswith(("rank", "top")):
                assert np.array_equal(values, other.values[name]), name


def test_merge_counts_a_segment_once():
    estimates, candidates, true = data(10, 7)
    result = retrieval(estimates, candidates, np.arange(7), true)
    assert Retrieval.merge([result, result]).summary() == result.summary()
    with pytest.raises(ValueError, match="different candidates"):
        Retrieval.merge([result, retrieval(estimates, candidates, np.arange(7), true, description="other")])


def test_constant_estimates_are_at_chance():
    _, candidates, true = data(50, 20)
    summary = retrieval(np.zeros((50, 3, 5), np.float32), candidates, np.arange(20), true).summary()
    for k in (1, 5, 10):
        assert summary[f"top{k}"] == pytest.approx(k / 20) == summary[f"top{k}_chance"]
    assert summary["median_rank"] == 10.5 and summary["mrr"] == pytest.approx(sum(1 / np.arange(1, 21)) / 20)


@pytest.mark.parametrize("v", [5, 130, 200])
def test_equal_candidates_with_other_ids_are_tied(v):
    estimates, candidates, true = data(20, v, (6, 50), signal=5.0)
    both = np.concatenate([candidates, candidates])
    values = retrieval(estimates, both, np.arange(2 * v), true, max_bytes=200_000).values
    assert np.all(values["rank"] == 1.5) and np.all(values["top1"] == 0.5) and np.all(values["top5"] == 1)


def test_bad_estimates_are_failures():
    estimates, candidates, true = data(20, 9, signal=9.0)
    estimates[3, 0, 0], estimates[5, 1, 1] = np.nan, np.inf
    result = retrieval(estimates, candidates, np.arange(9), true, candidate_words=np.arange(9))
    assert result.summary()["n_nan"] == 2
    for i in (3, 5):
        assert result.values["rank"][i] == 9 and result.values["reciprocal"][i] == pytest.approx(1 / 9)
        assert not any(result.values[k][i] for k in ("top1", "top10", "word_top10", "vocab_top10", "word_probability"))
    assert result.summary()["top1"] == pytest.approx(0.9)
    candidates[0, 0, 0] = np.nan
    with pytest.raises(ValueError, match="candidates 0 to 8 have NaN"):
        retrieval(estimates, candidates, np.arange(9), true)


def test_duplicates_are_merged():
    """Every estimate brings its own target: candidates are the first one of each id, and the own one counts once."""
    estimates, candidates, true = data(100, 12)
    ids = np.random.default_rng(3).permutation(1000)[:12][true]
    assert np.array_equal(candidates[locate(ids, unique_candidates(ids)[0])].shape, estimates.shape)
    unique, first = unique_candidates(ids)
    assert [list(ids).index(i) for i in unique] == list(first) == sorted(first)
    result = retrieval(estimates, candidates[true], ids, ids)
    same = retrieval(estimates, candidates[true][first], unique, ids)
    assert result.n_candidates == 12 and np.array_equal(result.values["rank"], same.values["rank"])
    with pytest.raises(KeyError, match="1 of 1 estimates .* id -5"):
        retrieval(estimates[:1], candidates[true], ids, [-5])


@pytest.mark.parametrize("negatives", [None, 20])
def test_words(negatives):
    estimates, candidates, true = data(40, 30)
    words = np.random.default_rng(2).integers(12, size=30)
    result = retrieval(estimates, candidates, np.arange(30), true, candidate_words=words, word_k=3, negatives=negatives)
    scores = torch.cat([s for s, _ in score_blocks(estimates, candidates)]).double().numpy()
    drawn = np.random.default_rng(0).permutation(30)[:negatives]
    for i in range(40):
        chosen = list(drawn) if true[i] in drawn else [*drawn[:-1], true[i]]
        assert len(chosen) == (negatives or 30)
        p = np.exp(scores[i, chosen] - scores[i].max())
        p /= p.sum()
        by_word = {w: p[words[chosen] == w].sum() for w in set(words[chosen])}
        best = np.array(chosen)[np.argsort(-p)[:3]]
        assert result.values["word_top3"][i] == (words[true[i]] in words[best])
        ranked = sorted(by_word, key=by_word.get, reverse=True)
        assert result.values["vocab_top3"][i] == (words[true[i]] in ranked[:3])
        assert result.values["word_probability"][i] == pytest.approx(by_word[words[true[i]]])
    summary = result.summary()
    assert summary["wer"] == pytest.approx(1 - result.values["word_top3"].mean())
    assert summary["soft_wer"] == pytest.approx(1 - result.values["word_probability"].mean())


def test_best_are_in_order_of_score():
    """As places among the sorted ids, whatever the order of the candidates."""
    estimates, candidates, true = data(20, 15)
    estimates[2] = np.nan
    ids = np.random.default_rng(1).permutation(1000)[:15]
    result = retrieval(estimates, candidates, ids, ids[true], ks=(1, 4))
    order = np.argsort(ids)
    scores = torch.cat([s for s, _ in score_blocks(estimates, candidates)])[:, order].numpy()
    assert np.array_equal(np.sort(ids)[result.own], ids[true]) and (result.best[2] == -1).all()
    rest = np.arange(20) != 2
    assert np.array_equal(result.best[rest], np.argsort(-scores[rest], axis=1)[:, :4])
    assert retrieval(estimates, candidates, ids, ids[true], ks=(40,)).best.shape == (20, 15)


@pytest.mark.parametrize("negatives", [None, 20])
def test_words_change_nothing_they_are_given(negatives):
    """Q50: neither estimates nor candidates nor words; none of the negatives is lost, and 0 is no way to say all."""
    estimates, candidates, true = data(40, 30)
    given = [estimates, candidates, np.arange(30) % 12]
    before = [array.copy() for array in given]
    once, twice = (retrieval(given[0], given[1], np.arange(30), true, candidate_words=given[2], negatives=negatives)
                   for _ in range(2))
    assert all(np.array_equal(a, b) for a, b in zip(given, before, strict=True))
    assert all(np.array_equal(once.values[name], twice.values[name]) for name in once.values)
    with pytest.raises(ValueError, match="negatives must be positive, or null"):
        retrieval(estimates, candidates, np.arange(30), true, candidate_words=given[2], negatives=0)


def test_memory_mapped_arrays_and_loss(tmp_path):
    estimates, candidates, true = data(150, 30)
    maps = []
    for name, array in [("e", estimates), ("c", candidates)]:
        np.save(tmp_path / f"{name}.npy", array)
        maps.append(np.load(tmp_path / f"{name}.npy", mmap_mode="r"))
    plain = retrieval(estimates, candidates, np.arange(30), true)
    assert np.array_equal(retrieval(*maps, np.arange(30), true).values["rank"], plain.values["rank"])
    loss = ClipLoss(pool=True)
    with pytest.raises(ValueError, match="training mode"):
        retrieval(estimates, candidates, np.arange(30), true, loss=loss)
    pooled = retrieval(estimates, candidates, np.arange(30), true, loss=loss.eval())
    means = retrieval(estimates.mean(2, keepdims=True), candidates.mean(2, keepdims=True), np.arange(30), true)
    assert np.allclose(pooled.values["rank"], means.values["rank"])


def test_errors():
    estimates, candidates, true = data(10, 7)
    with pytest.raises(ValueError, match="for 9 estimates"):
        retrieval(estimates[:9], candidates, np.arange(7), true)
    with pytest.raises(ValueError, match="for more estimates"):
        retrieval(estimates, candidates, np.arange(7), true[:9])
    with pytest.raises(ValueError, match="7 candidates have 6 ids"):
        retrieval(estimates, candidates, np.arange(6), np.zeros(10))
    with pytest.raises(ValueError, match="distinct ids"):
        retrieval(estimates, candidates, np.arange(7), true, segment=np.zeros(10))
    with pytest.raises(ValueError, match="must be positive"):
        retrieval(estimates, candidates, np.arange(7), true, ks=(0,))


def test_without_information():
    """Random estimates fall inside the binomial interval about as often as they should."""
    inside = {1: 0, 5: 0, 10: 0}
    for seed in range(200):
        estimates, candidates, true = data(400, 50, (4, 5), seed, signal=0.0)
        result = retrieval(estimates, candidates, np.arange(50), true)
        for k in inside:
            low, high = binomial_interval(result.chance(k), 400)
            inside[k] += low <= result.values[f"top{k}"].mean() <= high
    assert all(180 <= count <= 198 for count in inside.values()), inside


def test_blocks_respect_the_budget():
    estimates, candidates, _ = data(2000, 300, (4, 50))
    for budget in (1, 400_000, 2 ** 23):
        blocks = [scores for scores, _ in score_blocks(estimates, candidates, max_bytes=budget)]
        assert sum(map(len, blocks)) == 2000
        assert max(map(len, blocks)) <= max(ROWS, budget // 2 // (4 * 200 + 40 * 300))
