from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from st_cluster_batches.clusters.choice import Candidate
from st_cluster_batches.evaluation.candidates import Verdict, judge_sources, list_candidates
from st_cluster_batches.evaluation.significance import bootstrap_difference
from st_cluster_batches.evaluation.tune_options import TuneOptions

COARSE, FINE, MASKED = Candidate(320), Candidate(32), Candidate(None, True, 0.0)


def draw(gains: dict[Candidate, float], noise: float = 0.1, n_queries: int = 400) -> dict[Candidate, np.ndarray]:
    """Draw scores of three seeds: queries differ widely, candidates by their gain and some noise."""
    rng = np.random.default_rng(0)
    queries = rng.uniform(0, 1, n_queries)
    return {one: queries + gain + rng.normal(0, noise, (3, n_queries)) for one, gain in gains.items()}


def judge(scores: dict[Candidate, np.ndarray]) -> Verdict:
    """Judge the candidates of one source."""
    return judge_sources({"all": scores}, {"all": 1})["all"]


def test_sizes_are_multiples_of_the_batch() -> None:
    assert list_pure(16, 11_000) == [None, 1024, 320, 96, 32]
    assert list_pure(256, 11_000) == [None, 5120, 1536, 512, 128, 32]


def list_pure(batch_size: int, n_rows: int) -> list[int | None]:
    return [one.cluster_size for one in list_candidates(batch_size, n_rows) if one.rows_per_stratum is None]


@pytest.mark.parametrize(
    ("batch_size", "mixed"),
    [
        (8, None),
        (12, None),
        (16, Candidate(32, rows_per_stratum=8)),
        (20, Candidate(40, rows_per_stratum=10)),
        (23, None),
        (1000, Candidate(160, rows_per_stratum=40)),
        (1024, Candidate(128, rows_per_stratum=32)),
    ],
)
def test_batches_of_several_clusters_are_tried_where_they_fit(batch_size: int, mixed: Candidate | None) -> None:
    found = [one for one in list_candidates(batch_size, 50_000) if one.rows_per_stratum is not None]
    assert found == ([] if mixed is None else [mixed])
    assert all(one.rows_per_stratum is None for one in list_candidates(batch_size, 60))  # not of a single cluster


def test_all_sources_get_one_number_of_rows_of_a_cluster() -> None:
    mixed = Candidate(32, rows_per_stratum=8)
    gains = {
        "small": {FINE: 0.10, mixed: 0.05},
        "large": {FINE: -0.05, mixed: 0.08},
        "harmed": {FINE: -0.1, mixed: -0.1},
    }
    scores = {name: draw({Candidate(): 0, **own}) for name, own in gains.items()}
    chosen = {
        name: one.chosen for name, one in judge_sources(scores, {"small": 100, "large": 900, "harmed": 10}).items()
    }
    assert chosen == {"small": mixed, "large": mixed, "harmed": Candidate()}
    verdicts = judge_sources(scores, {"small": 900, "large": 100, "harmed": 10})
    assert verdicts["small"].chosen == FINE and verdicts["large"].chosen == Candidate()
    assert set(verdicts["large"].differences) == {FINE, mixed}
    assert "promises less for other sources" in verdicts["large"].why and "no candidate" in verdicts["harmed"].why
    several = judge_sources(scores, {"small": 100, "large": 900, "harmed": 10})["small"]
    assert "lower end" not in several.why and "several clusters promise most" in several.why


@pytest.mark.parametrize(("n_rows", "batch_size"), [(30, 16), (1000, 4096), (31, 2)])
def test_a_source_too_small_for_two_clusters_has_random_batches_alone(n_rows: int, batch_size: int) -> None:
    assert list_candidates(batch_size, n_rows) == [Candidate()]


def test_masks_are_tried_on_each_candidate_where_there_are_vectors() -> None:
    plain, both = list_candidates(16, 500), list_candidates(16, 500, 0.05)
    assert both == plain + [replace(one, masked=True, margin=0.05) for one in plain]


