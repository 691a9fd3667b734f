"""The front matter of a model card: what the Hub's search, filters and result tables read."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import yaml
from huggingface_hub import EvalResult, ModelCard

from st_cluster_batches.batches.card_block import choose_tags
from st_cluster_batches.publishing.contents import CardContents
from st_cluster_batches.publishing.licences import find_identifier
from st_cluster_batches.training.folder import HUB_ID

_METRIC = ("information-retrieval", "ndcg_at_10", "nDCG@10")  # type of task, type and name of the metric


@dataclass(frozen=True)
class Description:
    """What only the author of a model can say of it.

    Args:
        license: Identifier of the licence, as the Hub has it.
        language: Codes of the languages.
        datasets: Hub ids of the training data, in place of those of the recipe.
        base_model: Hub id of the model that training started from, in place of that of the recipe.
        include_samples: Whether the card may show training rows.
    """

    license: str | None = None
    language: Sequence[str] = ()
    datasets: Sequence[str] = ()
    base_model: str | None = None
    include_samples: bool = False


def check_front_matter(text: str, where: str) -> None:
    """Check that the front matter of a card can be read.

    Args:
        text: The card.
        where: Which one it is, as a message names it.

    Raises:
        ValueError: If it cannot; with the line.
    """
    found = re.match(r"\ufeff?---[ \t]*\r?\n(.*?)\r?\n---", text, re.DOTALL)
    try:
        values = yaml.safe_load(found[1]) if found else {}
    except yaml.YAMLError as error:
        mark = getattr(error, "problem_mark", None)
        line = f", line {mark.line + 2}" if mark else ""
        raise ValueError(
            f"{where}{line}: the front matter is no YAML ({getattr(error, 'problem', error)}); mend the line, or "
            "quote its value"
        ) from error
    if not isinstance(values, dict | None):
        raise ValueError(
            f"{where}, line 2: the front matter must hold `key: value` lines, not a {type(values).__name__}"
        )


def fill_front_matter(card: ModelCard, contents: CardContents, about: Description) -> None:
    """Fill in the keys that the Hub's search and its result tables read; others stay as they are.

    Args:
        card: The card, whose title names the model.
        contents: What is known of the model.
        about: What its author says of it.
    """
    data: Any = card.data
    data.library_name = "sentence-transformers"
    tags = [] if data.tags is None else list(data.tags)
    wanted = ["sentence-transformers", *choose_tags(contents.strategy)]
    data.tags = [*tags, *(tag for tag in wanted if tag not in tags)]
    if about.license:
        data.license = find_identifier(about.license)  # what the card says itself stays: the Hub knows newer ones too
    if about.language:
        data.language = list(about.language)
    given = contents.recipe.get("train_data", [])
    named = [given] if isinstance(given, str) else given
    if datasets := about.datasets or [one for one in named if HUB_ID.fullmatch(one)]:
        data.datasets = list(datasets)
    base = about.base_model or (None if contents.setting("static_dim") else contents.setting("model_name_or_path"))
    if base and (about.base_model or HUB_ID.fullmatch(base)):
        data.base_model = base
    if not about.include_samples and "widget" in data:
        data.pop("widget")
    # Ours from before, which a model keeps that is loaded of a published one, are of other weights.
    kept = [one for one in data.eval_results or [] if not _is_own(one)]
    if data.eval_results and not kept and contents.scores is None:
        data.model_name = None
    data.eval_results = kept or None
    if contents.scores is not None:
        _append_results(card, contents)


def _append_results(card: ModelCard, contents: CardContents) -> None:
    """Append our results to `model-index`; those of the trainer's evaluators stay as they are."""
    assert contents.scores is not None
    title = re.search(r"^# (.+)$", card.text, re.MULTILINE)
    data: Any = card.data
    data.model_name = data.model_name or (title[1] if title else "SentenceTransformer")
    results = [
        EvalResult(
            task_type=_METRIC[0],
            task_name="Information Retrieval",
            # The Hub treats results of the same dataset_type as results on the same data.
            dataset_type=re.sub(r"[^\w.-]+", "-", task),
            dataset_name=f"{task} (held out of the training data)" if task in contents.scores.held_out else task,
            metric_type=_METRIC[1],
            metric_name=_METRIC[2],
            metric_value=round(one["ndcg_at_10"], 5),
        )
        for task, one in contents.scores.summary.items()
    ]
    data.eval_results = [*(data.eval_results or []), *results]


def _is_own(result: EvalResult) -> bool:
    """Return whether a result of `model-index` is one that an earlier build put there."""
    return (result.task_type, result.metric_type, result.metric_name) == _METRIC
