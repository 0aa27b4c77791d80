# The image: one static binary, a user that is not root, and nothing else.
#
#   docker build -t leastconn-lb:local .
#
# or, with a static binary that was built outside (make docker-test does this):
#
#   cp …/leastconn-lb .docker-build/ && docker build --target prebuilt -t leastconn-lb:local .
#
# Written for the classic builder of Docker 20.10 as well as for BuildKit: no
# --mount, no heredocs. The classic builder runs every stage before the one asked
# for, hence the order: `prebuilt` comes before the stage that compiles.

ARG BUILDER_IMAGE=rust:1.95-bookworm

# What both kinds of image share.
FROM scratch AS base
COPY deploy/docker/passwd deploy/docker/group /etc/
LABEL org.opencontainers.image.title="leastconn-lb" \
      org.opencontainers.image.description="TCP load balancer: mutual TLS, per-client rights and limits, least connections" \
      org.opencontainers.image.licenses="MIT OR Apache-2.0"
# A number, so that Kubernetes' runAsNonRoot can see it is not 0.
USER 65532:65532
EXPOSE 9443 9901
STOPSIGNAL SIGTERM
HEALTHCHECK --interval=5s --timeout=3s --start-period=5s --retries=3 \
  CMD ["/leastconn-lb", "healthcheck", "--config", "/etc/leastconn/leastconn.toml"]
ENTRYPOINT ["/leastconn-lb"]
CMD ["run", "--config", "/etc/leastconn/leastconn.toml"]

# A binary from the context. The licences keep the COPY valid when there is none
# and another stage is wanted.
FROM base AS prebuilt
COPY LICENSE-MIT LICENSE-APACHE .docker-build/leastconn-lb* /

FROM ${BUILDER_IMAGE} AS build
WORKDIR /src
# glibc linked in: names are still resolved by its files and DNS parts, which
# need no shared objects. With --target, the flag leaves build scripts alone.
# Line tables make up three quarters of a binary that carries them; function names,
# which a backtrace needs most, stay.
ENV RUSTFLAGS="-C target-feature=+crt-static" CARGO_PROFILE_RELEASE_STRIP=debuginfo
# First the dependencies, with empty crates, in a layer of their own: it holds
# until a manifest or the lock file changes. Benchmarks that a manifest names are
# not there yet, which cargo would not forgive; the manifests come again below.
COPY Cargo.toml Cargo.lock ./
COPY crates/leastconn/Cargo.toml crates/leastconn/
COPY crates/leastconn-lb/Cargo.toml crates/leastconn-lb/
COPY crates/leastconn-proxy-protocol/Cargo.toml crates/leastconn-proxy-protocol/
COPY crates/leastconn-server/Cargo.toml crates/leastconn-server/
COPY crates/leastconn-testkit/Cargo.toml crates/leastconn-testkit/
COPY bench/Cargo.toml bench/
RUN for crate in crates/* bench; do mkdir "$crate/src" && : > "$crate/src/lib.rs" \
 && sed -i -E '/^\[\[(bench|test|example|bin)\]\]/,/^$/d' "$crate/Cargo.toml"; done \
 && echo 'fn main() {}' > crates/leastconn-lb/src/main.rs \
 && cargo build --locked --release -p leastconn-lb --target "$(uname -m)-unknown-linux-gnu"
# Then ours. Cargo goes by modification times, and the empty crates are younger
# than the files of a checkout: touch.
COPY . .
RUN find crates -name '*.rs' -exec touch {} + \
 && cargo build --locked --release -p leastconn-lb --target "$(uname -m)-unknown-linux-gnu" \
 && mkdir /out && cp "target/$(uname -m)-unknown-linux-gnu/release/leastconn-lb" /out/

FROM base AS final
ARG VERSION=unknown
ARG REVISION=unknown
LABEL org.opencontainers.image.version="${VERSION}" \
      org.opencontainers.image.revision="${REVISION}"
COPY LICENSE-MIT LICENSE-APACHE /
COPY --from=build /out/leastconn-lb /leastconn-lb
