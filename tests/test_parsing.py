"""The command line and the functions of Python take the same options by the same defaults."""

from __future__ import annotations

import argparse
from collections.abc import Callable
from inspect import Parameter, signature
from typing import Any, get_args

import pytest

import st_cluster_batches
from st_cluster_batches.clusters.choice import METHODS
from st_cluster_batches.data.collection import Judging
from st_cluster_batches.data.loading import Selection
from st_cluster_batches.data.pairs import KEYS
from st_cluster_batches.evaluation.retrieval import evaluate
from st_cluster_batches.evaluation.start import Proxy
from st_cluster_batches.parsing import build_parser


def list_options(command: str) -> dict[str, argparse.Action]:
    """List what a command takes, by name."""
    (commands,) = [one for one in build_parser()._actions if one.dest == "command"]
    return {one.dest: one for one in commands.choices[command]._actions}


@pytest.mark.parametrize(
    ("command", "functions", "others"),
    [
        # Of the command line only: a choice is of one batch size, and of one key unless several are named.
        ("tune", [st_cluster_batches.tune, Selection], {"key": ["query"]}),
        ("attach", [st_cluster_batches.attach_clusters, Selection], {}),
        ("inspect", [st_cluster_batches.inspect, Selection], {}),
        ("evaluate", [evaluate, Judging], {}),
    ],
)
def test_a_command_has_the_defaults_of_its_function(
    command: str, functions: list[Callable[..., Any]], others: dict[str, Any]
) -> None:
    options = list_options(command)
    defaults = {
        name: one.default
        for function in functions
        for name, one in signature(function).parameters.items()
        if name in options and one.default is not Parameter.empty
    }
    assert len(defaults) > 2
    assert {name: options[name].default for name in defaults} == {
        name: others.get(name, default) for name, default in defaults.items()
    }


def test_a_command_offers_what_its_function_takes() -> None:
    for command in ("attach", "inspect", "tune"):
        assert tuple(list_options(command)["key"].choices or ()) == KEYS
    assert tuple(list_options("attach")["method"].choices or ()) == METHODS
    assert tuple(list_options("tune")["proxy"].choices or ()) == get_args(Proxy)
