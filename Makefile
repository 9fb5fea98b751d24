# What people type. `make` alone lists it.
PYTHON ?= python3
SCENARIO ?=
BENCH ?=
VENV := $(CURDIR)/.venv
export PATH := $(VENV)/bin:$(PATH)
export PYTHON
# Ansible is started some hundred times; without compiled files each start takes half as long again.
unexport PYTHONDONTWRITEBYTECODE
# The published ports are those of inventory/demo/hosts.yml.
DEMO_HOSTS := server12=debian12:8012:8412 server13=debian13:8013:8413
LINK := .ansible/collections/ansible_collections/wsfleet/websockets
MAKEFLAGS += --no-print-directory
.DEFAULT_GOAL := help
.PHONY: help setup venv images demo demo-down test test-unit lint scenarios bench lock clean

help: ## List what can be made
	@awk -F ':.*## ' '/^[a-z-]+:.*## / {printf "make %-10s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

setup: ## Install what is missing: Python environment, container engine, images
	@tools/setup.sh servers
	@engine=$$($(PYTHON) tools/servers.py engine) && echo "containers: $$engine"
	@$(MAKE) -j2 venv images

venv: $(VENV)/.installed $(LINK)
	@:

$(VENV)/.installed: requirements.txt
	@tools/setup.sh
	@echo "environment: installing into .venv (a minute or two)"
	@$(PYTHON) -m venv $(VENV)
	@$(VENV)/bin/pip install --quiet --no-compile --disable-pip-version-check --require-hashes --requirement requirements.txt
	@touch $@
	@echo "environment: ready"

$(LINK):
	@mkdir -p $(dir $@)
	@ln -sfn ../../../.. $@

images:
	@$(PYTHON) tools/servers.py images

demo: setup ## Start two servers on this machine, deploy to them and try them
	@tools/servers.py up demo $(DEMO_HOSTS) --inventory inventory/demo/servers.yml
	@ansible-playbook -i inventory/demo site.yml
	@ansible-playbook -i inventory/demo playbooks/verify.yml
	@sed "s/ENGINE/$$(tools/servers.py engine)/" inventory/demo/.next

demo-down: ## Remove all that `make demo` started
	@$(PYTHON) tools/servers.py down demo
	@rm -rf inventory/demo/servers.yml inventory/demo/.tls

test: setup ## Run every check, unit test and scenario
	@python tools/test.py

test-unit: venv ## Run the unit tests
	@python tools/test.py unit

lint: venv ## Run linters and type checks
	@python tools/test.py lint

scenarios: setup ## Run the Molecule scenarios, or one: make scenarios SCENARIO=default
	@python tools/test.py scenarios $(SCENARIO)

bench: setup ## Measure changes beside the usual recipe, or one part: make bench BENCH=load
	@python -m tools.bench $(BENCH)

soak: setup ## Run the scenarios that take too long for every day
	@python tools/test.py soak

lock: venv ## Write requirements.txt anew from requirements.in
	@uv pip compile --quiet --universal --generate-hashes --python-version 3.11 --no-emit-index-url \
		requirements.in -o requirements.txt

clean: demo-down ## Remove images, environment, caches and logs
	@$(PYTHON) tools/servers.py clean
	@rm -rf .venv .ansible .cache build
