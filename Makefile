# `make help` lists the targets. Each target first checks that what it needs is there. Only the
# targets of INSTALLING install missing packages.
SHELL := /bin/bash
.DEFAULT_GOAL := build

# The Debian packages for building, for the gate, and for the benchmarks.
TO_BUILD := erlang-base erlang-dev rebar3 cargo gcc libc6-dev
TO_TEST := erlang-common-test erlang-dialyzer erlang-eunit erlang-tools erlang-runtime-tools \
           erlang-observer erlang-edoc erlang-proper erlang-metrics elixir git rustfmt rust-clippy \
           spin
# Debian 13 no longer has it. A module of the tests stands in for it.
OPTIONAL := erlang-folsom
TO_BENCH := elixir gnuplot-nox

INSTALLING := demo demo-cluster test test-otp
MODE := check
$(INSTALLING): MODE := install

.PHONY: bootstrap build test demo demo-cluster docs dist bench bench-check soak sanitize clean help

bootstrap:
	@tools/bootstrap $(MODE) $(TO_BUILD) $(TO_TEST) optional $(OPTIONAL)

#: make           builds the library; says what is missing
build:
	@tools/bootstrap $(MODE) $(TO_BUILD)
	rebar3 compile

#: make test      runs the whole gate; installs what is missing on Debian
test: bootstrap
	tools/gate

# tools/otp leaves out the suites that need elixir and git. OTP lets nodes connect whose releases
# are at most two apart.
OTHER_OTP := test-otp-trixie test-otp-sid test-otp-here+trixie test-otp-trixie+sid

#: make test-otp  runs the suites on the OTP and the Rust of Debian trixie and sid, and those of
#:                several nodes on nodes of two releases; needs root, and 3 GB below _build/otp
.PHONY: test-otp $(OTHER_OTP)
test-otp: $(OTHER_OTP)
$(OTHER_OTP): test-otp-%: bootstrap
	tools/otp $* erlang-base rebar3 cargo $(filter-out elixir git rust%,$(TO_TEST))

#: make demo      runs the demonstration; DIR=... is the folder whose files it reads, by default
#:                that of the installed OTP libraries; installs what is missing on Debian
DIR ?=
demo: build
	examples/demonstration/run "$(DIR)"

#: make demo-cluster  starts four nodes on this machine, cuts them apart and joins them again, and
#:                drains one; NAMES=1000; installs what is missing on Debian
NAMES ?= 1000
demo-cluster: build
	examples/cluster_demonstration/run "$(NAMES)"

#: make docs      writes the reference of all modules to doc/reference
docs: bootstrap
	tools/docs

#: make dist      writes packages of the sources, and the native library built here, to dist
dist: build
	@tools/bootstrap $(MODE) erlang-edoc git
	tools/dist

#: make bench     compares with the ETS designs of the originals, ETS tables, other registries and
#:                supervisors, each in VMs of its own, and writes bench/results; takes 40 minutes;
#:                QUICK=1 tries everything in five, with a tenth of the names
QUICK ?=
bench: build
	@tools/bootstrap $(MODE) $(TO_BENCH)
	bench/run $(if $(QUICK),quick)

#: make bench-check  fails if a decisive ratio is below its floor; takes under a minute
bench-check: build
	@tools/bootstrap $(MODE) elixir
	bench/run check

#: make soak      runs models, faults and bad input for HOURS=0.5 hours; REPLAY=... runs a failure
#:                again
HOURS ?= 0.5
REPLAY ?=
soak: bootstrap build
	tools/soak $(if $(REPLAY),replay "$(REPLAY)",hours "$(HOURS)")

#: make sanitize  runs the crates, the storms and a fuzz target under AddressSanitizer;
#:                FUZZ_SECONDS=120
sanitize: bootstrap build
	@tools/bootstrap $(MODE) g++
	native/sanitize

#: make clean     deletes what was built
clean:
	rm -rf _build priv
	cargo clean

help:
	@sed -n 's/^#: //p' Makefile
