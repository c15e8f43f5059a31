# syntax=docker/dockerfile:1
# vlmd for NVIDIA GPUs of compute capability 8.0 and later, on x86-64. From the project's top folder:
#
#   docker build -f docker/cuda.Dockerfile -t vlmd:cuda .
#   docker run --rm --gpus all -p 8000:8000 --read-only --tmpfs /tmp --cap-drop ALL \
#     --security-opt no-new-privileges -v vlmd-cache:/opt/nim/.cache vlmd:cuda
#
# It holds a program per family of cards in /usr/local/lib/vlmd, and vlmd becomes the one that the
# driver's cards need; VLMD_BINARY names another. Without a GPU it serves on the CPU. For fewer
# families, which is quicker to build and smaller: --build-arg FAMILIES="89 90".
#
# What is in the programs stands in /usr/share/doc/vlmd/vlmd.cdx.json, a CycloneDX document.
ARG CUDA=13.0.2

FROM rust:1.95-bookworm AS rust

FROM nvidia/cuda:${CUDA}-devel-ubuntu24.04 AS build
RUN apt-get update \
    && apt-get install --yes --no-install-recommends ca-certificates curl g++ python3
COPY --from=rust /usr/local/rustup /usr/local/rustup
COPY --from=rust /usr/local/cargo /usr/local/cargo
ENV RUSTUP_HOME=/usr/local/rustup CARGO_HOME=/usr/local/cargo PATH=/usr/local/cargo/bin:$PATH
WORKDIR /src
# Changes seldom: cached for itself.
COPY docker/lazy_link docker/lazy_link
RUN docker/lazy_link/make.sh /usr/local/cuda /opt/cuda-lazy
ENV CUDA_HOME=/opt/cuda-lazy CUDA_PATH=/opt/cuda-lazy CUDARC_CUDA_VERSION=13000
COPY . .
# No GPU can be asked while an image is built.
ARG FAMILIES="80 86 89 90 100 120"
RUN --mount=type=cache,target=/usr/local/cargo/registry \
    --mount=type=cache,target=/src/target \
    for family in $FAMILIES; do set -- "$@" "$family"; done \
    && docker/families.sh /out/usr/local "$@" \
    && for name in nim-serve nim-run list-model-profiles download-to-cache create-model-store \
        check-cache-env; do ln -s vlmd "/out/usr/local/bin/$name"; done \
    && install -D docker/healthcheck.sh /out/usr/local/bin/vlmd-healthcheck \
    && install -d /out/usr/share/doc/vlmd \
    && docker/sbom.py --features cuda >/out/usr/share/doc/vlmd/vlmd.cdx.json

FROM nvidia/cuda:${CUDA}-runtime-ubuntu24.04
RUN apt-get update \
    && apt-get install --yes --no-install-recommends ca-certificates \
    && rm -rf /var/lib/apt/lists/* \
    # Any user of group 0 may write the cache: `docker run -u` and OpenShift choose the user.
    && install -d -o 1000 -g 0 -m 2775 /opt/nim/.cache
COPY --from=build /out/ /
# The only place that is written, and in /tmp what compressed archives unfold to. The driver keeps
# what it has translated for the card.
ENV HF_HOME=/opt/nim/.cache/huggingface CUDA_CACHE_PATH=/opt/nim/.cache/cuda
VOLUME /opt/nim/.cache
USER 1000:0
EXPOSE 8000
STOPSIGNAL SIGTERM
# Models may take minutes to arrive: until then it is starting, not unhealthy.
HEALTHCHECK --interval=10s --timeout=5s --start-period=30m --retries=3 CMD ["vlmd-healthcheck"]
ENTRYPOINT ["vlmd"]
