# make demo   trains the handwritten digits example      make test   formatting, lint, types, tests
# make clean  removes what these made                    Needs Python 3.10 or newer, and nothing else.
# make tools  installs emulators and a browser (Debian, as root), without which `make test` skips some tests

PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin

.PHONY: demo test format clean tools

# The emulators run what was compiled for other machines, the browser looks at pages; a tool and its package.
TOOLS := qemu-aarch64:qemu-user qemu-system-arm:qemu-system-arm chromium:chromium chromedriver:chromium-driver
MISSING := $(foreach tool,$(TOOLS),$(if $(shell command -v $(firstword $(subst :, ,$(tool)))),,$(lastword $(subst :, ,$(tool)))))

demo: $(VENV)/.demo
	$(BIN)/python examples/digits.py

test: $(VENV)/.test
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/python -m pytest -n 2

format: $(VENV)/.test
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

# The stamps depend on pyproject.toml, so that a new dependency installs itself; the install is editable, so that
# a change of the sources needs none.
$(VENV)/.demo: pyproject.toml $(VENV)/.created
	$(BIN)/python -m pip install --quiet --editable '.[demo]'
	touch $@

$(VENV)/.test: pyproject.toml $(VENV)/.created
	$(BIN)/python -m pip install --quiet --editable '.[demo,test]'
	touch $@ $(VENV)/.demo

# --clear: what an interrupted run left half made is made anew
$(VENV)/.created:
	$(PYTHON) -m venv --clear $(VENV)
	touch $@

tools:
	$(if $(strip $(MISSING)),apt-get update -qq && apt-get install -qq -y --no-install-recommends $(MISSING),@echo "tools: all there")

clean:
	rm -rf $(VENV) build dist *.egg-info .mypy_cache .ruff_cache .pytest_cache .hypothesis
