# The two commands of the README are `make demo` and `make test`; both install what is missing first.
SHELL := /bin/bash
.DEFAULT_GOAL := build

# Everything Erlang that building and testing needs, by Debian's names, and a program or module that shows it is there.
DEBIAN_PACKAGES := erlang-base erlang-dev erlang-common-test erlang-dialyzer erlang-eunit erlang-tools \
                   erlang-runtime-tools erlang-observer \
                   erlang-edoc erlang-proper erlang-meck erlang-metrics erlang-folsom elixir rebar3 gcc libc6-dev git

.PHONY: bootstrap build test demo docs bench clean

bootstrap:
	@test/bootstrap $(DEBIAN_PACKAGES)

build: bootstrap
	rebar3 compile

test: bootstrap
	test/gate

# The folder whose files the demonstration reads; by default the installed OTP libraries.
DIR ?=
demo: build
	test/demo "$(DIR)"

# The reference of all modules, in doc/reference.
docs: bootstrap
	test/docs

bench: build
	bench/run

clean:
	rm -rf _build priv
	cargo clean
