"""Takes the picture of a report that docs/report.md shows, light and dark side by side.

pip install ".[demo,browser]" && gradsift demo
python docs/images/take_screenshot.py gradsift-demo/selection/selected/report.html docs/images/report.png
"""

import io
import shutil
import sys
from pathlib import Path

from PIL import Image
from playwright.sync_api import sync_playwright

WIDTH, HEIGHT = 1280, 1456


def main(report: str, picture: str) -> None:
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=shutil.which("chromium"), args=["--no-sandbox"])
        both = Image.new("RGB", (2 * WIDTH, HEIGHT))
        for i, scheme in enumerate(("light", "dark")):
            context = browser.new_context(
                viewport={"width": WIDTH, "height": HEIGHT}, color_scheme=scheme, offline=True
            )
            page = context.new_page()
            page.goto(Path(report).absolute().as_uri())
            both.paste(Image.open(io.BytesIO(page.screenshot())), (i * WIDTH, 0))
        browser.close()
    both.quantize(192).save(picture, optimize=True)


if __name__ == "__main__":
    main(*sys.argv[1:])
