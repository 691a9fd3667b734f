"""Licences as people write them, and the identifiers that the Hub knows."""

from __future__ import annotations

import re
from difflib import get_close_matches

# https://huggingface.co/docs/hub/repositories-licenses: all 69 of its text in huggingface/hub-docs as of 008d54d. The
# thirteen that came later (apple-*, eupl-1.2, fair-noncommercial-research-license, grok2-community, h-research,
# intel-research, llama3*, llama4, openmdw-1.0) were not checked: huggingface_hub has no list.
_IDENTIFIERS = frozenset(
    """
    afl-3.0 agpl-3.0 apache-2.0 apple-amlr apple-ascl artistic-2.0 bigcode-openrail-m bigscience-bloom-rail-1.0
    bigscience-openrail-m bsd bsd-2-clause bsd-3-clause bsd-3-clause-clear bsl-1.0 c-uda cc cc-by-2.0 cc-by-2.5
    cc-by-3.0 cc-by-4.0 cc-by-nc-2.0 cc-by-nc-3.0 cc-by-nc-4.0 cc-by-nc-nd-3.0 cc-by-nc-nd-4.0 cc-by-nc-sa-2.0
    cc-by-nc-sa-3.0 cc-by-nc-sa-4.0 cc-by-nd-4.0 cc-by-sa-3.0 cc-by-sa-4.0 cc0-1.0 cdla-permissive-1.0
    cdla-permissive-2.0 cdla-sharing-1.0 creativeml-openrail-m deepfloyd-if-license ecl-2.0 epl-1.0 epl-2.0 etalab-2.0
    eupl-1.1 eupl-1.2 fair-noncommercial-research-license gemma gfdl gpl gpl-2.0 gpl-3.0 grok2-community h-research
    intel-research isc lgpl lgpl-2.1 lgpl-3.0 lgpl-lr llama2 llama3 llama3.1 llama3.2 llama3.3 llama4 lppl-1.3c mit
    mpl-2.0 ms-pl ncsa odbl odc-by ofl-1.1 openmdw-1.0 openrail openrail++ osl-3.0 other pddl postgresql unknown
    unlicense wtfpl zlib
    """.split()  # noqa: SIM905  # seventy lines otherwise
)
_PHRASES = {
    "gnu affero general public": "agpl",
    "gnu lesser general public": "lgpl",
    "gnu general public": "gpl",
    "gnu free documentation": "gfdl",
    "mozilla public": "mpl",
    "eclipse public": "epl",
    "european union public": "eupl",
    "boost software": "bsl",
    "creative commons zero": "cc0",
    "creative commons": "cc",
    "attribution": "by",
    "non commercial": "nc",
    "noncommercial": "nc",
    "no derivatives": "nd",
    "noderivatives": "nd",
    "share alike": "sa",
    "sharealike": "sa",
    "software foundation": "",
    "open database": "odbl",
    "new bsd": "bsd 3 clause",
    "modified bsd": "bsd 3 clause",
    "simplified bsd": "bsd 2 clause",
    "sil open font": "ofl",
    "or later": "",
    "only": "",
}
_NOISE = {
    "the",
    "license",
    "licence",
    "licensed",
    "version",
    "international",
    "unported",
    "universal",
    "public",
    "v",
    "gnu",
    "asl",
}
_NEWEST = {"apache": "apache-2.0", "cc0": "cc0-1.0", "mpl": "mpl-2.0", "ofl": "ofl-1.1", "unlicence": "unlicense"}


def find_identifier(licence: str) -> str:
    """Return the Hub's identifier of a licence.

    Args:
        licence: An identifier, or a name such as "MIT License", "Apache 2" or "CC BY-SA 4.0".

    Raises:
        ValueError: If the Hub knows no such licence; with those that resemble it.
    """
    folded = licence.strip().lower()
    if folded in _IDENTIFIERS:
        return folded
    words = " ".join(re.split(r"[\s_,()/-]+", folded)).replace("+", " ")
    for phrase, short in _PHRASES.items():
        words = re.sub(rf"\b{phrase}\b", short, words)
    words = re.sub(r"\b([a-z]+?)v?(\d+(\.\d+)?)\b", r"\1 \2", words) if "cc0" not in words else words
    kept = [word.removeprefix("v") if re.fullmatch(r"v\d.*", word) else word for word in words.split()]
    name = "-".join(word for word in kept if word not in _NOISE)
    for candidate in (name, f"{name}.0", _NEWEST.get(name, "")):
        if candidate in _IDENTIFIERS:
            return candidate
    near = get_close_matches(name, _IDENTIFIERS, n=3)
    raise ValueError(
        f"The Hub knows no licence {licence!r}"
        + (f"; did you mean {' or '.join(near)}?" if near else ".")
        + " Give an identifier of https://huggingface.co/docs/hub/repositories-licenses, or `other`: --license other"
    )
