# `make` lists the targets. All of them need cargo and a C compiler. scripts/setup.sh checks
# for the other programs that a target needs. As root on Debian and Ubuntu, it installs them;
# otherwise it prints what is missing.

SHELL := /bin/bash
.SHELLFLAGS := -eu -o pipefail -c
.DEFAULT_GOAL := help
MAKEFLAGS += --no-print-directory

CARGO ?= cargo
CONFIG ?= examples/local.toml
DEMO_ARGS ?=
BENCH_ARGS ?=
BALANCE_ARGS ?=
SCREENSHOT_ARGS ?=
SIM_ARGS ?= --charts docs/images --update docs/explanation/balancing.md
ATTACK_ARGS ?=
RACE_ROUNDS ?= 20
FUZZ_SECONDS ?= 60
SOAK_MINUTES ?= 60
SOAK_ARGS ?=
IMAGE ?= leastconn-lb:local
PREFIX ?= /usr/local
DESTDIR ?=

# docker-compose 1.29 or `docker compose`, whichever is installed.
COMPOSE = $(shell docker compose version >/dev/null 2>&1 && echo docker compose || echo docker-compose)

# The container must read the server's key (mode 0600), so it runs as the user that
# owns the key, never as root. See docker-compose.yml.
ifeq ($(shell id -u),0)
LB_UID ?= 65532
LB_GID ?= 65532
KEY_OWNER = --owner $(LB_UID):$(LB_GID)
else
LB_UID ?= $(shell id -u)
LB_GID ?= $(shell id -g)
KEY_OWNER =
endif
export LB_UID LB_GID

.PHONY: help
help: ## List the targets
	@awk 'BEGIN { FS = ":.*## " } \
	  /^##@/ { printf "\n%s\n", substr($$0, 5) } \
	  /^[a-z-]+:.*## / { printf "  %-22s %s\n", $$1, $$2 }' $(firstword $(MAKEFILE_LIST))

##@ Try it

.PHONY: demo
demo: ## Run a balancer with servers and clients, no setup needed (DEMO_ARGS="--seconds 10")
	@scripts/setup.sh --build
	@# For a short first build: without `top`, line tables and data for incremental builds.
	CARGO_INCREMENTAL=0 CARGO_PROFILE_DEV_DEBUG=0 $(CARGO) run --locked -p leastconn-lb --no-default-features --features dashboard,demo -- demo $(DEMO_ARGS)

.PHONY: demo-fleet
demo-fleet: ## Run three balancers that act as one through Valkey or Redis, no setup needed, 20 seconds
	@scripts/setup.sh --store
	$(CARGO) build --locked -p leastconn-lb
	@scripts/demo-fleet.py

.PHONY: run
run: certs ## Run the balancer with CONFIG=examples/local.toml; run make simulate-upstreams first
	@scripts/setup.sh --build
	$(CARGO) run --locked --release -p leastconn-lb -- run --config $(CONFIG)

.PHONY: simulate-upstreams
simulate-upstreams: ## Start two web servers on 127.0.0.1:8081 and 8082, for make run
	@scripts/simulate-upstreams.sh start

.PHONY: stop-upstreams
stop-upstreams: ## Stop the web servers of make simulate-upstreams
	@scripts/simulate-upstreams.sh stop

.PHONY: certs
certs: ## Generate missing test certificates in certs/
	@certs/generate_certs.sh $(KEY_OWNER)
	@certs/generate_alt_certs.sh

##@ Develop

.PHONY: build
build: ## Build the release binary, target/release/leastconn-lb
	@scripts/setup.sh --build
	$(CARGO) build --locked --release -p leastconn-lb

.PHONY: test
test: ## Run all tests
	@scripts/setup.sh --test
	@if cargo nextest --version >/dev/null 2>&1; then \
	  echo '$(CARGO) nextest run --locked --workspace' && $(CARGO) nextest run --locked --workspace && \
	  echo '$(CARGO) test --locked --workspace --doc' && $(CARGO) test --locked --workspace --doc; \
	else \
	  echo '$(CARGO) test --locked --workspace' && $(CARGO) test --locked --workspace; \
	fi

.PHONY: test-docs
test-docs: ## Run the commands of the README and of the guides in network namespaces, about a minute
	@scripts/setup.sh --test
	$(CARGO) build --locked -p leastconn-lb
	scripts/docs-test.py

.PHONY: test-browser
test-browser: ## Test the dashboard in Chromium (part of make test where Chromium is installed)
	@scripts/setup.sh --browser
	LEASTCONN_BROWSER=required $(CARGO) test --locked -p leastconn-lb --test browser -- --test-threads 2

.PHONY: screenshots
screenshots: ## Take pictures of the dashboard with 0, 7 and 60 servers, into target/screenshots (SCREENSHOT_ARGS="--docs" also replaces those in docs/images)
	@scripts/setup.sh --browser
	$(CARGO) build --locked -p leastconn-lb
	scripts/screenshots.py $(SCREENSHOT_ARGS)

