"""What tells one embedding model from another: weights, tokenizer, and settings."""

from __future__ import annotations

import hashlib
import json
from typing import TYPE_CHECKING, Any

import torch

if TYPE_CHECKING:
    from sentence_transformers import SentenceTransformer


def fingerprint_model(model: SentenceTransformer, truncate_dim: int | None = None) -> str:
    """Hash what decides a model's embeddings, so that neither vectors nor scores of another model are taken for its.

    Args:
        model: Any SentenceTransformer.
        truncate_dim: Truncation, if other than the model's own.

    Returns:
        Hexadecimal SHA-256 of weights, tokenizer, settings of the modules, adapters, prompts, similarity, maximal
        length and truncation.
    """
    state = hashlib.sha256()
    # The dtype counts: bfloat16 moves a vector by 1e-2. The device does not: a GPU's arithmetic moves it by 1e-6 in
    # float32, less than the float16 on disk keeps, and a clustering made there has to be one that a CPU can load.
    for name, tensor in sorted(model.state_dict().items()):
        state.update(f"{name} {tensor.dtype} {tuple(tensor.shape)}".encode())
        # As bytes, since numpy knows no bfloat16.
        state.update(tensor.detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy().data)
    settings = {
        "modules": [str(module) for module in model],
        "configs": [
            (name, module.get_config_dict())
            for name, module in model.named_modules()
            if hasattr(module, "get_config_dict")
        ],
        "tokenizer": _describe_tokenizer(getattr(model, "tokenizer", None)),
        "prompts": model.prompts,
        "default_prompt_name": model.default_prompt_name,
        "similarity": str(model.similarity_fn_name),
        "max_seq_length": model.max_seq_length,
        # What truncates a dense model; a sparse one keeps its largest dimensions.
        "truncate_dim": truncate_dim or getattr(model, "truncate_dim", getattr(model, "max_active_dims", None)),
    }
    if adapters := _describe_adapters(model):  # absent without PEFT, so that such models keep the hashes they had
        settings["adapters"] = adapters
    state.update(json.dumps(settings, sort_keys=True, default=str).encode())
    return state.hexdigest()


def _describe_adapters(model: SentenceTransformer) -> list[tuple[Any, ...]]:
    """Return, by module, which PEFT adapters are on and by what their weights are scaled: neither is a weight."""
    return [
        (name, module.disable_adapters, module.active_adapters, getattr(module, "scaling", None))
        for name, module in model.named_modules()
        # A flag of PEFT's layers; whole models of transformers have a method of this name.
        if isinstance(getattr(module, "disable_adapters", None), bool)
    ]


def _describe_tokenizer(tokenizer: Any) -> dict[str, Any]:
    """Return what decides the tokens of a text, but for the padding and truncation that every `encode` sets anew."""
    backend = getattr(tokenizer, "backend_tokenizer", tokenizer)
    described = {name: getattr(tokenizer, name, None) for name in ("truncation_side", "padding_side", "do_lower_case")}
    if hasattr(backend, "to_str"):
        content = json.loads(backend.to_str())
        described["content"] = {key: one for key, one in content.items() if key not in ("truncation", "padding")}
    elif hasattr(tokenizer, "get_vocab"):
        described["content"] = [type(tokenizer).__name__, sorted(tokenizer.get_vocab().items())]
    return described
