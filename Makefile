# `make help` lists what there is.

SHELL := bash
.DEFAULT_GOAL := help
.PHONY: help deps test-deps wasm build demo compare test test-long chaos scale soak hostile test-envoys bench envoy host seeds image push fmt fmt-check lint commands commands-check manifests-check mesh mesh-up mesh-verify mesh-down mesh-matrix instructions instructions-write deny fuzz doc ci clean

PORT ?= 6379
CONCURRENCY ?= 2

run := cargo run --quiet --locked --package slotmesh-testbed --bin slotmesh-run --
count_instructions = cargo run --quiet --locked --profile bench --package slotmesh-instructions --
budget = bench/instructions/budget.json
# Without the engine, which may not compile before the table is written.
commands_table = cargo run --quiet --locked --package slotmesh-commands-table --no-default-features --bin slotmesh-commands-table
commands_reference = cargo run --quiet --locked --package slotmesh-commands-table --bin slotmesh-commands-reference
# Shared by `envoy` and `host`; quoted, for a path or an address may hold anything.
proxy_args = $(if $(SEEDS),--seeds '$(SEEDS)') $(if $(CONFIG),--config '$(CONFIG)') \
	--port '$(PORT)' $(if $(BIND),--bind '$(BIND)')

shell_scripts = $(shell git grep -lE '^\#!.*[/ ](ba)?sh$$|^\# shellcheck shell=')

help: ## list the targets
	@awk -F ':.*## ' '/^[a-z-]+:.*## / {printf "  %-15s %s\n", $$1, $$2}' $(firstword $(MAKEFILE_LIST))

deps: ## install what is missing: redis-server, Envoy (into .venv), a compiler for wasm32
	@scripts/install-deps

test-deps: deps ## install what only tests and `make lint` need: kubectl, yamllint, shellcheck, skopeo, valgrind, a registry
	@scripts/install-test-deps

wasm: deps ## build the module: target/wasm/slotmesh.wasm
	@scripts/build-wasm

build: wasm ## build everything
	cargo build --locked

demo: wasm ## start a Redis Cluster and Envoy, walk through sharding, replicas and a mirror, check every step
	@echo 'demo: building the walk-through' >&2
	@$(run) demo

compare: wasm ## look for redis_proxy's defects in it and in Slotmesh, side by side: docs/comparison.md
	@$(run) compare --output docs/comparison.md

test: wasm test-deps ## run all tests, on real Redis and Envoy
	cargo test --locked
	cargo test --locked --package slotmesh-filter --lib

test-long: wasm ## run the tests that take half a minute each and more: a mirror that hangs for as long
	cargo test --locked --package slotmesh-testbed --test failover -- --ignored --nocapture

chaos: wasm test-deps ## let nodes, network and Envoy fail under load, again and again: [ROUNDS=200 SEED=1 ONLY=Reload]
	SLOTMESH_CHAOS_ROUNDS='$(or $(ROUNDS),200)' SLOTMESH_CHAOS_SEED='$(or $(SEED),1)' SLOTMESH_CHAOS_ONLY='$(ONLY)' \
		cargo test --locked --package slotmesh-testbed --test chaos -- --nocapture no_fault

scale: wasm ## measure memory for each client, node and worker, and starts: docs/scale.md
	cargo test --locked --package slotmesh-testbed --test scale -- --include-ignored --nocapture

soak: wasm ## see that memory does not grow in an hour: [SOAK=3600, in seconds]
	SLOTMESH_SOAK_SECONDS='$(or $(SOAK),3600)' \
		cargo test --locked --package slotmesh-testbed --test scale -- --nocapture memory_does_not_grow

hostile: wasm ## let clients that mean harm use all bounds at once: [SECONDS=600, ONLY='never reads']
	SLOTMESH_HOSTILE_SECONDS='$(or $(SECONDS),600)' SLOTMESH_HOSTILE_ONLY='$(ONLY)' \
		cargo test --locked --package slotmesh-testbed --test hostile -- --nocapture

