from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from datasets import Dataset
from examples import make_pairs, make_static_model
from huggingface_hub import ModelCard
from sentence_transformers import SentenceTransformer
from transformers import BertForMaskedLM

from st_cluster_batches import attach_clusters
from st_cluster_batches.clusters.attach import cluster_dataset
from st_cluster_batches.clusters.options import AttachOptions
from st_cluster_batches.clusters.output import write_output
from st_cluster_batches.storage.cache import default_cache_dir
from st_cluster_batches.training.arguments import ModelArguments
from st_cluster_batches.training.models import build_loss, load_model
from st_cluster_batches.training.recipe import read_recipe
from st_cluster_batches.training.run import build_trainer, prepare_run
from st_cluster_batches.training.trainer_arguments import TrainingArguments


def test_a_truncated_transformer_is_its_first_layers(tiny_bert: Path) -> None:
    whole, short = (load_model(ModelArguments(str(tiny_bert), num_hidden_layers=n), 0) for n in (2, 1))
    assert len(short[0].auto_model.encoder.layer) == short[0].auto_model.config.num_hidden_layers == 1
    inputs = whole.preprocess(["soup salt oven"])
    with torch.no_grad():
        layers = [
            model[0]
            .auto_model(
                **{key: value for key, value in inputs.items() if torch.is_tensor(value)}, output_hidden_states=True
            )
            .hidden_states
            for model in (whole.eval(), short.eval())
        ]
    assert torch.equal(layers[0][1], layers[1][1]) and not torch.equal(layers[0][2], layers[1][1])


def test_a_truncated_model_is_saved_truncated(tiny_bert: Path, tmp_path: Path) -> None:
    model = load_model(ModelArguments(str(tiny_bert), num_hidden_layers=1), 0).eval()
    model.save(str(tmp_path / "short"))
    again = SentenceTransformer(str(tmp_path / "short"))
    assert (again.encode(["soup"]) == model.encode(["soup"])).all()


def test_pooling_is_as_asked(tiny_bert: Path) -> None:
    model = load_model(ModelArguments(str(tiny_bert), pooling="cls"), 0).eval()
    tokens = model.encode(["soup salt"], output_value="token_embeddings")[0]
    assert torch.allclose(torch.as_tensor(model.encode(["soup salt"])[0]), tokens[0].cpu(), atol=1e-6)


def test_attention_is_computed_as_asked(tiny_bert: Path) -> None:
    models = [
        load_model(ModelArguments(str(tiny_bert), attn_implementation=one), 0).eval() for one in ("eager", "sdpa")
    ]
    assert [model[0].auto_model.config._attn_implementation for model in models] == ["eager", "sdpa"]
    eager, fused = (model.encode(["soup salt oven", "soup"]) for model in models)
    assert np.allclose(eager, fused, atol=1e-5)


def test_a_static_model_is_a_function_of_its_seed(saved_model: Path) -> None:
    first, again, other = (
        load_model(ModelArguments(str(saved_model), static_dim=8), seed).encode(["soup"]) for seed in (0, 0, 1)
    )
    assert (first == again).all() and (first != other).any() and first.shape == (1, 8)


