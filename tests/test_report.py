"The report in a real browser, where there is one: no complaint, nothing fetched, and a filter that hides what it should."
import re, shutil, subprocess
from pathlib import Path

import pytest

from cai_repro import figures

BROWSER = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)

@pytest.fixture
def page(mini_run) -> Path: return mini_run/"report.html"

def browse(*args) -> subprocess.CompletedProcess:
    return subprocess.run([BROWSER, "--headless=new", "--no-sandbox", "--disable-gpu", "--enable-logging=stderr", *args], capture_output=True, text=True, timeout=120)

def pages(pdf: Path) -> int: return len(re.findall(rb"/Type\s*/Page\b", pdf.read_bytes()))

def test_every_transcript_can_be_filtered(page):
    text = page.read_text()
    domains = re.findall(r'name="domain" id="f(\d+)"', text); assert len(domains) > 8
    for d in domains: assert f"body:has(#f{d}:checked) .dom:not(.d{d}) {{ display: none }}" in text
    shown = re.findall(r'<details class="dom d(\d+)"', text); assert set(shown) <= set(domains) and len(shown) > 30
    assert text.count("<summary>The numbers</summary>") == 3 and "<script" not in text and not re.search(r"(?:src|href)=.?(?:https?:)?//", text)

@pytest.mark.skipif(not BROWSER, reason="no Chromium here")
def test_in_a_browser(page, tmp_path):
    got = browse("--dump-dom", page.as_uri())
    assert "CONSOLE" not in got.stderr and got.stdout.count("<details") == page.read_text().count("<details"), got.stderr
    one = tmp_path/"one.html"
    one.write_text(page.read_text().replace('id="f-all" checked', 'id="f-all"').replace('id="f0">', 'id="f0" checked>'))
    for name, source in (("all", page), ("one", one)): browse(f"--print-to-pdf={tmp_path/name}.pdf", source.as_uri())
    assert 0 < pages(tmp_path/"one.pdf") < pages(tmp_path/"all.pdf")
