"""`python -m migrate` is `qudo-migrate`."""

from migrate.cli import main

if __name__ == "__main__":
    main()
