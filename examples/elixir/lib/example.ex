defmodule Example do
  # The guide itself: its sessions are run as doctests.
  @guide "deps/proctab/doc/elixir.md"
  @external_resource @guide
  @moduledoc File.read!(@guide)
end
