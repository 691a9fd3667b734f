from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from st_cluster_batches.evaluation import figures
from st_cluster_batches.evaluation.figures import can_draw, draw_cluster_sizes, require_plots, save_figure

if TYPE_CHECKING:
    from matplotlib.figure import Figure


def test_a_figure_is_written_whole_or_not_at_all(tmp_path: Path) -> None:
    def fail(figure: Figure) -> None:
        figure.subplots()
        # Raised when the file is written, not when it is drawn.
        figure.draw = lambda _: (_ for _ in ()).throw(OSError("no room"))  # type: ignore[method-assign]

    path = tmp_path / "figures" / "one.png"
    (drawn,) = save_figure(lambda figure: None, (1.0, 1.0), path)
    before = drawn.read_bytes()
    assert before.startswith(b"\x89PNG")
    with pytest.raises(OSError, match="no room"):
        save_figure(fail, (1.0, 1.0), path)
    assert path.read_bytes() == before and list(path.parent.iterdir()) == [path]


def test_many_sources_have_ten_entries(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    shown: list[list[str]] = []

    def keep(draw: object, size: object, *paths: Path) -> list[Path]:
        def look(figure: Figure) -> None:
            draw(figure)  # type: ignore[operator]
            shown.append([one.get_text() for one in figure.axes[0].get_legend().get_texts()])

        return save_figure(look, (6.0, 3.0), *paths)

    monkeypatch.setattr(figures, "save_figure", keep)
    draw_cluster_sizes({f"source {at}": [at, at + 1] for at in range(40)}, tmp_path / "sizes.png", 32)
    assert len(shown[0]) == 11 and {"source 39", "31 other sources", "a global batch"} <= set(shown[0])


def test_what_is_missing_is_named_with_the_extra(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(figures, "find_spec", lambda name: None if name == "plotly" else name)
    assert can_draw("A figure") and not caplog.text
    with pytest.raises(ImportError, match=r"A report needs plotly: pip install 'st-cluster-batches\[plots\]'"):
        require_plots("A report", "matplotlib", "plotly")
    monkeypatch.setattr(figures, "find_spec", lambda _: None)
    assert not can_draw("A figure") and "A figure needs matplotlib: pip install" in caplog.text
