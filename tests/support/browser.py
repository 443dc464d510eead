"""A page as a real browser shows it: in headless Chromium, at a width, light or dark."""

import html
import json
import re
import shutil
import subprocess
from dataclasses import dataclass
from importlib.resources import files
from pathlib import Path

HOST = """<!doctype html><meta charset="utf-8"><title>host</title>
<iframe id="page" title="page" style="border:0;width:{width}px;height:900px"></iframe>
<pre id="found"></pre>
<script type="application/json" id="source">{source}</script>
<script>{axe_in_host}
const frame = document.getElementById("page");
frame.onload = async () => {{
  const page = frame.contentDocument, script = page.createElement("script");
  script.textContent = AXE;
  page.head.append(script);
  const result = await frame.contentWindow.axe.run(page);
  const narrow = [...page.querySelectorAll("td, th")].filter(
    (cell) => cell.textContent.trim().length > 3 && cell.clientWidth < 24);
  document.getElementById("found").textContent = JSON.stringify({{
    width: frame.contentWindow.innerWidth,
    dark: frame.contentWindow.matchMedia("(prefers-color-scheme: dark)").matches,
    scrolled: page.documentElement.scrollWidth,
    narrow: narrow.map((cell) => cell.textContent.trim().slice(0, 40)),
    violations: result.violations.map((one) => one.id + ": " + one.nodes[0].html.slice(0, 160)),
  }});
}};
frame.srcdoc = JSON.parse(document.getElementById("source").textContent);
</script>"""


@dataclass(frozen=True)
class Seen:
    """What a browser finds on a page.

    Attributes:
        overflow: Pixels by which the page is wider than its window.
        narrow: Texts of cells that are too narrow for three letters.
        violations: What axe-core objects to: its rule, and the first place.
        console: Errors on the console.
    """

    overflow: int
    narrow: list[str]
    violations: list[str]
    console: list[str]


def look_at(page: str, folder: Path, *, width: int, dark: bool) -> Seen:
    """Open a page.

    Args:
        page: HTML.
        folder: A folder to work in.
        width: Of the window, in pixels.
        dark: Whether its reader prefers dark pages.
    """
    axe = files("axe_core_python").joinpath("axe.min.js").read_text(encoding="utf-8")
    # In a frame, as Chromium has no window of less than 500 pixels.
    source = json.dumps(page).replace("</", "<\\/")
    script = f"const AXE = {json.dumps(axe)};".replace("</", "<\\/")
    host = folder / "host.html"
    host.write_text(HOST.format(width=width, source=source, axe_in_host=script), encoding="utf-8")
    done = open_page(host.as_uri(), folder, dark=dark)
    found = re.search(r'<pre id="found">(.*?)</pre>', done.stdout, re.S)
    assert found and found[1], done.stderr[-2000:]
    seen = json.loads(html.unescape(found[1]))
    assert (seen["width"], seen["dark"]) == (width, dark)
    console = [line for line in done.stderr.splitlines() if "CONSOLE" in line and "rror" in line]
    return Seen(seen["scrolled"] - width, seen["narrow"], seen["violations"], console)


def open_page(
    address: str, folder: Path, *, dark: bool = False
) -> "subprocess.CompletedProcess[str]":
    """Open an address: what the page became once its scripts have run, and what they logged.

    Args:
        address: Of a file or a server.
        folder: For the browser's profile.
        dark: Whether its reader prefers dark pages.
    """
    chromium = shutil.which("chromium") or shutil.which("chromium-browser")
    assert chromium, "this test needs Chromium: apt install chromium"
    return subprocess.run(
        [
            *(chromium, "--headless", "--no-sandbox", "--disable-gpu", "--hide-scrollbars"),
            *(f"--blink-settings=preferredColorScheme={0 if dark else 1}", "--dump-dom"),
            *("--enable-logging=stderr", "--virtual-time-budget=60000", "--window-size=1400,1000"),
            f"--user-data-dir={folder / 'profile'}",
            address,
        ],
        capture_output=True,
        text=True,
        check=True,
    )
