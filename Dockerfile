# The service with its rclone, for an unprivileged user and a read-only root file system.
#   docker build -t medusa-copier .
# BASE must have Python 3.11 or newer as python3, with venv, and CA certificates.
ARG BASE=python:3.13-slim-bookworm

FROM ${BASE} AS build
WORKDIR /src
COPY requirements/container.txt requirements/
RUN python3 -m venv /opt/medusa-copier \
    && /opt/medusa-copier/bin/python -m pip install --no-cache-dir --no-compile --require-hashes -r requirements/container.txt
COPY pyproject.toml README.md LICENSE ./
COPY src src
RUN /opt/medusa-copier/bin/python -m pip install --no-cache-dir --no-compile --no-deps . \
    && /opt/medusa-copier/bin/python -m compileall -q /opt/medusa-copier/lib \
    && rm -rf /opt/medusa-copier/lib/python*/site-packages/pip*

FROM ${BASE}
LABEL org.opencontainers.image.title="medusa-copier" \
      org.opencontainers.image.licenses="Apache-2.0"
COPY --from=build /opt/medusa-copier /opt/medusa-copier
# run/ and log/ are relative to the working directory: the volume that has to outlive the container.
RUN install -d -o 10001 -g 10001 -m 0750 /var/lib/medusa-copier
ENV PATH=/opt/medusa-copier/bin:$PATH \
    PYTHONDONTWRITEBYTECODE=1 \
    HOME=/var/lib/medusa-copier \
    MEDUSA_COPIER_CONFIG=/etc/medusa-copier/medusa_copier.yaml
USER 10001:10001
WORKDIR /var/lib/medusa-copier
VOLUME /var/lib/medusa-copier
STOPSIGNAL SIGTERM
HEALTHCHECK --interval=30s --timeout=10s --start-period=60s CMD ["medusa-copier", "status"]
ENTRYPOINT ["medusa-copier"]
CMD ["run"]
