# syntax=docker/dockerfile:1
# vlmd for hosts without a GPU. From the project's top folder:
#
#   docker build -f docker/cpu.Dockerfile -t vlmd .
#   docker run --rm -p 8000:8000 --read-only --tmpfs /tmp --cap-drop ALL \
#     --security-opt no-new-privileges -v vlmd-cache:/opt/nim/.cache vlmd
#
# What is in the binary stands in /usr/share/doc/vlmd/vlmd.cdx.json, a CycloneDX document.

FROM rust:1.95-bookworm AS build
WORKDIR /src
COPY . .
RUN --mount=type=cache,target=/usr/local/cargo/registry \
    --mount=type=cache,target=/src/target \
    cargo build --locked --release \
    && install -D target/release/vlmd /out/usr/local/bin/vlmd \
    && for name in nim-serve nim-run list-model-profiles download-to-cache create-model-store \
        check-cache-env; do ln -s vlmd "/out/usr/local/bin/$name"; done \
    && install -D docker/healthcheck.sh /out/usr/local/bin/vlmd-healthcheck \
    && install -d /out/usr/share/doc/vlmd \
    && docker/sbom.py >/out/usr/share/doc/vlmd/vlmd.cdx.json

FROM debian:bookworm-slim
RUN apt-get update \
    && apt-get install --yes --no-install-recommends ca-certificates \
    && rm -rf /var/lib/apt/lists/* \
    # Any user of group 0 may write the cache: `docker run -u` and OpenShift choose the user.
    && install -d -o 1000 -g 0 -m 2775 /opt/nim/.cache
COPY --from=build /out/ /
# The only place that is written, and in /tmp what compressed archives unfold to.
ENV HF_HOME=/opt/nim/.cache/huggingface
VOLUME /opt/nim/.cache
USER 1000:0
EXPOSE 8000
STOPSIGNAL SIGTERM
# Models may take minutes to arrive: until then it is starting, not unhealthy.
HEALTHCHECK --interval=10s --timeout=5s --start-period=30m --retries=3 CMD ["vlmd-healthcheck"]
ENTRYPOINT ["vlmd"]
