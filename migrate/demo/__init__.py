"""`qudo-migrate demo`: the whole story on a small shop and an embedded Redis, in a temporary folder.

Uses the real commands on real servers; what it says of them it counts itself, in the two databases.
"""

from migrate.demo.result import DemoResult
from migrate.demo.story import tell

__all__ = ["DemoResult", "tell"]
