# make demo · make test · make test-browser · make check · make bench: each makes its own .venv first, once.
PYTHON ?= python3
BIN := .venv/bin
# Test files are shared out among processes of one thread each.
SHARED := -n auto --maxprocesses 4 --dist loadfile
STAMP := .venv/.made-of-$(shell cat pyproject.toml constraints.txt | cksum | cut -d' ' -f1)

.PHONY: demo test test-all test-browser check bench clean

demo: $(STAMP)
	@$(BIN)/sightword demo

test: $(STAMP)
	@$(BIN)/python -m pytest $(SHARED)

test-all: $(STAMP) .venv/.extras
	@$(BIN)/python -m pytest $(SHARED) -m "not gpu and not browser"

# The page in a real browser: Debian's chromium, or the one that CHROMIUM names.
test-browser: $(STAMP) .venv/.browser
	@$(BIN)/python -m pytest -m browser tests/serve

check: $(STAMP)
	@$(BIN)/ruff format --check .
	@$(BIN)/ruff check .
	@$(BIN)/mypy

bench: $(STAMP) .venv/.bench
	@$(BIN)/python -m benchmarks

clean:
	rm -rf .venv runs

# A changed pyproject.toml or constraints.txt has another checksum, so the environment is made again.
$(STAMP): pyproject.toml constraints.txt
	@echo "making .venv (once; some minutes, mostly PyTorch) ..."
	@test -x $(BIN)/python || $(PYTHON) -m venv .venv
	@$(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt -e ".[dev]"
	@rm -f .venv/.made-of-* .venv/.bench .venv/.extras .venv/.browser
	@touch $@

.venv/.bench: $(STAMP)
	@$(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt -e ".[bench]"
	@touch $@

.venv/.extras: $(STAMP)
	@$(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt -e ".[fid,ray,swanlab,tensorboard,wandb]"
	@touch $@

.venv/.browser: $(STAMP)
	@$(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt -e ".[browser]"
	@touch $@
