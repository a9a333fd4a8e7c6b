"""The index lists every document, and every link between the documents leads somewhere."""

import re

import pytest

from tools.messages import ROOT

DOCUMENTS = sorted(ROOT.glob("docs/*.md"))


def test_the_index_lists_every_document():
    listed = set(re.findall(r"\]\(([a-z-]+\.md)\)", (ROOT / "docs" / "README.md").read_text(encoding="utf-8")))
    assert listed == {path.name for path in DOCUMENTS} - {"README.md"}


def heading(line):
    return re.sub(r"[^a-z0-9 _-]", "", line.lstrip("# ").lower().replace("`", "")).replace(" ", "-")


@pytest.mark.parametrize("path", [ROOT / "README.md", *DOCUMENTS], ids=lambda path: path.name)
def test_every_link_leads_somewhere(path):
    for link in re.findall(r"\]\(([^)\s]+)\)", path.read_text(encoding="utf-8")):
        if link.startswith(("http://", "https://")):
            continue
        name, _, part = link.partition("#")
        target = (path.parent / name).resolve() if name else path
        assert target.exists(), link
        if part:
            heads = [heading(line) for line in target.read_text(encoding="utf-8").splitlines() if line.startswith("#")]
            assert part in heads, link


def test_the_document_of_the_bench_shows_every_plot():
    shown = re.findall(r"!\[[^]]+\]\(\.\./bench/results/([^)]+)\)", (ROOT / "docs" / "bench.md").read_text(encoding="utf-8"))
    assert sorted(shown) == sorted(path.name for path in (ROOT / "bench" / "results").glob("*.svg"))


def test_a_price_list_of_the_documents_is_one(tmp_path):
    from gahp.report import read_prices

    blocks = re.findall(r"```[a-z]*\n(.*?)```", (ROOT / "docs" / "report.md").read_text(encoding="utf-8"), re.DOTALL)
    lists = [block for block in blocks if "vcpu_hour" in block]
    assert len(lists) == 2
    for number, text in enumerate(lists):
        path = tmp_path / str(number)
        path.write_text(text)
        assert read_prices(str(path)).of("fargate-spot").vcpu_hour == 0.04048


def test_manual_pages_and_completion_are_installed_with_the_programs():
    import configparser

    setup = configparser.ConfigParser()
    setup.read(ROOT / "setup.cfg")
    listed = {place: text.split() for place, text in setup["options.data_files"].items()}
    assert listed["share/man/man1"] == ["man/*.1"]
    installed = {path for patterns in listed.values() for pattern in patterns for path in ROOT.glob(pattern)}
    assert installed == {*ROOT.glob("man/*"), *ROOT.glob("completion/*/*")}
