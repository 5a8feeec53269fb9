"""How uniqkeys are spelled in Redis: what a database takes for equal is, and little else."""

from __future__ import annotations

import pytest

from migrate.engine.key_spelling import of_collation
from migrate.resque.unique_keys import Spelling, coarsest, spelled, spellings


@pytest.mark.parametrize(
    ("collation", "spelling"),
    [
        (None, Spelling.BYTES),
        ("binary", Spelling.BYTES),
        ("utf8mb4_0900_bin", Spelling.BYTES),
        ("latin1_nopad_bin", Spelling.BYTES),
        ("latin1_bin", Spelling.PADDED),
        ("utf8mb3_bin", Spelling.PADDED),
        ("utf8mb4_bin", Spelling.PADDED),
        ("latin1_swedish_ci", Spelling.FOLDED),
        ("latin1_general_cs", Spelling.FOLDED),
        ("utf8mb4_0900_as_cs", Spelling.FOLDED),
        ("utf8mb4_uca1400_nopad_ai_ci", Spelling.FOLDED),
    ],
)
def test_a_collation_says_how_fine(collation: str | None, spelling: Spelling) -> None:
    assert of_collation(collation) is spelling


@pytest.mark.parametrize(
    ("key", "as_bytes", "padded", "folded"),
    [
        ("k", "k", "k", "k"),
        ("Key  ", "Key  ", "Key", "key"),
        ("Gr\u00f6\u00dfe ", "Gr\u00f6\u00dfe ", "Gr\u00f6\u00dfe", "grosse"),
        ("k\t", "k\t", "k\t", "k\t"),
        (" ", " ", "", ""),
    ],
)
def test_spellings(key: str, as_bytes: str, padded: str, folded: str) -> None:
    assert [spelled(key, each) for each in Spelling] == [as_bytes, padded, folded]
    assert set(spellings(key)) == {as_bytes, padded, folded}


def test_of_several_sources_the_one_that_takes_most_for_equal_decides() -> None:
    assert coarsest([Spelling.BYTES, Spelling.FOLDED, Spelling.PADDED]) is Spelling.FOLDED
    assert coarsest([Spelling.BYTES, Spelling.PADDED]) is Spelling.PADDED
    assert coarsest([Spelling.BYTES]) is Spelling.BYTES
    assert coarsest([]) is Spelling.FOLDED
