# The server, the shipped channels.yaml and what both need at run time. `make image` builds it and tries it out.

# The same bytes at every build, for every architecture. docs/deploy/README.md says how to renew the digest.
ARG BASE=python:3.11-slim-bookworm@sha256:0bee7276f83efd4a1ee05bbbf4281d95ed28e079220a9457f25a93e3f1e3c31b

FROM ${BASE} AS build
COPY requirements-run.lock /
RUN python3 -m venv /venv \
    && /venv/bin/python -m pip install --no-cache-dir --disable-pip-version-check --no-compile --no-deps \
        --only-binary :all: --require-hashes --requirement /requirements-run.lock \
    && /venv/bin/python -m pip uninstall --yes pip setuptools
WORKDIR /app
COPY gunicorn.conf.py ./
COPY bin ./bin
COPY app ./app
COPY config ./config
# Nobody can write bytecode at run time, and no builder that changes the files' times makes this worthless.
RUN python3 -m compileall -q --invalidation-mode unchecked-hash /venv/lib app && ln -s /venv .venv

FROM ${BASE}
COPY --from=build /venv /venv
COPY --from=build /app /app
WORKDIR /app
# PYTHONUNBUFFERED: the last lines before a crash are the ones that matter.
# HOST: all addresses, IPv4 as well; where IPv6 is off, the server takes 0.0.0.0 by itself.
ENV PATH=/app/bin:/venv/bin:$PATH \
    PYTHONUNBUFFERED=1 \
    PYTHONDONTWRITEBYTECODE=1 \
    HOST=:: \
    PORT=8000
EXPOSE 8000
# For the file of sqlite:////data/abide.db: a volume there begins with these rights, whatever number it is that runs.
RUN mkdir -m 1777 /data
# A number, so that Kubernetes can see that it is not root. Nothing needs an entry in /etc/passwd, or owns a file.
USER 10001:10001
# Alive, not ready: while the database is away a restart would only drop the subscribers.
HEALTHCHECK --interval=30s --timeout=5s --start-period=20s --retries=3 CMD ["python", "-c", "import http.client, os; c = http.client.HTTPConnection('127.0.0.1', os.environ.get('PORT') or 8000, timeout=4); c.request('GET', '/health/live'); raise SystemExit(c.getresponse().status != 200)"]
# It becomes gunicorn's master itself: the signals reach it, and it reaps its workers.
ENTRYPOINT ["entrypoint"]
CMD ["serve"]
