"""What a verification says of shadow copies, as a record. Pure; `engine/mirroring.py` makes it."""

from __future__ import annotations

import msgspec


class MirrorReport(msgspec.Struct, frozen=True):
    """The shadow copies of one func; jobs."""

    func: str
    copied: int  #: ever
    missed: int  #: ever: too many at a time, Redis away, or not translatable
    compared: int  #: copies that are still kept
    different: int
    gone: int  #: of those compared: Qudo has finished the job, so the arg that was kept stood for its row
    differences: list[str]  #: the first of them: source, id, and where; never values