def test_a_new_static_model_shows_no_training_rows_as_examples(
    saved_model: Path, labelled: Dataset, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    model = load_model(ModelArguments(str(saved_model), static_dim=8), 0)
    build_trainer(model, labelled, TrainingArguments(str(tmp_path / "run"), use_cpu=True))
    assert model.model_card_data.widget == [] and "widget" not in capsys.readouterr().err
    model.save(str(tmp_path / "model"))
    assert "widget" not in ModelCard.load(tmp_path / "model" / "README.md").data


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"num_hidden_layers": 1}, "whose depth is None"),
        ({"max_seq_length": 2}, "which reads texts of any length"),
        ({"pooling": "cls"}, "has no pooling"),
        ({"attn_implementation": "eager"}, "which has no transformer"),
        ({"loss": "splade"}, "needs a masked language model"),
    ],
)
def test_what_a_model_does_not_have_is_refused(
    tiny_bert: Path, saved_model: Path, options: dict[str, object], message: str
) -> None:
    with pytest.raises(ValueError, match=message):
        load_model(ModelArguments(str(tiny_bert if "loss" in options else saved_model), **options), 0)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"loss": "gist"}, "needs a guide_model"),
        ({"guide_model": "y"}, "means nothing to loss='mnrl', only to gist, cached_gist, guided"),
        ({"margin": 0.1}, "margin=0.1 means nothing to loss='mnrl'"),
        ({"loss": "guided", "contrast_anchors": True}, "means nothing to loss='guided'"),
        ({"loss": "gist", "guide_model": "y", "teacher_weight": 0.1}, "means nothing to loss='gist'"),
        ({"loss": "splade", "directions": ["query_to_doc", "doc_to_doc"]}, "means nothing to loss='splade'"),
        ({"loss": "guided", "margin_strategy": "relative"}, "must be positive"),
        ({"loss": "guided", "teacher_scale": 5.0}, "teacher_scale=5 means nothing with teacher_weight=0"),
        ({"loss": "guided", "teacher_weight": -0.1}, "must not be negative"),
        ({"hardness_strength": 2.0}, "hardness_strength=2 means nothing without a hardness_mode"),
    ],
)
def test_an_option_that_its_loss_does_not_read_is_refused(options: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        ModelArguments("x", **options)


def test_gist_differs_from_the_plain_loss_in_the_mask_alone(tiny_bert: Path) -> None:
    model = load_model(ModelArguments(str(tiny_bert)), 0)
    for margin, strategy, theirs in ((-0.1, "absolute", 0.1), (0.95, "relative", 0.05)):
        arguments = ModelArguments(
            "x", loss="gist", guide_model=str(tiny_bert), margin=margin, margin_strategy=strategy
        )
        config = build_loss(model, arguments).get_config_dict()
        assert config["margin"] == pytest.approx(theirs) and config["margin_strategy"] == strategy
        assert not config["contrast_anchors"] and not config["contrast_positives"]


def test_losses_of_cosines_have_one_scale_and_splade_that_of_dot_products(tiny_bert: Path) -> None:
    BertForMaskedLM.from_pretrained(tiny_bert).save_pretrained(tiny_bert)
    scales = {}
    for name in ("mnrl", "gist", "splade"):
        arguments = ModelArguments(str(tiny_bert), loss=name, guide_model=str(tiny_bert) if name == "gist" else None)
        loss = build_loss(load_model(arguments, 0), arguments)
        scales[name] = 1 / loss.temperature if name == "gist" else getattr(loss, "loss", loss).scale
    assert scales == {"mnrl": 20, "gist": pytest.approx(20), "splade": 1}


def test_the_distilled_model_of_a_recipe_is_kept_in_its_cache(
    workspace: Path, tiny_bert: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("st_cluster_batches.clusters.encoder._distil", lambda *_: make_static_model())
    prepare_run(read_recipe(workspace / "recipe.yaml", ["--model_name_or_path", f"static:{tiny_bert}"]))
    assert len(list((workspace / "cache").glob("static-*"))) == 1
    assert not default_cache_dir().exists()


@pytest.mark.parametrize("strategy", ["random", "source", "cluster"])
@pytest.mark.parametrize("loss", ["guided", "cached_guided"])
def test_a_recipe_trains_with_a_guide_whatever_fills_its_batches(
    workspace: Path, tiny_bert: Path, strategy: str, loss: str
) -> None:
    pairs = make_pairs(120).add_column("source", ["web"] * 120)
    pairs.to_parquet(str(workspace / "pairs.parquet"))
    words = ["--batch_sampler", strategy, "--loss", loss, "--encoder", str(workspace / "encoder")]
    words += ["--margin", "-0.1", "--teacher_weight", "0.1", "--directions", "query_to_doc", "doc_to_query"]
    recipe = read_recipe(workspace / "recipe.yaml", [*words, "--model_name_or_path", str(tiny_bert)])
    run, _ = prepare_run(recipe)
    run.train()
    assert 0 < run.trainer.loss.masked_share < 1


def test_a_recipe_names_the_model_that_guides(workspace: Path, tmp_path: Path) -> None:
    make_static_model(dimensions=24, seed=1).save(str(tmp_path / "strong"))
    words = ["--loss", "guided", "--guide_model", str(tmp_path / "strong"), "--encoder", str(workspace / "encoder")]
    run, _ = prepare_run(read_recipe(workspace / "recipe.yaml", words))
    assert run.trainer.loss.guide.encoder == "strong"
    run.train()
    attach_clusters(make_pairs(120), str(workspace / "encoder"), n_clusters=2, guide=True).save_to_disk(
        tmp_path / "labelled"
    )
    words += ["--train_data", str(tmp_path / "labelled"), "--output_dir", str(tmp_path / "other")]
    with pytest.raises(ValueError, match=r"guide_model: .* would decide nothing: attach them anew"):
        prepare_run(read_recipe(workspace / "recipe.yaml", words))


@pytest.mark.parametrize("loss", ["mnrl", "guided"])
def test_a_loss_that_no_static_model_takes_is_refused_before_any_work(workspace: Path, loss: str) -> None:
    make_static_model().save(str(workspace / "static"))
    words = ["--loss", f"cached_{loss}", "--model_name_or_path", str(workspace / "static")]
    with pytest.raises(ValueError, match=f"a static model embeds all of it at once; take loss: {loss}"):
        prepare_run(read_recipe(workspace / "recipe.yaml", words))


@pytest.mark.parametrize("options", [{}, {"static_dim": 8}, {"loss": "splade"}])
def test_a_model_that_is_nowhere_is_named(options: dict[str, Any]) -> None:
    with pytest.raises(FileNotFoundError, match="nobody/nothing is neither a folder here nor a model"):
        load_model(ModelArguments("nobody/nothing", **options), 0)


def test_labelled_pairs_without_row_keys_cannot_guide(workspace: Path) -> None:
    attach_clusters(make_pairs(120), str(workspace / "encoder"), n_clusters=2).to_parquet(
        str(workspace / "pairs.parquet")
    )
    with pytest.raises(ValueError, match=r"no row keys.*--guide"):
        prepare_run(read_recipe(workspace / "recipe.yaml", ["--loss", "guided"]))


def test_a_guide_that_knows_no_more_than_the_model_is_warned_of(
    workspace: Path, caplog: pytest.LogCaptureFixture
) -> None:
    strong, weak = workspace / "strong", workspace / "weak"
    pairs = make_pairs(400)
    # The strong model knows the words that tell two rows of a topic apart; to the weak one most are unknown.
    pairs = pairs.map(lambda row: {"passage": row["query"]})
    make_static_model(dimensions=32).save(str(strong))
    make_static_model(dimensions=2, seed=1).save(str(weak))
    pairs.to_parquet(str(workspace / "pairs.parquet"))
    recipe = workspace / "recipe.yaml"
    for model, guide, warning in (
        (strong, weak, "is weaker than"),
        (weak, strong, None),
        (strong, strong, "knows no more"),
    ):
        caplog.clear()
        words = ["--loss", "guided", "--encoder", str(guide), "--model_name_or_path", str(model)]
        with caplog.at_level("INFO"):
            prepare_run(read_recipe(recipe, words))
        assert [one for one in ("is weaker than", "knows no more") if f"The guide {one}" in caplog.text] == [
            one for one in (warning,) if one
        ]
        assert "The guide ranks the passages of all: nDCG@10" in caplog.text
    # Pairs that were attached before bring along what their guide is worth.
    write_output(workspace / "out", *cluster_dataset(pairs, str(weak), AttachOptions(guide=True)))
    caplog.clear()
    recipe.write_text(recipe.read_text().replace("n_clusters: 3\n", ""))
    words = ["--loss", "guided", "--train_data", str(workspace / "out"), "--model_name_or_path", str(strong)]
    prepare_run(read_recipe(recipe, words))
    assert "The guide is weaker than the model" in caplog.text