.PHONY: test-long
test-long: ## Run the long end-to-end tests: 8,000 connections, 200 reloads under load, 100,000 connects during 20 upgrades, admin latency, a million identities (needs 20,000 open files)
	$(CARGO) test --locked --release -p leastconn --test limit_memory
	LEASTCONN_LONG=1 $(CARGO) test --locked --release -p leastconn-lb --test e2e -- --test-threads 1 --nocapture
	LEASTCONN_LONG=1 $(CARGO) test --locked --release -p leastconn-lb --test real_programs amqp -- --nocapture

.PHONY: test-fleet
test-fleet: ## Run the long tests of fleets with Redis and Valkey, and print each figure beside its target, 10 minutes
	@scripts/setup.sh --test
	@scripts/test-fleet.sh

.PHONY: test-race
test-race: loom ## Run the loom models, then the multi-threaded tests repeatedly (RACE_ROUNDS=20)
	$(CARGO) test --locked --release -p leastconn --test concurrency --no-run
	@log=$$(mktemp); trap 'rm -f "$$log"' EXIT; \
	for i in $$(seq $(RACE_ROUNDS)); do \
	  $(CARGO) test --locked --release -p leastconn --test concurrency --quiet >"$$log" 2>&1 || { cat "$$log"; echo "round $$i failed"; exit 1; }; \
	done; echo "$(RACE_ROUNDS) rounds of: $$(grep '^test result' "$$log")"

# The flag changes every dependency, so it needs its own target directory. The `tokio`
# feature is off because Tokio has no network support under loom.
.PHONY: loom
loom: ## Run the loom model tests only
	RUSTFLAGS="--cfg loom" $(CARGO) test --locked --release -p leastconn --no-default-features --target-dir target/loom --test loom

.PHONY: fuzz
fuzz: ## Fuzz all parsers, the relay and TLS streams, FUZZ_SECONDS=60 each (needs: cargo install cargo-fuzz)
	@scripts/fuzz.sh --seconds $(FUZZ_SECONDS)

