"""Draw the top of a card and our block of it about as the Hub shows them.

python hub_cards/picture.py hub_cards/demo hub_cards/demo.png

Needs Chromium with its driver, and the extra `dev`.
"""

from __future__ import annotations

import html
import shutil
import sys
import tempfile
from pathlib import Path

from huggingface_hub import ModelCard
from markdown_it import MarkdownIt
from selenium import webdriver

WIDTH = 860
STYLE = """
body { font: 16px/1.5 'DejaVu Sans', sans-serif; color: #374151; margin: 24px 32px; background: #fff }
h1 { font: 600 22px monospace; color: #111827; margin: 0 0 8px }
h2, h3 { color: #111827; border-bottom: 1px solid #f3f4f6; padding-bottom: 4px }
.tag { display: inline-block; border: 1px solid #e5e7eb; border-radius: 8px; padding: 1px 8px; margin: 0 6px 6px 0;
  font-size: 14px }
table { border-collapse: collapse; font-size: 13px; margin: 12px 0 }
th, td { border: 1px solid #e5e7eb; padding: 4px 9px }
th { background: #f9fafb; text-align: left }
code { background: #f3f4f6; border-radius: 4px; padding: 1px 4px; font-size: 90% }
img { max-width: 62%; display: block }
"""


def draw_card(folder: Path, output: Path) -> None:
    """Draw the card of a staged repository.

    Args:
        folder: What `build` filled.
        output: A PNG file.
    """
    card = ModelCard.load(folder / "README.md")
    begin, end = (f"<!-- st-cluster-batches:{word} -->" for word in ("begin", "end"))
    block = card.text.split(begin)[1].split(end)[0]
    tags = "".join(f'<span class="tag">{html.escape(tag)}</span>' for tag in card.data.tags)
    body = MarkdownIt("commonmark").enable("table").render(block)
    page = f"<!doctype html><meta charset=utf-8><style>{STYLE}</style><h1>your-name/{folder.name}</h1>{tags}{body}"
    with tempfile.NamedTemporaryFile("w", suffix=".html", dir=folder, encoding="utf-8") as file:
        file.write(page)
        file.flush()
        options = webdriver.ChromeOptions()
        for flag in ("--headless=new", "--no-sandbox", "--hide-scrollbars"):
            options.add_argument(flag)
        with webdriver.Chrome(options, webdriver.ChromeService(shutil.which("chromedriver"))) as driver:
            driver.set_window_size(WIDTH, 800)
            driver.get(Path(file.name).absolute().as_uri())
            height = driver.execute_script("return document.documentElement.scrollHeight")
            driver.set_window_size(WIDTH, height + 140)  # the frame that even a headless window has
            driver.find_element("tag name", "html").screenshot(str(output))


if __name__ == "__main__":
    draw_card(Path(sys.argv[1]), Path(sys.argv[2]))