test-envoys: wasm test-deps ## try the manifests on the Envoys of other Istios: those in target/envoys
	@shopt -s nullglob; envoys=(target/envoys/*/bin/envoy); \
	[[ $${#envoys[@]} -gt 0 ]] || echo 'SKIPPED: no other Envoy is installed'; \
	for envoy in "$${envoys[@]}"; do \
	  echo "test-envoys: $$($$envoy --version)"; \
	  ENVOY=$(CURDIR)/$$envoy cargo test --locked --package slotmesh-istio-test || exit; \
	done

bench: wasm ## measure the module side by side with Envoy's redis_proxy: [ARGS='--quick --only GET --out dir']
	@echo 'bench: building the load generator' >&2
	@cargo run --quiet --locked --profile bench --package slotmesh-bench --bin slotmesh-bench -- $(ARGS)

instructions: test-deps ## count the instructions of the engine's hot paths; fail if one is 5 % above its budget
	@if command -v valgrind >/dev/null; then $(count_instructions) check $(budget); \
	else echo 'instructions: SKIPPED, valgrind is not installed'; fi

instructions-write: test-deps ## write the budget anew
	@$(count_instructions) write $(budget)

fuzz: ## fuzz the engine: [FUZZ=8s or FUZZ=20000 times on each target, TARGETS='events nodes']
	@scripts/fuzz $(or $(FUZZ),8s) $(TARGETS)

envoy: seeds wasm ## run Envoy with the module: SEEDS=host:port,... [PORT=6379 BIND=127.0.0.1 CONFIG=plugin.json CONCURRENCY=2 ADMIN_PORT=n ENV=NAME,... TLS_CA=ca.pem TLS_CERT=cert.pem TLS_KEY=key.pem]
	@$(run) envoy $(proxy_args) --concurrency '$(CONCURRENCY)' $(if $(ADMIN_PORT),--admin-port '$(ADMIN_PORT)') \
		$(if $(ENV),--env '$(ENV)') $(if $(TLS_CA),--tls-ca '$(TLS_CA)') \
		$(if $(TLS_CERT),--tls-cert '$(TLS_CERT)') $(if $(TLS_KEY),--tls-key '$(TLS_KEY)')

host: seeds wasm ## run our own host with the module: SEEDS=host:port,... [PORT=6379 BIND=127.0.0.1 CONFIG=plugin.json]
	@cargo build --quiet --locked --package slotmesh-host
	@$(run) host $(proxy_args)

# Before anything is installed or built.
seeds:
	@$(if $(SEEDS)$(CONFIG),,echo 'error: set SEEDS=host:port,host:port (or CONFIG=plugin.json)' >&2; exit 2)

image: wasm ## build the OCI image of the module, target/image, and print the sha256 that Istio wants
	@cargo run --quiet --locked --package slotmesh-image -- target/wasm/slotmesh.wasm target/image

push: image ## push the image: REGISTRY=registry.example/team [TAG=version TLS_VERIFY=false]
	@REGISTRY='$(REGISTRY)' TAG='$(TAG)' TLS_VERIFY='$(TLS_VERIFY)' scripts/push-image

fmt: ## format the code
	cargo fmt --all

fmt-check: ## fail if code is not formatted
	cargo fmt --all --check

lint: ## fail on anything clippy, rustdoc, shellcheck or yamllint (where they are installed) says
	cargo clippy --locked --workspace --all-targets -- -D warnings
	RUSTDOCFLAGS='-D warnings' cargo doc --locked --workspace --no-deps --document-private-items --quiet
	@if command -v shellcheck >/dev/null; then shellcheck -x $(shell_scripts); \
	else echo 'lint: shellcheck is not installed, scripts are not checked'; fi
	@if [ -x .venv/bin/yamllint ]; then .venv/bin/yamllint --strict .; \
	else echo 'lint: yamllint is not installed, manifests are not checked'; fi

commands: ## generate the command table and docs/commands.md anew
	@$(commands_table)
	@$(commands_reference)

commands-check: ## fail if one of them is not what its generator makes
	@$(commands_table) -- --check
	@$(commands_reference) -- --check

manifests-check: test-deps ## build every kustomization and check what comes out against the schemas of its kinds
	@.venv/bin/python scripts/check-manifests

mesh-up: image ## start a Kubernetes with Istio, a Redis Cluster and Slotmesh: kind-cluster/README.md [ISTIO=2026-04-23 ENVOY=path]
	@kind-cluster/mesh up

mesh-verify: ## walk through it as `make demo` does, and check what is said of Slotmesh
	@kind-cluster/mesh verify

mesh-down: ## end it
	@kind-cluster/mesh down

mesh: image ## all three, and a check that they leave the machine as it was
	@kind-cluster/mesh build
	@kind-cluster/leaves-nothing $(MAKE) --no-print-directory mesh-up mesh-verify mesh-down

mesh-matrix: image test-deps ## the same with both snapshots of Istio and two Envoys, each with each: an hour and more
	@for istio in 2026-04-23 2026-08-27; do for envoy in target/envoys/1.39.3/bin/envoy .venv/bin/envoy; do \
	  echo "mesh-matrix: Istio $$istio with $$envoy"; \
	  ISTIO=$$istio ENVOY=$(CURDIR)/$$envoy $(MAKE) --no-print-directory mesh || exit; \
	done; done

deny: ## check licences, sources and doubles of all dependencies; known vulnerabilities where GitHub can be reached
	cargo deny --locked check

doc: ## build the documentation: target/doc
	cargo doc --locked --workspace --no-deps --document-private-items

ci: ## run exactly what CI runs
	.ci/run

clean: ## remove what was built; .venv stays
	cargo clean
