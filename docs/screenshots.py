"""Makes the pictures of a report in the docs, with Chromium through playwright.

    treepo train --eval.every 5 --out runs/demo
    python docs/screenshots.py --report runs/demo/report.html            # writes docs/images/*.png

curves.png: the curves, light; tree.png: a tree with a selected node whose leaves differ in reward, dark. The same
report and the same Chromium give the same pictures. Ends with exit code 1 if one is larger than a page should load.
"""

import argparse
import shutil
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from playwright.sync_api import Browser, Page, ViewportSize, sync_playwright

IMAGES = Path(__file__).parent / "images"

MOST_BYTES = 200_000


@dataclass(frozen=True)
class Picture:
    """What is shown: a tab of the page, and its size in pixels."""

    name: str
    tab: str
    theme: Literal["light", "dark"]
    width: int
    height: int


PICTURES = (
    Picture("curves.png", "curves", "light", 1280, 860),
    Picture("tree.png", "trees", "dark", 1280, 840),
)

ADDRESS = """(() => {
  const below = (tree, node, leaf) => leaf === node || (leaf > 0 && below(tree, node, tree.parents[leaf]));
  const rewards = (tree, node) => new Set(tree.rewards.filter((_, i) => below(tree, node, tree.leaves[i])));
  for (const { step, trees } of treepo.shell.payload.runs[0].trees.steps) {
    for (const [i, tree] of trees.entries()) {
      const node = tree.parents.findLastIndex((parent, node) => parent > 0 && rewards(tree, node).size > 1);
      if (node >= 0) return `#trees?step=${step}&tree=${i}&node=${node}`;
    }
  }
  return "#trees";
})()"""
"""The page's address of the last node of the first tree of which the leaves below differ in reward."""


def main(report: Path, out: Path, chromium: str) -> int:
    """Take all pictures; 1 if one of them is too large."""
    out.mkdir(parents=True, exist_ok=True)
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=chromium, args=["--no-sandbox"])
        sizes = {picture.name: take(browser, picture, report, out) for picture in PICTURES}
        browser.close()
    for name, size in sizes.items():
        print(f"{out / name}: {size / 1000:.0f} kB")
    return int(max(sizes.values()) > MOST_BYTES)


def take(browser: Browser, picture: Picture, report: Path, out: Path) -> int:
    """Write one picture; its size in bytes. Raises RuntimeError if the page reports an error."""
    viewport: ViewportSize = {"width": picture.width, "height": picture.height}
    context = browser.new_context(viewport=viewport, color_scheme=picture.theme)
    page = context.new_page()
    errors: list[str] = []
    page.on("pageerror", lambda error: errors.append(str(error)))
    page.goto(report.resolve().as_uri())
    if picture.tab == "trees":
        page.goto(report.resolve().as_uri() + page.evaluate(ADDRESS))
        page.reload()
    page.locator(f"#tab-{picture.tab}").click()
    settle(page)
    page.screenshot(path=out / picture.name)
    context.close()
    if errors:
        raise RuntimeError(f"{picture.name}: {errors[0]}")
    return (out / picture.name).stat().st_size


def settle(page: Page) -> None:
    """Wait until fonts are loaded and everything that is drawn step by step is there."""
    page.evaluate("document.fonts.ready")
    page.wait_for_timeout(1500)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--report", type=Path, required=True)
    parser.add_argument("--out", type=Path, default=IMAGES)
    parser.add_argument("--chromium", default=shutil.which("chromium"))
    options = parser.parse_args()
    if options.chromium is None:
        sys.exit("screenshots: no chromium found; name one with --chromium")
    sys.exit(main(options.report, options.out, options.chromium))
