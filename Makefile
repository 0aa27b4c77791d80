# `make` says what there is. Everything needs only cargo and a C compiler; what a
# target needs besides is checked by scripts/setup.sh, which installs it (as root,
# on Debian and Ubuntu) or says what is missing.

SHELL := /bin/bash
.SHELLFLAGS := -eu -o pipefail -c
.DEFAULT_GOAL := help
MAKEFLAGS += --no-print-directory

CARGO ?= cargo
CONFIG ?= examples/local.toml
DEMO_ARGS ?=
BENCH_ARGS ?=
ATTACK_ARGS ?=
RACE_ROUNDS ?= 20
FUZZ_SECONDS ?= 60
IMAGE ?= leastconn-lb:local
PREFIX ?= /usr/local
DESTDIR ?=

# docker-compose 1.29 or `docker compose`, whichever is there.
COMPOSE = $(shell docker compose version >/dev/null 2>&1 && echo docker compose || echo docker-compose)

# The balancer's container must read the server's key (mode 0600): it runs as
# whoever owns it, and never as root. See docker-compose.yml.
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
help: ## What there is to make
	@awk 'BEGIN { FS = ":.*## " } \
	  /^##@/ { printf "\n%s\n", substr($$0, 5) } \
	  /^[a-z-]+:.*## / { printf "  %-22s %s\n", $$1, $$2 }' $(firstword $(MAKEFILE_LIST))

##@ Try it

.PHONY: demo
demo: ## A balancer, servers and clients in one, with nothing prepared (DEMO_ARGS="--seconds 10")
	@scripts/setup.sh --build
	$(CARGO) run --locked -p leastconn-lb -- demo $(DEMO_ARGS)

.PHONY: run
run: certs ## The balancer on this machine (CONFIG=examples/local.toml); first make simulate-upstreams
	@scripts/setup.sh --build
	$(CARGO) run --locked --release -p leastconn-lb -- run --config $(CONFIG)

.PHONY: simulate-upstreams
simulate-upstreams: ## Two web servers on 127.0.0.1:8081 and 8082, for make run
	@scripts/simulate-upstreams.sh start

.PHONY: stop-upstreams
stop-upstreams: ## End them
	@scripts/simulate-upstreams.sh stop

.PHONY: certs
certs: ## Test certificates in certs/, as far as they are missing
	@certs/generate_certs.sh $(KEY_OWNER)
	@certs/generate_alt_certs.sh

##@ Work on it

.PHONY: build
build: ## The release binary, target/release/leastconn-lb
	@scripts/setup.sh --build
	$(CARGO) build --locked --release -p leastconn-lb

.PHONY: test
test: ## All tests
	@scripts/setup.sh --test
	@if cargo nextest --version >/dev/null 2>&1; then \
	  echo '$(CARGO) nextest run --locked --workspace' && $(CARGO) nextest run --locked --workspace && \
	  echo '$(CARGO) test --locked --workspace --doc' && $(CARGO) test --locked --workspace --doc; \
	else \
	  echo '$(CARGO) test --locked --workspace' && $(CARGO) test --locked --workspace; \
	fi

.PHONY: test-browser
test-browser: ## The dashboard in a real Chromium (make test does it too, where there is one)
	@scripts/setup.sh --browser
	LEASTCONN_BROWSER=required $(CARGO) test --locked -p leastconn-lb --test browser -- --test-threads 2

.PHONY: test-long
test-long: ## The long variants of the end-to-end tests: one of 8,000 connections revoked, 200 reloads under load, 100,000 connects during 20 upgrades, the latency of the admin side, a million identities (needs 20,000 open files)
	$(CARGO) test --locked --release -p leastconn --test limit_memory
	LEASTCONN_LONG=1 $(CARGO) test --locked --release -p leastconn-lb --test e2e -- --test-threads 1 --nocapture

.PHONY: test-race
test-race: loom ## Every interleaving of the small models, then the tests with real threads again and again (RACE_ROUNDS=20)
	$(CARGO) test --locked --release -p leastconn --test exact_under_threads --no-run
	@log=$$(mktemp); trap 'rm -f "$$log"' EXIT; \
	for i in $$(seq $(RACE_ROUNDS)); do \
	  $(CARGO) test --locked --release -p leastconn --test exact_under_threads --quiet >"$$log" 2>&1 || { cat "$$log"; echo "round $$i failed"; exit 1; }; \
	done; echo "$(RACE_ROUNDS) rounds of: $$(grep '^test result' "$$log")"

# The flag reaches every dependency, hence a directory of its own. Without the
# feature tokio, which has no network under loom.
.PHONY: loom
loom: ## The model-checked tests alone
	RUSTFLAGS="--cfg loom" $(CARGO) test --locked --release -p leastconn --no-default-features --target-dir target/loom --test loom

# cargo-fuzz wants a nightly compiler for flags that a stable one takes too, when
# told so. Without a sanitizer: that needs a standard library built for it, and
# there is no unsafe code to find fault with.
.PHONY: fuzz
fuzz: ## Fuzz the TLS record layer, PROXY headers and what is read from certificates, each target for FUZZ_SECONDS=60 (needs: cargo install cargo-fuzz)
	@cargo fuzz --version >/dev/null 2>&1 || { echo 'cargo-fuzz is missing: cargo install --locked cargo-fuzz'; exit 1; }
	@for target in tls_record tls_stream identity patterns proxy_protocol; do \
	  mkdir -p fuzz/corpus/$$target; \
	  RUSTC_BOOTSTRAP=1 $(CARGO) fuzz run -s none $$target -- -max_total_time=$(FUZZ_SECONDS) \
	    -max_len=2048 -dict=fuzz/$$target.dict -print_final_stats=1; \
	done

