# What a developer does, one name each. Set up once: python3 -m venv .venv && . .venv/bin/activate && make setup

.PHONY: setup test slow lint format types samples testcard-measure bench ci

setup:             ## install for development
	pip install -e '.[dev]'

test:              ## the test suite on all cores
	pytest -n auto

slow:              ## long fuzzing and soak runs
	pytest -n auto -m slow

lint:              ## style and common mistakes
	ruff check .
	ruff format --check .

format:            ## put the code in the house's form
	ruff format .
	ruff check --fix .

types:             ## mypy, strict on moderate/
	mypy

samples:           ## draw sample_images/ again
	python sample_images/make.py

testcard-measure:  ## how the shipped test card weights measure
	python weights/testcard/measure.py

bench:             ## benchmarks; each prints a table
	python benchmarks/peers.py

ci:                ## what has to pass before a change lands
	bash .ci/run
