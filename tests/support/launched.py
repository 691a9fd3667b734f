"""A training script that tests start as real processes, alone or by a launcher. Not a test itself.

Usage: launched.py SPEC.json, where SPEC holds a list of runs. Every rank of a run appends one line to
`<output_dir>/<record>-<rank>.jsonl` for each forward pass: the completed steps, the rows whose loss is computed, and
the loss.
"""

from __future__ import annotations

import json
import os
import signal
import sys
from pathlib import Path
from typing import Any

import torch
from datasets import Dataset, DatasetDict, load_dataset
from examples import label_pairs, make_pairs, make_static_model
from sentence_transformers import SentenceTransformer, SentenceTransformerTrainer, SentenceTransformerTrainingArguments
from sentence_transformers.sentence_transformer import losses
from transformers import TrainerCallback

from st_cluster_batches import ClusterBatchSampler, ClusterMultiDatasetBatchSampler, Refresh

FIRST_EVALUATED = 10_000  # the number of the first row that is evaluated on

# Defaults of a run; whatever is not here goes to the trainer's arguments.
DEFAULTS: dict[str, Any] = {
    "records": True,
    "sizes": {"": 203},
    "first_row": 0,
    "eval_size": 0,
    "record": "rows",
    "model": None,
    "kill_at": None,
    "alpha": None,
    "sampler": {},
    "loss": "MultipleNegativesRankingLoss",
    "loss_options": {},
    "dict_of_losses": False,
    "stream": None,
    "resume": False,
}


def make_rows(n_rows: int, first: int) -> Dataset:
    """Make labelled pairs whose `label` is the row's number, with groups of one to three false negatives."""
    pairs = label_pairs(make_pairs(n_rows, seed=first)).remove_columns("false_negative_keys")
    rows = list(range(first, first + n_rows))
    keys = [[row // 3 if row % 5 == 0 else row] for row in rows]
    return pairs.add_column("false_negative_keys", keys).add_column("label", rows)


class RecordRows(torch.nn.Module):
    """Wraps a loss, and writes down the rows of each batch at the moment they are used."""

    def __init__(self, loss: torch.nn.Module, path: Path) -> None:
        super().__init__()
        # The trainer puts the model that synchronises gradients into losses that have a `model`.
        self.model, self.loss, self.path, self.state = loss.model, loss, path, None

    def forward(self, features: list[dict[str, torch.Tensor]], labels: torch.Tensor) -> torch.Tensor:
        value = self.loss(features, None)
        with self.path.open("a") as file:
            line = {"step": self.state.global_step, "rows": labels.tolist(), "loss": value.item()}
            file.write(json.dumps(line) + "\n")
        return value


class KillAtStep(TrainerCallback):
    def __init__(self, step: int) -> None:
        self.step = step

    def on_step_end(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        # The last rank dies, without a chance to clean up; the launcher ends the others.
        if state.global_step == self.step and int(os.environ.get("RANK", 0)) == args.world_size - 1:
            os.kill(os.getpid(), signal.SIGKILL)


def train(given: dict[str, Any]) -> None:
    options = {name: given.pop(name, default) for name, default in DEFAULTS.items()}
    output = Path(given["output_dir"])
    output.mkdir(parents=True, exist_ok=True)
    model = SentenceTransformer(options["model"]) if options["model"] else make_static_model(seed=1)
    if options["stream"]:
        dataset = load_dataset("parquet", data_files=options["stream"], streaming=True, split="train")
    else:
        first, parts = options["first_row"], {}
        for name, size in options["sizes"].items():
            parts[name] = make_rows(size, first)
            first += size
        dataset = DatasetDict(parts) if len(parts) > 1 else next(iter(parts.values()))
    if not options["records"]:
        dataset = dataset.remove_columns("label")
    if options["alpha"] is not None:
        given["multi_dataset_batch_sampler"] = ClusterMultiDatasetBatchSampler.configure(alpha=options["alpha"])
    schedule = options["sampler"].get("strata")
    if isinstance(schedule, dict):
        options["sampler"]["strata"] = {int(epoch): columns for epoch, columns in schedule.items()}
    if "refresh" in options["sampler"]:
        options["sampler"]["refresh"] = Refresh(**options["sampler"]["refresh"])
    arguments = SentenceTransformerTrainingArguments(
        **{
            "per_device_train_batch_size": 8,
            "num_train_epochs": 2,
            "report_to": "none",
            "save_strategy": "no",
            "logging_strategy": "no",
            "disable_tqdm": True,
            "use_cpu": True,
            "batch_sampler": ClusterBatchSampler.configure(**options["sampler"]),
            **given,
        }
    )
    path = output / f"{options['record']}-{os.environ.get('RANK', 0)}.jsonl"

    def make_loss() -> torch.nn.Module:
        made = getattr(losses, options["loss"])(model, **options["loss_options"])
        return RecordRows(made, path) if options["records"] else made

    loss: Any = {name: make_loss() for name in dataset} if options["dict_of_losses"] else make_loss()
    callbacks = [KillAtStep(options["kill_at"])] if options["kill_at"] else []
    evaluated = make_rows(options["eval_size"], FIRST_EVALUATED) if options["eval_size"] else None
    trainer = SentenceTransformerTrainer(
        model=model, args=arguments, train_dataset=dataset, eval_dataset=evaluated, loss=loss, callbacks=callbacks
    )
    recorded = [one for one in (loss.values() if isinstance(loss, dict) else [loss]) if isinstance(one, RecordRows)]
    for one in recorded:
        one.state = trainer.state

    class FollowState(TrainerCallback):
        # The trainer makes a new state when it starts.
        def on_train_begin(self, args: Any, state: Any, control: Any, **_: Any) -> None:
            for one in recorded:
                one.state = state

    trainer.add_callback(FollowState())
    trainer.train(resume_from_checkpoint=options["resume"] or None)
    if trainer.is_world_process_zero():
        torch.save(model.state_dict(), output / "weights.pt")


if __name__ == "__main__":
    for run in json.loads(Path(sys.argv[1]).read_text()):
        train(run)
    if torch.distributed.is_initialized():
        # Left to the interpreter's exit, or closed while another rank still works, gloo's threads now and then abort.
        torch.distributed.barrier()
        torch.distributed.destroy_process_group()
