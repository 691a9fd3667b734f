"""Every recipe in `recipes/` is parsed, its trainer built on a small stand-in for its data, and two steps taken."""

from __future__ import annotations

import math
import re
import shlex
from dataclasses import fields
from pathlib import Path

import pytest
import torch
import yaml
from accelerate.commands.config.config_args import load_config_from_file
from datasets import DatasetDict
from examples import make_pairs
from transformers import BertForMaskedLM

from st_cluster_batches.evaluation.variants import read_variants
from st_cluster_batches.parsing import build_parser
from st_cluster_batches.training.arguments import ModelArguments
from st_cluster_batches.training.recipe import read_recipe
from st_cluster_batches.training.run import prepare_run
from st_cluster_batches.training.trainer_arguments import TrainingArguments

ROOT = Path(__file__).parents[2]
RECIPES = sorted((ROOT / "recipes").glob("*/*/*.yaml"))
COMPARED = [path for path in RECIPES if "variants" in yaml.safe_load(path.read_text())]


def name_of(path: Path) -> str:
    return path.relative_to(ROOT / "recipes").as_posix()


def test_there_is_a_baseline_beside_every_method() -> None:
    for path in RECIPES:
        assert path in COMPARED or read_recipe(path, ["--bf16", "False"]).training.strategy == path.stem
        if path.stem == "cluster":
            assert path.with_name("random.yaml").exists()


def test_method_and_baseline_differ_in_nothing_but_who_shares_a_batch() -> None:
    for path in RECIPES:
        if path.stem == "cluster":
            ours, theirs = (yaml.safe_load(one.read_text()) for one in (path, path.with_name("random.yaml")))
            differing = {key for key in {**ours, **theirs} if ours.get(key) != theirs.get(key)}
            assert differing - {"rows_per_stratum"} == {"batch_sampler", "output_dir"}, path


@pytest.mark.parametrize("path", RECIPES, ids=name_of)
def test_recipe_builds_its_trainer_and_takes_two_steps(path: Path, tmp_path: Path, tiny_bert: Path) -> None:
    values = yaml.safe_load(path.read_text())
    pairs = make_pairs(160)
    for name in values["train_data"]:
        target = tmp_path / "data" / name
        target.parent.mkdir(parents=True, exist_ok=True)
        if target.suffix == ".parquet":
            pairs.to_parquet(str(target))
        elif name == "train":  # a folder of parquet files with a source column
            target.mkdir()
            pairs.add_column("source", ["a", "b"] * 80).to_parquet(str(target / "pairs.parquet"))
        else:
            DatasetDict(a=pairs.select(range(90)), b=pairs.select(range(90, 160))).save_to_disk(str(target))
    stand_in = {
        "data_dir": tmp_path / "data",
        "output_dir": tmp_path / "run",
        "cache_dir": tmp_path / "cache",
        "model_name_or_path": tiny_bert,
        "encoder": tiny_bert,
        "per_device_train_batch_size": 8,
        "max_steps": 2,
        "save_strategy": "no",
        "logging_steps": 1,
        "bf16": False,
        "use_cpu": True,
        "disable_tqdm": True,
    }
    if values.get("loss") == "splade":
        BertForMaskedLM.from_pretrained(tiny_bert).save_pretrained(tiny_bert)
    stand_in |= {key: tiny_bert for key in ("guide_model",) if key in values}
    stand_in |= {key: size for key, size in {"max_seq_length": 16, "mini_batch_size": 4}.items() if key in values}
    words = [word for key, value in stand_in.items() for word in (f"--{key}", str(value))]
    run, tasks = prepare_run(read_recipe(path, words))
    before = [weight.detach().clone() for weight in run.trainer.model.parameters()]
    run.trainer.train()
    assert run.trainer.state.global_step == 2
    assert all(math.isfinite(log["loss"]) for log in run.trainer.state.log_history if "loss" in log)
    after = list(run.trainer.model.parameters())
    assert any(not torch.equal(old, new) for old, new in zip(before, after, strict=True))
    assert tasks


@pytest.mark.parametrize("path", COMPARED, ids=name_of)
def test_variants_of_a_recipe_parse(path: Path) -> None:
    variants = read_variants(path)
    assert next(iter(variants.values())).training.strategy == "random"


@pytest.mark.parametrize("path", sorted((ROOT / "recipes" / "accelerate").glob("*.yaml")), ids=lambda path: path.stem)
def test_accelerate_reads_its_configuration(path: Path) -> None:
    config = load_config_from_file(str(path))
    assert config.num_processes >= 1
    if config.fsdp_config:
        assert config.fsdp_config["fsdp_version"] == 2


def test_commands_in_comments_and_documents_name_files_and_keys_that_exist() -> None:
    documents = [*RECIPES, *sorted((ROOT / "recipes").glob("*.md"))]
    keys = {one.name for kind in (ModelArguments, TrainingArguments) for one in fields(kind)}
    n_commands = 0
    for path in documents:
        for line in re.findall(r"^(?:#  +|)((?:accelerate launch|st-cluster-batches) .*)$", path.read_text(), re.M):
            words = shlex.split(line)
            n_commands += 1
            for word in words:
                if word.startswith("recipes/"):
                    assert (ROOT / word).exists(), f"{path}: {word}"
            own = words[words.index("st_cluster_batches" if words[0] == "accelerate" else "st-cluster-batches") + 1 :]
            _, rest = build_parser().parse_known_args(own)
            flags = {word[2:] for word in rest if word.startswith("--")}
            assert flags <= keys | {"data_dir", "train_data", "encoder", "cache_dir"}, f"{path}: {flags}"
    assert n_commands > len(RECIPES) // 2
