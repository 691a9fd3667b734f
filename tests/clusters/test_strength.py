from __future__ import annotations

import logging

import pytest

from st_cluster_batches.clusters.strength import Strength, describe_strength, warn_of_weak_guide


@pytest.mark.parametrize(
    ("guide", "start", "queries", "said"),
    [
        (0.50, 0.53, 500, "is weaker than"),
        (0.50, 0.53, 60, "knows no more than"),  # within the noise of so few
        (0.50, 0.50, 500, "knows no more than"),
        (0.53, 0.50, 500, None),
        (0.10, 0.90, 12, None),  # tell nothing
    ],
)
def test_a_guide_is_judged_as_far_as_its_queries_tell(
    caplog: pytest.LogCaptureFixture, guide: float, start: float, queries: int, said: str | None
) -> None:
    with caplog.at_level(logging.WARNING):
        warn_of_weak_guide({"web": Strength(guide, queries, 900)}, {"web": Strength(start, queries, 900)})
    assert (said is None and not caplog.text) or (said is not None and f"The guide {said}" in caplog.text)


def test_many_sources_are_one_warning(caplog: pytest.LogCaptureFixture) -> None:
    same = {f"source {at}": Strength(0.5, 500, 900) for at in range(9)}
    warn_of_weak_guide(same, same)
    (warning,) = [one for one in caplog.records if one.levelno == logging.WARNING]
    assert all(f"{name!r}: " in warning.getMessage() for name in same)


def test_no_figure_is_shown_of_a_source_with_few_queries(caplog: pytest.LogCaptureFixture) -> None:
    strengths = {"web": Strength(0.5, 50, 900), "odd": Strength(1.0, 1, 1)}
    assert describe_strength(strengths) == [
        "The guide ranks the passages of web: nDCG@10 0.500 (50 queries among 900 passages)"
    ]
    with caplog.at_level(logging.INFO):
        warn_of_weak_guide(strengths, strengths)
    assert "passages of web" in caplog.text and "odd" not in caplog.text
