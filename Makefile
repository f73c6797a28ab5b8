# `make help` lists what there is.

SHELL := bash
.DEFAULT_GOAL := help
.PHONY: help deps wasm build demo test bench envoy host seeds fmt fmt-check lint commands commands-check doc ci clean

PORT ?= 6379
CONCURRENCY ?= 2

run := cargo run --quiet --locked --package slotmesh-testbed --bin slotmesh-run --
# Shared by `envoy` and `host`; quoted, for a path or an address may hold anything.
proxy_args = $(if $(SEEDS),--seeds '$(SEEDS)') $(if $(CONFIG),--config '$(CONFIG)') \
	--port '$(PORT)' $(if $(BIND),--bind '$(BIND)')

help: ## list the targets
	@awk -F ':.*## ' '/^[a-z-]+:.*## / {printf "  %-15s %s\n", $$1, $$2}' $(firstword $(MAKEFILE_LIST))

deps: ## install what is missing: redis-server, Envoy (into .venv), a compiler for wasm32
	@scripts/install-deps

wasm: deps ## build the module: target/wasm/slotmesh.wasm
	@scripts/build-wasm

build: wasm ## build everything
	cargo build --locked

demo: wasm ## start a Redis Cluster and Envoy, walk through sharding, replicas and a mirror, check every step
	@echo 'demo: building the walk-through' >&2
	@$(run) demo

test: wasm ## run all tests, on real Redis and Envoy
	cargo test --locked

bench: wasm ## measure the module side by side with Envoy's redis_proxy: [ARGS='--quick --only GET --out dir']
	@echo 'bench: building the load generator' >&2
	@cargo run --quiet --locked --profile bench --package slotmesh-bench --bin slotmesh-bench -- $(ARGS)

envoy: seeds wasm ## run Envoy with the module: SEEDS=host:port,... [PORT=6379 BIND=127.0.0.1 CONFIG=plugin.json CONCURRENCY=2 ADMIN_PORT=n]
	@$(run) envoy $(proxy_args) --concurrency '$(CONCURRENCY)' $(if $(ADMIN_PORT),--admin-port '$(ADMIN_PORT)')

host: seeds wasm ## run our own host with the module: SEEDS=host:port,... [PORT=6379 BIND=127.0.0.1 CONFIG=plugin.json]
	@cargo build --quiet --locked --package slotmesh-host
	@$(run) host $(proxy_args)

# Before anything is installed or built.
seeds:
	@$(if $(SEEDS)$(CONFIG),,echo 'error: set SEEDS=host:port,host:port (or CONFIG=plugin.json)' >&2; exit 2)

fmt: ## format the code
	cargo fmt --all

fmt-check: ## fail if code is not formatted
	cargo fmt --all --check

lint: ## fail on anything clippy, rustdoc or shellcheck (where it is installed) says
	cargo clippy --locked --workspace --all-targets -- -D warnings
	RUSTDOCFLAGS='-D warnings' cargo doc --locked --workspace --no-deps --document-private-items --quiet
	@if command -v shellcheck >/dev/null; then shellcheck -x scripts/lib.sh scripts/install-deps scripts/build-wasm .ci/run; \
	else echo 'lint: shellcheck is not installed, scripts are not checked'; fi

commands: ## generate the command table anew
	python3 scripts/gen-commands.py

commands-check: ## fail if the command table is not what its generator makes
	python3 scripts/gen-commands.py --check

doc: ## build the documentation: target/doc
	cargo doc --locked --workspace --no-deps --document-private-items

ci: ## run exactly what CI runs
	.ci/run

clean: ## remove what was built; .venv stays
	cargo clean
