from __future__ import annotations

from pathlib import Path

import pytest
import torch
from datasets import Dataset
from huggingface_hub import ModelCard
from sentence_transformers import SentenceTransformer

from st_cluster_batches.training.arguments import ModelArguments, TrainingArguments
from st_cluster_batches.training.models import load_model
from st_cluster_batches.training.run import build_trainer


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
        ({"pooling": "cls"}, "has no pooling"),
        ({"loss": "splade"}, "needs a masked language model"),
    ],
)
def test_what_a_model_does_not_have_is_refused(
    tiny_bert: Path, saved_model: Path, options: dict[str, object], message: str
) -> None:
    with pytest.raises(ValueError, match=message):
        load_model(ModelArguments(str(tiny_bert if "loss" in options else saved_model), **options), 0)


def test_gist_needs_a_guide_and_no_other_loss_takes_one() -> None:
    with pytest.raises(ValueError, match="need a guide_model"):
        ModelArguments("x", loss="gist")
    with pytest.raises(ValueError, match="no other loss takes one"):
        ModelArguments("x", guide_model="y")
