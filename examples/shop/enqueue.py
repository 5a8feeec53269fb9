"""The app: it enqueues as it did with Qudo. Where a job goes is up to the operator; see docs/enqueuing.md."""

from migrate import DuplicateJob, Enqueuer


def main() -> None:
    """Enqueue what a day in a shop brings."""
    with Enqueuer.from_config("qudo-migrate.toml") as jobs:
        jobs.enqueue("Shop::Mail", {"to": "鮎@example.org", "text": "welcome"}, uniqkey="welcome-1")
        jobs.enqueue("Shop::Mail", {"to": None, "text": "nobody reads this"})
        jobs.enqueue("Shop::Thumb", {"picture": "ayu.png", "sizes": [64, 128]}, priority=5)
        jobs.enqueue("Shop::Pay", {"order": 7, "cents": 9007199254740993})
        jobs.enqueue("Shop::Report", {"rows": 1_000_000})
        jobs.enqueue("Shop::Mail", {"to": "late@example.org", "text": "in two seconds"}, run_after=2)
        try:
            jobs.enqueue("Shop::Mail", {"to": "鮎@example.org", "text": "welcome"}, uniqkey="welcome-1")
        except DuplicateJob:
            print("the second welcome is refused: the first is pending")


if __name__ == "__main__":
    main()
