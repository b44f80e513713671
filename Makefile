# The two commands of the README are `make demo` and `make test`; both install what is missing first.
SHELL := /bin/bash
.DEFAULT_GOAL := build

# By Debian's names: what building takes, and what the gate and the benchmarks take beside it.
TO_BUILD := erlang-base erlang-dev rebar3 gcc libc6-dev
TO_TEST := erlang-common-test erlang-dialyzer erlang-eunit erlang-tools erlang-runtime-tools erlang-observer erlang-edoc \
           erlang-proper erlang-meck erlang-metrics erlang-folsom elixir git
TO_BENCH := elixir gnuplot-nox

.PHONY: bootstrap build test demo docs bench bench-check soak sanitize clean help

bootstrap:
	@tools/bootstrap $(TO_BUILD) $(TO_TEST)

#: make           builds the library
build:
	@tools/bootstrap $(TO_BUILD)
	rebar3 compile

#: make test      the whole gate
test: bootstrap
	tools/gate

# elixir and git are for suites that are left out there. folsom, which newer releases lack, needs bear.
OTHER_OTP := test-otp-trixie test-otp-sid

#: make test-otp  the suites on the OTP of Debian trixie and sid, with the native library that was built here; as root, in 2 GB below _build/otp
.PHONY: test-otp $(OTHER_OTP)
test-otp: $(OTHER_OTP)
$(OTHER_OTP): test-otp-%: bootstrap build
	tools/otp $* erlang-base rebar3 erlang-bear $(filter-out elixir git,$(TO_TEST))

#: make demo      the demonstration; DIR=... is the folder whose files it reads, by default the installed OTP libraries
DIR ?=
demo: build
	examples/demonstration/run "$(DIR)"

#: make docs      the reference of all modules, in doc/reference
docs: bootstrap
	tools/docs

#: make bench     compares with the ETS designs of the originals and other registries, and writes bench/results; under ten minutes
bench: build
	@tools/bootstrap $(TO_BENCH)
	bench/run

#: make bench-check  fails when a decisive ratio is below its floor; under a minute
bench-check: build
	@tools/bootstrap $(TO_BENCH)
	bench/run check

#: make soak      models, faults and bad input for HOURS=0.5 hours; REPLAY=... runs again what failed
HOURS ?= 0.5
REPLAY ?=
soak: bootstrap build
	tools/soak $(if $(REPLAY),replay "$(REPLAY)",hours "$(HOURS)")

#: make sanitize  the crate, the storms and a fuzz target under AddressSanitizer; FUZZ_SECONDS=120
sanitize: bootstrap build
	@tools/bootstrap g++
	native/sanitize

#: make clean     deletes what was built
clean:
	rm -rf _build priv
	cargo clean

help:
	@sed -n 's/^#: //p' Makefile
