# The toolkit as an image: docker build -t qudo-migrate . && docker run --rm -v "$PWD:/work" qudo-migrate plan
FROM python:3.11-slim

# The extra lets it log in to MySQL 8, whose passwords need RSA.
WORKDIR /src
COPY pyproject.toml README.md LICENSE ./
COPY migrate ./migrate
RUN pip install --no-cache-dir ".[mysql8]" && rm -rf /src

RUN useradd --uid 1000 --create-home qudo
USER qudo

# qudo-migrate.toml is read, and reports are written, where the command is run.
WORKDIR /work
ENTRYPOINT ["qudo-migrate"]
CMD ["--help"]
