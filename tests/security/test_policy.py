"""SECURITY.md leads to what it speaks of."""

import re
from pathlib import Path

ROOT = Path(__file__).parents[2]


def test_every_link_leads_to_a_file():
    links = re.findall(r"\]\(([^)#]+)", (ROOT / "SECURITY.md").read_text(encoding="utf-8"))
    assert links
    assert all((ROOT / link).exists() for link in links)


def test_the_readme_leads_to_it():
    for page in ("README.md", "README.zh.md", "docs/index.md"):
        assert "SECURITY.md)" in (ROOT / page).read_text(encoding="utf-8")