.PHONY: lint
lint: ## Check format, clippy, docs, links, architecture, dependencies, scripts
	@scripts/setup.sh --lint
	$(CARGO) fmt --all --check
	$(CARGO) clippy --locked --workspace --all-targets -- -D warnings
	$(CARGO) check --locked -p leastconn --no-default-features
	@for features in '' dashboard demo top; do \
	  echo "$(CARGO) clippy --locked -p leastconn-lb --no-default-features --features '$$features' -- -D warnings"; \
	  $(CARGO) clippy --locked -p leastconn-lb --no-default-features --features "$$features" -- -D warnings; \
	done
	RUSTDOCFLAGS="-D warnings" $(CARGO) doc --locked --workspace --no-deps
	scripts/check-architecture.sh
	scripts/deny.sh
	deploy/systemd/check.sh
	@if command -v node >/dev/null; then \
	  echo node --check; for script in crates/leastconn-server/src/dashboard/*.js; do node --input-type=module --check <$$script || exit 1; done; \
	else echo 'node is not installed: dashboard scripts are not checked'; fi
	@if command -v shellcheck >/dev/null; then \
	  echo shellcheck; shellcheck -x bench/*.sh certs/*.sh scripts/*.sh deploy/*.sh deploy/*/*.sh test/*.sh .ci/run \
	    deploy/debian/postinst deploy/debian/prerm deploy/debian/postrm; \
	else echo 'shellcheck is not installed: shell scripts are not checked'; fi

.PHONY: fmt
fmt: ## Format the code
	$(CARGO) fmt --all

.PHONY: docs
docs: ## Build the library's documentation, target/doc/leastconn/index.html
	@scripts/setup.sh --build
	$(CARGO) doc --locked --workspace --no-deps

.PHONY: clean
clean: stop-upstreams ## Remove build output; keeps certificates (renew them with certs/generate_certs.sh --force)
	$(CARGO) clean
	rm -rf .docker-build

##@ Measure

.PHONY: bench
bench: ## Compare with HAProxy, nginx, Envoy and Traefik, about 30 minutes (BENCH_ARGS="--rounds 5"); see bench/README.md
	@scripts/setup.sh --build
	bench/peers.sh
	$(CARGO) build --locked --release -p leastconn-lb -p leastconn-bench
	target/release/leastconn-bench compare $(BENCH_ARGS)

.PHONY: bench-balance
bench-balance: ## Compare how connections are distributed when servers fail, return or are full, 3 minutes (BALANCE_ARGS="--only restart")
	@scripts/setup.sh --build
	bench/peers.sh
	$(CARGO) build --locked --release -p leastconn-lb -p leastconn-bench
	target/release/leastconn-bench balance $(BALANCE_ARGS)

.PHONY: bench-smoke
bench-smoke: ## Check that the benchmark works, about a minute, with the installed peers; fails on errors, not on slow results
	@scripts/setup.sh --build
	@# The dev profile is built already; its figures are meaningless.
	$(CARGO) build --locked -p leastconn-lb -p leastconn-bench
	target/debug/leastconn-bench compare --quick --rounds 1 --unpinned \
	  --binary target/debug/leastconn-lb --out target/bench-smoke

.PHONY: sim
sim: ## Simulate the balancing algorithms and update docs/explanation/balancing.md (SIM_ARGS="--only restart" updates nothing)
	@scripts/setup.sh --build
	$(CARGO) run --locked -p leastconn-sim -- $(SIM_ARGS)

.PHONY: attack
attack: ## Measure what attacks cost the release binary, and nginx and HAProxy if installed, two minutes on loopback (ATTACK_ARGS="--seconds 5 --only handshakes")
	@scripts/setup.sh --build
	$(CARGO) build --locked --release -p leastconn-lb
	bench/attack/run.py $(ATTACK_ARGS)

.PHONY: soak
soak: ## Run the release binary under mixed load, reloads, upgrades and failures, SOAK_MINUTES=60; fails if anything leaks
	@scripts/setup.sh --build
	$(CARGO) build --locked --release -p leastconn-lb
	bench/soak/run.py --minutes $(SOAK_MINUTES) $(SOAK_ARGS)

.PHONY: instructions
instructions: ## Count instructions per pick, admission, authorization, handshake, echo and MiB with valgrind
	@scripts/setup.sh --instructions
	@scripts/instructions.py

.PHONY: size
size: ## Print size and start-up time of the release binary, with limits in scripts/size-limits.json; test the build without cargo features
	@scripts/setup.sh --build
	$(CARGO) build --locked --release -p leastconn-lb --no-default-features
	@# The next build replaces the file.
	@mkdir -p target/minimal && cp target/release/leastconn-lb target/minimal/leastconn-lb
	$(CARGO) build --locked --release -p leastconn-lb
	@scripts/size.py
	@scripts/minimal-build.py target/minimal/leastconn-lb target/release/leastconn-lb

##@ Install

.PHONY: deb
deb: ## Build the Debian package, target/debian/leastconn-lb_VERSION_ARCH.deb (installs cargo-deb if missing)
	@deploy/debian/build.sh

.PHONY: deb-test
deb-test: ## Install, start, use, upgrade and purge the package in a temporary Debian system (as root)
	@deploy/debian/test.sh

.PHONY: dist
dist: ## Build a static tarball with checksums, SBOM and licences, target/dist (DIST_TARGET=aarch64-unknown-linux-gnu)
	@scripts/setup.sh --build
	@deploy/dist/build.sh

.PHONY: install
install: ## Install program, service, manual pages and completions without a package (PREFIX=/usr/local, DESTDIR=)
	@PREFIX=$(PREFIX) DESTDIR=$(DESTDIR) deploy/install.sh

##@ Kubernetes

.PHONY: kubernetes-test
kubernetes-test: ## Validate the manifests against the Kubernetes schemas and each other
	@deploy/kubernetes/test.sh

##@ Docker

.PHONY: docker-build
docker-build: ## Build the image (IMAGE=leastconn-lb:local)
	docker build --build-arg VERSION=$$(sed -n 's/^version = "\(.*\)"/\1/p' Cargo.toml | head -n 1) \
	  --build-arg REVISION=$$(git rev-parse --short HEAD 2>/dev/null || echo unknown) -t $(IMAGE) .

.PHONY: docker-run
docker-run: certs ## Run the image on the host network with CONFIG; stop with Ctrl-C
	docker run --rm --network host --user $(LB_UID):$(LB_GID) --read-only --cap-drop ALL --no-healthcheck \
	  -v "$(abspath $(CONFIG)):/etc/leastconn/conf/leastconn.toml:ro" \
	  -v "$(CURDIR)/certs/server:/etc/leastconn/certs/server:ro" \
	  -v "$(CURDIR)/certs/ca:/etc/leastconn/certs/ca:ro" -v /dev/null:/etc/leastconn/certs/ca/ca.key.pem:ro \
	  $(IMAGE) run --config /etc/leastconn/conf/leastconn.toml

.PHONY: docker-compose-build
docker-compose-build: ## Build the images of docker-compose.yml
	$(COMPOSE) build

.PHONY: docker-compose
docker-compose: certs ## Start two web servers and the balancer on port 9443; test with certs/test-mtls.sh
	$(COMPOSE) up -d --build

.PHONY: docker-compose-down
docker-compose-down: ## Stop and remove the containers of make docker-compose
	$(COMPOSE) down

.PHONY: docker-test
docker-test: ## Start docker-compose.yml briefly and check which client reaches which server
	@scripts/setup.sh --build
	@deploy/docker-test.sh

.PHONY: docker-test-full
docker-test-full: ## Like docker-test, with an image compiled by the Dockerfile
	@deploy/docker-test.sh --full
