# Two commands for a newcomer: `make demo` and `make test`. Both set the environment up when it is missing.
.PHONY: demo test test-unit test-whole setup lint slow gpu clean

setup: .venv/ready

.venv/ready: pyproject.toml constraints.txt scripts/setup.sh
	scripts/setup.sh

demo: setup
	.venv/bin/graft run recipes/clinic.yaml
	@echo
	@echo "Open runs/clinic/report.html, or talk to the expert:  .venv/bin/graft chat runs/clinic"

lint: setup
	.venv/bin/ruff check
	.venv/bin/mypy

# Two processes, one a core: tests use one thread each.
test: lint
	$(MAKE) -j2 --output-sync=target test-unit test-whole

test-unit:
	.venv/bin/python -m pytest tests/unit

test-whole:
	.venv/bin/python -m pytest tests/layers_test.py tests/parity tests/invariant tests/e2e

slow: setup
	.venv/bin/python -m pytest -m slow

gpu:
	python3 -m pytest -m gpu

clean:
	rm -rf .venv runs build dist .pytest_cache .mypy_cache .ruff_cache src/*.egg-info
