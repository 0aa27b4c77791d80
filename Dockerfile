# The image contains one static binary, which runs as a non-root user.
#
#   docker build -t leastconn-lb:local .
#
# or with a static binary that was built outside (as make docker-test does):
#
#   cp …/leastconn-lb .docker-build/ && docker build --target prebuilt -t leastconn-lb:local .
#
# Works with the classic builder of Docker 20.10 and with BuildKit: no --mount, no heredocs.
# The classic builder runs every stage before the target, so `prebuilt` comes before the stage
# that compiles.

ARG BUILDER_IMAGE=rust:1.95-bookworm

# Common part of both images.
FROM scratch AS base
COPY deploy/docker/passwd deploy/docker/group /etc/
LABEL org.opencontainers.image.title="leastconn-lb" \
      org.opencontainers.image.description="TCP load balancer: mutual TLS, per-client rights and limits, least connections" \
      org.opencontainers.image.licenses="MIT OR Apache-2.0"
# Numeric, so that Kubernetes' runAsNonRoot can check it.
USER 65532:65532
EXPOSE 9443 9901
STOPSIGNAL SIGTERM
HEALTHCHECK --interval=5s --timeout=3s --start-period=5s --retries=3 \
  CMD ["/leastconn-lb", "healthcheck", "--config", "/etc/leastconn/leastconn.toml"]
ENTRYPOINT ["/leastconn-lb"]
CMD ["run", "--config", "/etc/leastconn/leastconn.toml"]

# The binary comes from the build context. The licence files keep this COPY valid if there is
# no binary and another stage is built.
FROM base AS prebuilt
COPY LICENSE-MIT LICENSE-APACHE .docker-build/leastconn-lb* /

FROM ${BUILDER_IMAGE} AS build
WORKDIR /src
# Static glibc: name resolution by files and DNS needs no shared objects. With --target, the
# flag does not apply to build scripts. Line tables are stripped, because they would be three
# quarters of the binary. Function names remain for backtraces.
ENV RUSTFLAGS="-C target-feature=+crt-static" CARGO_PROFILE_RELEASE_STRIP=debuginfo
# First compile the dependencies with empty crates, in a layer that is reused until a manifest
# or the lock file changes. cargo rejects manifests that list benchmarks whose files do not exist
# yet, so these entries are removed here. The original manifests are copied again below.
COPY Cargo.toml Cargo.lock ./
COPY crates/leastconn/Cargo.toml crates/leastconn/
COPY crates/leastconn-lb/Cargo.toml crates/leastconn-lb/
COPY crates/leastconn-proxy-protocol/Cargo.toml crates/leastconn-proxy-protocol/
COPY crates/leastconn-server/Cargo.toml crates/leastconn-server/
COPY crates/leastconn-sim/Cargo.toml crates/leastconn-sim/
COPY crates/leastconn-fleet/Cargo.toml crates/leastconn-fleet/
COPY crates/leastconn-config/Cargo.toml crates/leastconn-config/
COPY crates/leastconn-tls/Cargo.toml crates/leastconn-tls/
COPY crates/leastconn-testkit/Cargo.toml crates/leastconn-testkit/
COPY bench/Cargo.toml bench/
RUN for crate in crates/* bench; do mkdir "$crate/src" && : > "$crate/src/lib.rs" \
 && sed -i -E '/^\[\[(bench|test|example|bin)\]\]/,/^$/d' "$crate/Cargo.toml"; done \
 && echo 'fn main() {}' > crates/leastconn-lb/src/main.rs \
 && cargo build --locked --release -p leastconn-lb --target "$(uname -m)-unknown-linux-gnu"
# Then compile the workspace. Cargo compares modification times, and the empty crates are newer
# than the checked-out files, so the files must be touched.
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
