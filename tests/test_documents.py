"""Every link in the documents leads somewhere: to a file of the repository, or to a heading of one."""

import pathlib
import re

import pytest

ROOT = pathlib.Path(__file__).parent.parent
DOCUMENTS = sorted([*ROOT.glob("*.md"), *ROOT.glob("benchmarks/*.md")])


def headings(path):
    """Returns the anchors that a Markdown file's headings get: `## On a GPU` is `on-a-gpu`."""
    titles = re.findall(r"^#+ (.+)$", path.read_text(), flags=re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", title.lower()).replace(" ", "-") for title in titles}


@pytest.mark.parametrize("document", DOCUMENTS, ids=lambda path: path.relative_to(ROOT).as_posix())
def test_every_link_leads_somewhere(document):
    found = re.findall(r"\]\(([^)\s]+)\)", document.read_text())
    for link in (link for link in found if "://" not in link):
        place, _, anchor = link.partition("#")
        target = document.parent / place if place else document
        assert target.exists(), link
        assert not anchor or anchor in headings(target), link


def test_the_readme_is_read():
    assert ROOT / "README.md" in DOCUMENTS
