"""The tiny shop of examples/ runs as its README says."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

from redis import Redis

from tests.servers import RedisServer
from tests.servers.command import Cli
from tests.servers.waiting import wait_until

ROOT = Path(__file__).parents[2]
SHOP = ROOT / "examples" / "shop"


def test_the_tiny_shop(redis_server: RedisServer, redis: Redis, tmp_path: Path) -> None:
    folder = tmp_path / "examples" / "shop"
    shutil.copytree(SHOP, folder)
    (tmp_path / "schema").symlink_to(ROOT / "schema")
    cli = Cli(folder)
    cli.env["REDIS_URL"] = redis_server.url

    def python(name: str) -> str:
        env = {**os.environ, **cli.env, "PYTHONPATH": str(ROOT)}
        return subprocess.run(
            [sys.executable, name], cwd=folder, env=env, check=True, capture_output=True, text=True, timeout=60
        ).stdout

    try:
        python("make_qudo.py")
        assert "the second welcome is refused" in python("enqueue.py")
        moved = cli("run", "--json").json()["totals"]
        assert moved["handed_off"] == 6
        words = re.search(r"exec qudo-migrate (.+) \"\$@\"", (folder / "worker").read_text())
        assert words
        pool = cli.start(*(word.strip("'") for word in words[1].split()))
        log = folder / "outbox.log"
        wait_until(lambda: log.exists() and len(log.read_text().splitlines()) == 9, 30, "all have run")
        pool.kill()
        assert sorted(log.read_text().splitlines()) == [
            "Shop::Mail failed for good: nobody to write to",
            "Shop::Pay failed for now: the bank doesn't answer",
            "Shop::Report failed for good: the job was told to end",
            "mail to late@example.org: in two seconds",
            "mail to 鮎@example.org: welcome",
            "paid 9007199254740993 cents for order 7, attempt 2",
            "report: cleaned up",
            "thumb ayu.png 128",
            "thumb ayu.png 64",
        ]
    finally:
        cli.kill_all()


def test_its_readme_names_what_is_there() -> None:
    text = (SHOP / "README.md").read_text()
    for link in re.findall(r"\]\(([^)]+)\)", text):
        assert (SHOP / link).exists(), link
    assert os.access(SHOP / "worker", os.X_OK)
