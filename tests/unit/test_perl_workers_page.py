"""docs/perl-workers.md tells every option of scripts/perl/resque-prefork, with its default; so does its own usage."""

from __future__ import annotations

import re
from pathlib import Path

ROOT = Path(__file__).parents[2]
SCRIPT = ROOT.joinpath("scripts/perl/resque-prefork").read_text()
PAGE = ROOT.joinpath("docs/perl-workers.md").read_text()


def accepted() -> set[str]:
    """What the script gives to Getopt::Long."""
    call = re.search(r"GetOptions\((.*?)\) or", SCRIPT, re.DOTALL)
    assert call
    names = set(re.findall(r"(?<![\w>$%{])([a-z][a-z-]+)(?==[sif]|\b(?=[ )|]))", call[1]))
    return names - {"qw", "help"}


def test_the_page_and_the_usage_tell_each_option_and_its_default() -> None:
    usage = SCRIPT.partition("<<'TEXT'")[2].partition("\nTEXT")[0]
    in_usage = re.findall(r"^  --([a-z-]+)\b(?: [A-Z=]+)? +(.*)$", usage, re.MULTILINE)
    table = PAGE.partition("## Options of `resque-prefork`")[2].partition("\n## ")[0]
    on_page = re.findall(r"^\| `--([a-z-]+)\b[^`]*` \| *(.*?) *\|", table, re.MULTILINE)
    assert {name for name, _ in in_usage} == {name for name, _ in on_page} == accepted()
    assert {"queues", "queue-of", "bytes", "verbose"} <= accepted()
    defaults = {name: found[1] for name, text in in_usage if (found := re.search(r"\(([\w.]+)\)$", text))}
    plain = {name: default.strip("`") for name, default in on_page if default and name != "redis"}
    assert plain == defaults
    for name, default in defaults.items():  # as the code has them
        assert re.search(rf"\b{name} +=> '?{re.escape(default)}'?,", SCRIPT), name
