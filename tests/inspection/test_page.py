from __future__ import annotations

import json
import re
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from datasets import Dataset
from examples import label_pairs, make_pairs, make_static_model

from st_cluster_batches.inspection.findings import Inspection
from st_cluster_batches.inspection.measuring import inspect
from st_cluster_batches.inspection.page import draw_inspection, write_page

HOSTILE = [
    "</script><script>document.title = 'broken'</script> soup",
    "<img src=x onerror=\"document.title = 'broken'\"> oven",
    "\u202eright to left\u2066 שלום עולם مرحبا soup",
    "emoji 👩‍👩‍👧‍👦🇺🇳 \u2028 \u2029 \ufeff \x07 butter",
    "long " + "salt " * 20_000,
    "${data} `backtick` \\u003c __DATA__ __PLOTLY__ bread",
]


def inspect_batches(dataset: Dataset, seed: int = 0) -> Inspection:
    return inspect(dataset, make_static_model(), batch_size=16, seed=seed, show_progress_bar=False)


def make_page(folder: Path, inspection: Inspection) -> Path:
    write_page(inspection, folder / "report.html")
    return folder / "report.html"


@pytest.fixture(scope="module")
def inspection() -> Inspection:
    return inspect_batches(label_pairs(make_pairs(300)), seed=7)


