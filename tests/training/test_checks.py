"""What only model, pairs and options together show is refused before anything is embedded."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from datasets import DatasetDict
from examples import make_pairs, make_static_model
from sentence_transformers import SentenceTransformer
from sentence_transformers.sentence_transformer.modules import Router

from st_cluster_batches.evaluation.comparison import compare
from st_cluster_batches.training.checks import check_pairs
from st_cluster_batches.training.recipe import read_recipe
from st_cluster_batches.training.run import prepare_run

_FAULTS = [
    ("--num_hidden_layers 1", "num_hidden_layers=1 does not fit the model"),
    ("--pooling cls", "has no pooling"),
    ("--learning_rate_mapping {'router':1e-3}", "'router' fits the name of no parameter"),
    ("--prompts {'question':'q:'}", "'question' is none of passage, query"),
    ("--router_mapping {'querry':'query'}", "router_mapping: 'querry' is none of passage, query"),
    ("--router_mapping {'query':'query'}", "decides nothing: the model has no Router"),
    ("--source_alpha 0.5", "is for several datasets"),
    ("--report_to swanlab", "report_to=.*swanlab.* cannot be made by the trainer: .*pip install swanlab"),
    ("--optim lomo", "optim=lomo, optim_args=None cannot be made by the trainer: .*pip install"),
    ("--lr_scheduler_kwargs {'foo':1}", "lr_scheduler_kwargs={'foo': 1} cannot be made by the trainer: .*'foo'"),
    ("--lr_scheduler_type warmup_stable_decay", "cannot be made by the trainer: .*num_decay_steps"),
]


@pytest.mark.parametrize(("words", "message"), _FAULTS, ids=[words.split()[0] for words, _ in _FAULTS])
def test_a_fault_that_the_model_shows_is_found_before_anything_is_embedded(
    workspace: Path, words: str, message: str
) -> None:
    given = words.replace("'", '"').split()
    with pytest.raises(ValueError, match=message):
        prepare_run(read_recipe(workspace / "recipe.yaml", given))
    with pytest.raises(ValueError, match=message):
        compare(workspace / "recipe.yaml", workspace / "compared", n_seeds=1, overrides=given)
    assert not [*(workspace / "cache").glob("clustering-*"), *(workspace / "cache").rglob("*.npy")]


@pytest.mark.parametrize("mapping", [{"query": "querry"}, {"query": "query", "passage": "passage"}])
def test_routes_that_a_router_has_not_are_refused_before_anything_is_embedded(
    workspace: Path, mapping: dict[str, str]
) -> None:
    paths = [make_static_model()[0]], [make_static_model(seed=1)[0]]
    SentenceTransformer(modules=[Router.for_query_document(*paths)]).save(str(workspace / "routed"))
    words = ["--model_name_or_path", str(workspace / "routed"), "--router_mapping"]
    (wrong,) = {*mapping.values()} - {"query"}
    with pytest.raises(ValueError, match=f"router_mapping: '{wrong}' is none of query, document"):
        prepare_run(read_recipe(workspace / "recipe.yaml", [*words, json.dumps(mapping)]))
    assert not [*(workspace / "cache").rglob("*.npy")]
    run, _ = prepare_run(read_recipe(workspace / "recipe.yaml", [*words, '{"query": "query", "passage": "document"}']))
    run.train()


@pytest.mark.parametrize(
    ("mapping", "fits"),
    [
        ({"query": "query"}, True),
        ({"a": {"query": "query"}, "b": {"passage": "document"}}, True),
        ({"a": "query"}, False),
        ({"a": {"query": "query"}, "passage": "document"}, False),
        ({"query": "query", "b": {"passage": "document"}}, False),
        ({"query": {"query": "query"}}, False),
    ],
)
def test_routes_are_by_column_or_by_dataset_and_not_by_both(
    workspace: Path, mapping: dict[str, Any], fits: bool
) -> None:
    recipe = read_recipe(workspace / "recipe.yaml", ["--router_mapping", json.dumps(mapping)])
    several = DatasetDict(a=make_pairs(40), b=make_pairs(40, 1))
    if fits:
        check_pairs(recipe, several)
        return
    with pytest.raises(ValueError, match="neither by column alone nor by dataset alone"):
        check_pairs(recipe, several)


def test_optimizers_schedules_and_rates_that_fit_train(workspace: Path) -> None:
    words = ["--optim", "sgd", "--lr_scheduler_type", "cosine_with_min_lr", "--lr_scheduler_kwargs"]
    words += ['{"min_lr_rate": 0.1}', "--learning_rate_mapping", '{"embedding": 0.01}']
    run, _ = prepare_run(read_recipe(workspace / "recipe.yaml", words))
    run.train()
    assert [*(workspace / "cache").glob("clustering-*")] and [*(workspace / "cache").rglob("*.npy")]
    assert {group["initial_lr"] for group in run.trainer.optimizer.param_groups if group["params"]} == {0.01}
