from __future__ import annotations

import numpy as np
import pytest

from st_cluster_batches.evaluation.significance import bootstrap_difference, correct_p_values


def draw(mean: float, seed_noise: float, n_seeds: int = 6, n_queries: int = 200, seed: int = 0) -> np.ndarray:
    """Draw differences with an effect of the seed and one of the query."""
    rng = np.random.default_rng(seed)
    return mean + rng.normal(0, seed_noise, (n_seeds, 1)) + rng.normal(0, 0.1, (1, n_queries)) + np.zeros((1, 1))


def test_a_clear_difference_is_found_and_none_is_not() -> None:
    clear = bootstrap_difference([draw(0.05, 0.005)])
    assert clear.low < 0.05 < clear.high and clear.low > 0 and clear.p_value < 0.001
    none = bootstrap_difference([draw(0.0, 0.02)])
    assert none.low < 0 < none.high and none.p_value > 0.05


def test_noise_between_seeds_widens_the_interval() -> None:
    widths = [one.high - one.low for one in (bootstrap_difference([draw(0.05, noise)]) for noise in (0, 0.1))]
    assert widths[1] > 2 * widths[0]


def test_standard_error_is_that_of_both_ways_of_drawing() -> None:
    # Means of 6 seeds and of 200 queries are independent, so their variances add.
    differences = draw(0.0, 0.05)
    found = bootstrap_difference([differences])
    error = np.sqrt(differences.mean(axis=1).var() / 6 + differences.mean(axis=0).var() / 200)
    assert (found.high - found.low) / (2 * 1.96) == pytest.approx(error, rel=0.1)


def test_collections_count_alike_whatever_their_size() -> None:
    small, large = np.full((3, 2), 0.3), np.full((3, 100), 0.1)
    assert bootstrap_difference([small, large]).mean == pytest.approx(0.2)


def test_one_seed_or_one_query_is_no_error() -> None:
    assert bootstrap_difference([draw(0.05, 0, n_seeds=1)]).low > 0
    assert bootstrap_difference([np.full((3, 1), 0.2), np.full((3, 5), 0.2)]).high == pytest.approx(0.2)


def test_the_same_scores_give_the_same_interval() -> None:
    assert bootstrap_difference([draw(0.01, 0.01)]) == bootstrap_difference([draw(0.01, 0.01)])


def test_p_values_are_corrected_for_their_number() -> None:
    assert correct_p_values([0.01, 0.5, 0.5, 0.5]) == pytest.approx([0.04, 0.5, 0.5, 0.5])
    assert correct_p_values([0.03]) == [0.03]