@pytest.fixture(scope="module")
def page(inspection: Inspection, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_page(tmp_path_factory.mktemp("page"), inspection)


@pytest.fixture
def hostile() -> Dataset:
    pairs = make_pairs(120)
    data = label_pairs(pairs)
    queries, passages = data["query"][:], data["passage"][:]
    queries[: len(HOSTILE)] = HOSTILE
    passages[: len(HOSTILE)] = HOSTILE[::-1]
    sources = ["<b>bold</b>"] * 60 + ["plain"] * 60
    clusters = [cluster + 3 * (row // 60) for row, cluster in enumerate(data["cluster"])]  # each within one source
    columns = {"query": queries, "passage": passages, "source": sources, "cluster": clusters}
    return Dataset.from_dict({**columns, "false_negative_keys": data["false_negative_keys"][:]})


def read_data(page: Path) -> dict[str, Any]:
    html = page.read_text(encoding="utf-8")
    # As a browser reads it: the element ends at the first end tag.
    found = re.search(r'<script type="application/json" id="data">(.*?)</script', html, flags=re.S)
    assert found
    data: dict[str, Any] = json.loads(found.group(1))
    return data


def test_every_batch_of_small_data_is_in_the_page_row_by_row(page: Path, labelled: Dataset) -> None:
    data = read_data(page)
    assert len(data["batches"]) == data["all_batches"] == 19
    rows = [cells for batch in data["batches"] for cells in batch["rows"]]
    assert sorted(cells[0] for cells in rows) == list(range(300))
    queries, clusters = labelled["query"][:], labelled["cluster"][:]
    assert all(cells[1:4] == ["all", clusters[cells[0]], queries[cells[0]]] for cells in rows)
    for batch in data["batches"]:
        if batch["kind"] == "pure":
            assert len({cells[2] for cells in batch["rows"]}) == 1


def test_large_data_is_sampled_and_says_so(
    tmp_path: Path, inspection: Inspection, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("st_cluster_batches.inspection.page._VIEWED_ROWS", 64)
    monkeypatch.setattr("st_cluster_batches.inspection.page._draw_map", lambda _: {})  # the slow part
    data = read_data(make_page(tmp_path, inspection))
    assert [batch["number"] for batch in data["batches"]] == [0, 6, 12, 18]
    assert data["all_batches"] == 19


def test_the_page_names_the_seed_that_its_batches_were_planned_with(page: Path) -> None:
    assert read_data(page)["seed"] == 7
    assert "training with another seed draws other batches" in page.read_text(encoding="utf-8")


def test_the_map_shows_a_cluster_batch_and_a_random_one(page: Path) -> None:
    drawn = read_data(page)["map"]
    assert len(drawn["x"]) == len(drawn["y"]) == len(drawn["text"]) == 300
    assert sum(drawn["in_cluster_batch"]) == sum(drawn["in_random_batch"]) == 16


def test_hostile_text_stays_data(tmp_path: Path, hostile: Dataset) -> None:
    page = make_page(tmp_path, inspect_batches(hostile))
    data = read_data(page)
    shown = {cells[3] for batch in data["batches"] for cells in batch["rows"]}
    assert {text for text in HOSTILE if len(text) < 300} <= shown
    assert page.stat().st_size < 8_000_000, "very long texts are cut"


def test_the_page_names_no_address_to_load_from(page: Path) -> None:
    html = page.read_text(encoding="utf-8")
    assert "default-src 'none'" in html
    own = html.replace(html[html.index("<script>") : html.index("</script>")], "")  # plotly's own script
    assert not re.findall(r"""(?:src|href)\s*=\s*["']?(?:https?:)?//""", own)


def test_figures_are_the_same_for_the_same_data(tmp_path: Path, inspection: Inspection) -> None:
    first, second = (draw_inspection(inspection, tmp_path / name) for name in ("first", "second"))
    for one, other in zip(first, second, strict=True):
        assert one.read_bytes() == other.read_bytes() and one.read_bytes().startswith(b"\x89PNG")


@pytest.fixture
def browser(tmp_path: Path) -> Iterator[Any]:
    """A real headless Chromium, from Debian's packages chromium and chromium-driver."""
    from selenium import webdriver
    from selenium.webdriver.chrome.service import Service

    binaries = [shutil.which(name) for name in ("chromium", "chromedriver")]
    assert all(binaries), "this test needs chromium and chromedriver: apt-get install chromium chromium-driver"
    options = webdriver.ChromeOptions()
    options.binary_location = str(binaries[0])
    for flag in ("headless=new", "no-sandbox", "disable-gpu", "no-first-run", "disable-background-networking"):
        options.add_argument(f"--{flag}")
    options.add_argument(f"--user-data-dir={tmp_path / 'profile'}")
    options.set_capability("goog:loggingPrefs", {"browser": "ALL", "performance": "ALL"})
    driver = webdriver.Chrome(options=options, service=Service(binaries[1]))
    yield driver
    driver.quit()


@pytest.mark.slow
@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_the_page_works_in_a_browser(tmp_path: Path, hostile: Dataset, browser: Any, scheme: str) -> None:
    media = {"features": [{"name": "prefers-color-scheme", "value": scheme}]}
    browser.execute_cdp_cmd("Emulation.setEmulatedMedia", media)
    browser.get(make_page(tmp_path, inspect_batches(hostile)).as_uri())
    assert browser.title == "Batches before training", "no script from the data has run"
    background = browser.execute_script("return getComputedStyle(document.body).backgroundColor")
    assert background == ("rgb(255, 255, 255)" if scheme == "light" else "rgb(20, 23, 27)")

    assert len(texts_of(browser, "#map .scatterlayer .trace")) == 3, "the map has drawn rows and two batches"
    assert browser.execute_script("return document.querySelectorAll('#map .point').length") > 120
    assert len(texts_of(browser, "#hardness .barlayer .trace")) == 3

    assert len(texts_of(browser, "#clusters tr.cluster")) == 6
    click(browser, "#clusters th:nth-child(3) button")
    sizes = [int(text) for text in texts_of(browser, "#clusters tr.cluster td:nth-child(3)")]
    assert sizes == sorted(sizes)
    click(browser, "#clusters th:nth-child(3) button")
    assert [int(text) for text in texts_of(browser, "#clusters tr.cluster td:nth-child(3)")] == sizes[::-1]
    browser.find_element("id", "search").send_keys("sail")
    found = texts_of(browser, "#clusters tr.cluster td:nth-child(5)")
    assert 0 < len(found) < 6 and all("sail" in text for text in found)
    click(browser, "#clusters tr.cluster")
    assert texts_of(browser, "#clusters tr.details h3") == ["Typical rows", "Rows at the border"]

    first = texts_of(browser, "#rows td:nth-child(1)")
    assert len(first) == 16
    click(browser, "#next")
    assert texts_of(browser, "#rows td:nth-child(1)") != first
    click(browser, "#previous")
    assert texts_of(browser, "#rows td:nth-child(1)") == first
    seen = []
    for _ in range(browser.execute_script("return document.getElementById('batch').length")):
        seen += texts_of(browser, "#rows td:nth-child(4)")
        click(browser, "#next")
    assert {text for text in HOSTILE if len(text) < 300} <= set(seen)

    errors = [entry for entry in browser.get_log("browser") if entry["level"] == "SEVERE"]
    assert not errors
    assert not leaving_requests(browser)


@pytest.mark.slow
def test_the_page_fits_a_phone(tmp_path: Path, hostile: Dataset, browser: Any) -> None:
    phone = {"width": 390, "height": 844, "deviceScaleFactor": 2, "mobile": True}
    browser.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", phone)
    browser.get(make_page(tmp_path, inspect_batches(hostile)).as_uri())
    assert browser.execute_script("return document.documentElement.scrollWidth") <= 390


def texts_of(driver: Any, selector: str) -> list[str]:
    script = "return [...document.querySelectorAll(arguments[0])].map(one => one.textContent)"
    found: list[str] = driver.execute_script(script, selector)
    return found


def click(driver: Any, selector: str) -> None:
    driver.execute_script("document.querySelector(arguments[0]).click()", selector)


def leaving_requests(driver: Any) -> list[str]:
    """Return the addresses that the page asked for, but for the file itself, what it made, and a new tab."""
    messages = [json.loads(entry["message"])["message"] for entry in driver.get_log("performance")]
    asked = [one["params"]["request"]["url"] for one in messages if one["method"] == "Network.requestWillBeSent"]
    return [url for url in asked if not url.startswith(("file:", "data:", "blob:", "chrome"))]