def test_a_clear_gain_is_taken() -> None:
    verdict = judge(draw({Candidate(): 0, COARSE: 0.05, FINE: 0.1}))
    assert verdict.chosen == FINE
    assert verdict.differences[FINE].mean == pytest.approx(0.1, abs=0.02)


def test_the_way_that_can_be_counted_on_most_is_taken() -> None:
    scores = draw({Candidate(): 0, COARSE: 0.05})
    unsure = np.random.default_rng(1).normal(0, 0.3, 400)
    verdict = judge({**scores, FINE: scores[COARSE] + 0.005 + unsure - unsure.mean()})
    assert verdict.differences[FINE].mean > verdict.differences[COARSE].mean and verdict.chosen == COARSE


def test_of_equal_ways_the_simpler_is_taken() -> None:
    scores = draw({Candidate(): 0, COARSE: 0.05})
    assert judge({**scores, FINE: scores[COARSE].copy()}).chosen == COARSE


def test_a_mask_has_to_beat_the_best_way_without_one() -> None:
    fine_masked = replace(FINE, masked=True)
    scores = draw({Candidate(): 0, COARSE: 0.05})
    unsure = np.random.default_rng(1).normal(0, 0.3, 400)
    hardly_better = scores[COARSE] + 0.005 + unsure - unsure.mean()
    assert judge({**scores, fine_masked: hardly_better}).chosen == COARSE
    assert judge({Candidate(): scores[Candidate()], fine_masked: hardly_better}).chosen == fine_masked
    assert judge(draw({Candidate(): 0, COARSE: 0.05, fine_masked: 0.1})).chosen == fine_masked
    assert judge(draw({Candidate(): 0, COARSE: -0.05, fine_masked: 0.05})).chosen == fine_masked


def test_harm_and_noise_leave_one_stratum() -> None:
    verdict = judge(draw({Candidate(): 0, COARSE: 0.0, FINE: -0.1, MASKED: 0.0}))
    assert verdict.chosen == Candidate() and "no candidate" in verdict.why


def test_noise_alone_chooses_a_way_once_in_five_at_most() -> None:
    rng = np.random.default_rng(0)
    sizes = [Candidate(size) for size in (1000, 300, 100, 32)]
    chosen = [judge({one: rng.normal(0.5, 0.3, (3, 200)) for one in [Candidate(), *sizes]}).chosen for _ in range(40)]
    assert sum(one != Candidate() for one in chosen) <= 8


def test_nine_to_one_is_enough() -> None:
    scores = draw({Candidate(): 0, FINE: 0})
    noise = scores[FINE] - scores[Candidate()]
    found = bootstrap_difference([noise])
    error = (found.high - found.low) / (2 * 1.96)
    for errors, chosen in ((1.0, Candidate()), (1.6, FINE)):  # 1.28 are nine to one, 1.96 an interval of 95 %
        assert judge({**scores, FINE: scores[FINE] - noise.mean() + errors * error}).chosen == chosen


def test_random_batches_alone_need_no_test() -> None:
    assert judge(draw({Candidate(): 0})).chosen == Candidate()


def test_communities_are_tried_where_they_are_asked_for() -> None:
    plain = list_candidates(16, 5000)
    assert {one.method for one in plain} == {"kmeans"}
    both = list_candidates(16, 5000, margin=0.0, has_communities=True)
    found = [one for one in both if one.method == "communities" and not one.masked]
    assert [(one.cluster_size, one.rows_per_stratum) for one in found] == [(96, None), (32, None), (32, 8)]
    assert len(both) == 2 * (len(plain) + 3)
    assert TuneOptions(16, communities=True).communities, "also without a guide"


def test_what_else_was_tried_does_not_take_a_gain_away() -> None:
    mixed = Candidate(32, rows_per_stratum=8)
    scores = draw({Candidate(): 0, **{Candidate(size): 0 for size in (1000, 320, 96, 48)}, mixed: 0.017})
    few = judge({one: scores[one] for one in (Candidate(), mixed)})
    many = judge(scores)
    assert few.chosen == many.chosen == mixed
    assert few.differences[mixed] == many.differences[mixed]
