"""A page in a real browser, as narrow as a phone or as wide as a desk."""
import html
import json
import re
import subprocess
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

CHROMIUM = Path("/usr/bin/chromium")
HEIGHT = 1600  # pixels


def in_browser(page: str, probe: str, width: int, scheme: str, folder: Path) -> tuple[dict, np.ndarray]:
    """Opens the page; skips the test if there is no browser. scheme: light | dark.

    probe: JavaScript that sets `frame.onload` and writes JSON into `out.textContent`. -> that JSON, and the grey values
    of the page's left margin. The test fails if the page writes anything to the console.
    """
    if not CHROMIUM.exists():
        pytest.skip(f"no {CHROMIUM} (Debian's package chromium)")
    wrapper, picture = folder / "wrapper.html", folder / "page.png"
    wrapper.write_text(  # a frame can be as narrow as a phone, unlike a browser's window
        f'<iframe id="frame" width="{width}" height="{HEIGHT}" style="border:0; color-scheme:{scheme}" '
        f'srcdoc="{html.escape(page)}"></iframe><pre id="out"></pre><script>{probe}</script>', encoding="utf-8")
    result = subprocess.run(
        [CHROMIUM, "--headless", "--no-sandbox", "--disable-gpu", "--no-first-run", "--disable-background-networking",
         f"--user-data-dir={folder}/profile", "--enable-logging=stderr", f"--window-size={width + 210},{HEIGHT}",
         "--dump-dom", f"--screenshot={picture}", wrapper.as_uri()], capture_output=True, text=True, timeout=120)
    assert "CONSOLE" not in result.stderr, result.stderr
    found = json.loads(html.unescape(re.search(r'<pre id="out">(.*?)</pre>', result.stdout, re.S)[1]))
    with Image.open(picture) as image:
        return found, np.asarray(image.convert("L"))[20:HEIGHT - 100, 12:20]