.PHONY: lint
lint: ## Format, clippy, docs, architecture, dependencies, scripts
	@scripts/setup.sh --lint
	$(CARGO) fmt --all --check
	$(CARGO) clippy --locked --workspace --all-targets -- -D warnings
	$(CARGO) check --locked -p leastconn --no-default-features
	RUSTDOCFLAGS="-D warnings" $(CARGO) doc --locked --workspace --no-deps
	scripts/check-architecture.sh
	scripts/deny.sh
	deploy/systemd/check.sh
	@if command -v node >/dev/null; then \
	  echo node --check; for script in crates/leastconn-server/src/dashboard/*.js; do node --input-type=module --check <$$script || exit 1; done; \
	else echo 'node is not installed; the scripts of the dashboard not checked'; fi
	@if command -v shellcheck >/dev/null; then \
	  echo shellcheck; shellcheck -x bench/*.sh certs/*.sh scripts/*.sh deploy/*.sh deploy/*/*.sh test/*.sh .ci/run \
	    deploy/debian/postinst deploy/debian/prerm deploy/debian/postrm; \
	else echo 'shellcheck is not installed; scripts not checked'; fi

.PHONY: fmt
fmt: ## Format the code
	$(CARGO) fmt --all

.PHONY: docs
docs: ## The library's documentation, target/doc/leastconn/index.html
	@scripts/setup.sh --build
	$(CARGO) doc --locked --workspace --no-deps

.PHONY: clean
clean: stop-upstreams ## Remove what was built; certificates stay (certs/generate_certs.sh --force)
	$(CARGO) clean
	rm -rf .docker-build

##@ Measure

.PHONY: bench
bench: ## Side by side with HAProxy, nginx, Envoy and Traefik, half an hour (BENCH_ARGS="--rounds 5"); bench/README.md
	@scripts/setup.sh --build
	bench/peers.sh
	$(CARGO) build --locked --release -p leastconn-lb -p leastconn-bench
	target/release/leastconn-bench compare $(BENCH_ARGS)

.PHONY: bench-smoke
bench-smoke: ## Whether it still works, a minute, with the peers that are there; fails on errors, not on time
	@scripts/setup.sh --build
	@# The profile of the tests, which is built already: its figures mean nothing.
	$(CARGO) build --locked -p leastconn-lb -p leastconn-bench
	target/debug/leastconn-bench compare --quick --rounds 1 --unpinned \
	  --binary target/debug/leastconn-lb --out target/bench-smoke

.PHONY: attack
attack: ## What attacks cost the release binary, two minutes on loopback, with nginx and HAProxy beside if installed (ATTACK_ARGS="--seconds 5 --only handshakes")
	@scripts/setup.sh --build
	$(CARGO) build --locked --release -p leastconn-lb
	bench/attack/run.py $(ATTACK_ARGS)

.PHONY: instructions
instructions: ## Instructions for each pick, admission, echo and MiB, counted by valgrind
	@scripts/setup.sh --build
	@scripts/instructions.sh

##@ Install

.PHONY: deb
deb: ## The Debian package, target/debian/leastconn-lb_VERSION_ARCH.deb (installs cargo-deb if missing)
	@deploy/debian/build.sh

.PHONY: deb-test
deb-test: ## The package in a throw-away Debian: installed, started, used, upgraded, purged (as root)
	@deploy/debian/test.sh

.PHONY: install
install: ## Without a package: program, service, manual pages, completions (PREFIX=/usr/local, DESTDIR=)
	@PREFIX=$(PREFIX) DESTDIR=$(DESTDIR) deploy/install.sh

##@ Kubernetes

.PHONY: kubernetes-test
kubernetes-test: ## The manifests against the schemas of Kubernetes, and against each other
	@deploy/kubernetes/test.sh

##@ Docker

.PHONY: docker-build
docker-build: ## The image (IMAGE=leastconn-lb:local)
	docker build --build-arg VERSION=$$(sed -n 's/^version = "\(.*\)"/\1/p' Cargo.toml | head -n 1) \
	  --build-arg REVISION=$$(git rev-parse --short HEAD 2>/dev/null || echo unknown) -t $(IMAGE) .

.PHONY: docker-run
docker-run: certs ## The image on this machine's network with CONFIG; Ctrl-C ends it
	docker run --rm --network host --user $(LB_UID):$(LB_GID) --read-only --cap-drop ALL --no-healthcheck \
	  -v "$(abspath $(CONFIG)):/etc/leastconn/conf/leastconn.toml:ro" \
	  -v "$(CURDIR)/certs/server:/etc/leastconn/certs/server:ro" \
	  -v "$(CURDIR)/certs/ca:/etc/leastconn/certs/ca:ro" -v /dev/null:/etc/leastconn/certs/ca/ca.key.pem:ro \
	  $(IMAGE) run --config /etc/leastconn/conf/leastconn.toml

.PHONY: docker-compose-build
docker-compose-build: ## The composition's images
	$(COMPOSE) build

.PHONY: docker-compose
docker-compose: certs ## Two web servers and the balancer on port 9443; then certs/test-mtls.sh
	$(COMPOSE) up -d --build

.PHONY: docker-compose-down
docker-compose-down: ## Take the composition down
	$(COMPOSE) down

.PHONY: docker-test
docker-test: ## Start the composition for a moment and check who reaches what
	@scripts/setup.sh --build
	@deploy/docker-test.sh

.PHONY: docker-test-full
docker-test-full: ## The same with an image that the Dockerfile compiles
	@deploy/docker-test.sh --full
