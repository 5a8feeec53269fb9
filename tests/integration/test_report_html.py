"""`verify --report` writes a page that opens from disk in a real browser, and in which job data stays data."""

from __future__ import annotations

import html
import json
import re
import struct
import subprocess
import zlib
from pathlib import Path

import pytest
from redis import Redis

from migrate import Enqueuer
from migrate.resque.steps import Step
from tests.conftest import WriteConfig
from tests.integration.conftest import SECRET_ARGUMENT, Run
from tests.integration.dualwriting import configured, put_step
from tests.qudo_app import enqueue
from tests.schemas import check
from tests.servers import MariaDBDatabase, RedisServer
from tests.servers.binaries import need_program
from tests.servers.command import Cli

HOSTILE = "<script>document.title='owned'</script>"


@pytest.fixture(scope="session")
def browser() -> str:
    """A Chromium; the test ends where it lacks."""
    return need_program("chromium", "chromium-browser", "google-chrome", "google-chrome-stable")


def chromium(browser: str, tmp_path: Path, *arguments: str) -> str:
    """Run it headless and without network; what it printed."""
    command = [
        browser,
        "--headless=new",
        "--no-sandbox",
        "--disable-gpu",
        "--disable-dev-shm-usage",
        "--no-first-run",
        "--host-resolver-rules=MAP * ~NOTFOUND",
        f"--user-data-dir={tmp_path / 'profile'}",
        *arguments,
    ]
    return subprocess.run(command, capture_output=True, text=True, timeout=120, check=True).stdout


def dump(browser: str, tmp_path: Path, report: Path, fragment: str = "") -> str:
    """The page as the browser has it after its scripts have run."""
    return chromium(browser, tmp_path, "--dump-dom", f"{report.as_uri()}{fragment}")


def shown_rows(dom: str) -> list[str]:
    """The kinds of the findings that aren't filtered out."""
    return [
        re.search(r'data-kind="(\w+)"', row)[1]  # type: ignore[index]
        for row in re.findall(r"<tr [^>]*data-kind=[^>]*>", dom)
        if "hidden" not in row
    ]


def colours(screenshot: Path) -> int:
    """How many different rows of pixels a PNG has: a blank page has one."""
    data = screenshot.read_bytes()
    assert data.startswith(b"\x89PNG")
    width, height = struct.unpack(">II", data[16:24])
    assert width
    assert height
    parts = []
    at = 8
    while at < len(data):
        (length,) = struct.unpack(">I", data[at : at + 4])
        if data[at + 4 : at + 8] == b"IDAT":
            parts.append(data[at + 8 : at + 8 + length])
        at += length + 12
    raw = zlib.decompress(b"".join(parts))
    line = len(raw) // height
    return len({raw[start : start + line] for start in range(0, len(raw), line)})


@pytest.fixture
def report(
    innodb: MariaDBDatabase, redis_server: RedisServer, redis: Redis, write_config: WriteConfig, run: Run, cli: Cli
) -> Path:
    """A report of hostile and damaged jobs."""
    for _ in range(5):
        enqueue(innodb, "Worker::Mail", json.dumps([SECRET_ARGUMENT, HOSTILE]).encode())
    enqueue(innodb, HOSTILE, b"[]")
    write_config([innodb], redis_server)
    run()
    put_step(redis_server, Step.MIRROR, func="Worker::Mirrored")
    with Enqueuer(configured({"main": innodb}, redis_server)) as jobs:
        for number in range(3):
            jobs.enqueue("Worker::Mirrored", {"n": number})
    innodb.execute("UPDATE job SET arg = '[1]' WHERE arg LIKE '%1%'")
    redis.lpop("resque:queue:worker_mail")
    job = json.loads(redis.lindex("resque:queue:worker_mail", 0) or b"")
    redis.lset("resque:queue:worker_mail", 0, json.dumps(job | {"args": [{HOSTILE: SECRET_ARGUMENT}]}))
    for name in (HOSTILE, f'"><img src=x onerror="{HOSTILE}">', "javascript:alert(1)", "{{ 7 * 7 }}"):
        redis.sadd("resque:queues", name)
        payload = {"class": name, "args": [SECRET_ARGUMENT], "qudo": {"source": name, "id": 1, "outbox": name}}
        redis.rpush(f"resque:queue:{name}", json.dumps(payload))
    folder = cli.folder / "reports" / "today"
    result = cli("verify", "--report", str(folder), "--expect-idle")
    assert result.status == 1, result.stderr
    assert "report.html" in result.stdout
    document = json.loads((folder / "report.json").read_text())
    check(document, "report")
    assert document["totals"]["missing"] == document["totals"]["mismatched"] == 1
    assert document["totals"]["foreign"] == 4
    # The terminal's five findings show each kind.
    for kind in ("missing", "mismatched", "foreign"):
        assert f"\n {kind} " in result.stdout
    assert sorted(path.name for path in folder.iterdir()) == ["report.html", "report.json"]
    assert SECRET_ARGUMENT not in (folder / "report.html").read_text()
    return folder / "report.html"


def test_the_page_opens_from_disk_says_the_verdict_and_needs_no_network(
    report: Path, browser: str, tmp_path: Path
) -> None:
    text = report.read_text()
    assert not re.findall(r"""(?:src|href)=["']?(?!#|data:)[\w/.:]""", html.unescape(re.sub(r"&lt;.*?&gt;", "", text)))
    dom = dump(browser, tmp_path, report)
    assert "✗ Differences" in dom
    assert "<strong>1 missing</strong>" in dom
    assert "<strong>1 shadow copy differs</strong>" in dom
    assert re.search(r">main:\d+: args\[0\]: array became object<", dom)
    assert dom.count("<svg") == 4  # the flow and the throughput, each once for phones
    screenshot = tmp_path / "report.png"
    chromium(browser, tmp_path, f"--screenshot={screenshot}", "--window-size=1000,1400", report.as_uri())
    assert colours(screenshot) > 100


def test_job_data_is_inert(report: Path, browser: str, tmp_path: Path) -> None:
    dom = dump(browser, tmp_path, report)
    assert "<title>differences" in dom
    assert "&lt;script&gt;document.title='owned'" in dom
    assert "{{ 7 * 7 }}" in dom
    assert dom.count("<script") == 1
    assert "<img" not in dom


def test_script_that_got_into_the_page_would_not_run(report: Path, browser: str, tmp_path: Path) -> None:
    """The page's policy knows its own script by its hash."""
    report.write_text(report.read_text().replace("</main>", f"{HOSTILE}</main>"))
    assert "<title>differences" in dump(browser, tmp_path, report)


def test_findings_are_filtered(report: Path, browser: str, tmp_path: Path) -> None:
    everything = shown_rows(dump(browser, tmp_path, report))
    assert sorted(set(everything)) == ["foreign", "mismatched", "missing"]
    assert shown_rows(dump(browser, tmp_path, report, "#kind=missing")) == ["missing"]
    assert shown_rows(dump(browser, tmp_path, report, "#source=main&kind=foreign")) == []
    assert shown_rows(dump(browser, tmp_path, report, "#text=args%5B0%5D")) == ["mismatched"]


def test_a_folder_that_cannot_be_written_is_told_before_the_work(
    innodb: MariaDBDatabase, redis_server: RedisServer, write_config: WriteConfig, cli: Cli
) -> None:
    write_config([innodb], redis_server)
    (cli.folder / "file").write_text("")
    result = cli("verify", "--report", "file/inside")
    assert result.status == 2
    assert "--report file/inside" in result.stderr
