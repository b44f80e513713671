defmodule ExampleTest do
  # The modules that the guide shows, and its sessions.
  use ExUnit.Case
  import ExUnit.CaptureLog

  doctest Example

  test "iex prints the documentation" do
    require IEx.Helpers
    print = fn -> IEx.Helpers.h(:gen_tracker.find_or_open()) end
    assert ExUnit.CaptureIO.capture_io(print) =~ "Returns the running child of a name"
  end

  test "a stream is started once, counts its bytes, and logs their number when it ends" do
    opened = for _ <- 1..100, do: Task.async(fn -> Example.Stream.open("once") end)
    assert [{:ok, pid}] = Enum.uniq(Task.await_many(opened, :infinity))
    assert GenServer.call(pid, {:data, "some bytes"}) == 10
    assert GenServer.call(pid, {:data, "more bytes"}) == 20
    log = capture_log(fn -> :ok = Supervisor.terminate_child(:streams, "once") end)
    assert log =~ "once ended after 20 bytes"
    assert :gen_tracker.info(:streams, "once") == []
  end

  test "a channel is supervised by a Supervisor and found by its name" do
    start_supervised!({Example.Channel, "supervised"})
    :ok = Example.Channel.join("supervised")
    :ok = Example.Channel.join("supervised")
    assert Example.Channel.viewers("supervised") == 2
  end

  test "a copy has the live children, and is started again with the zone" do
    {:ok, pid} = Example.Stream.open("copied")
    assert copied()["copied"] == pid
    :ok = Supervisor.terminate_child(:streams, "copied")
    refute Map.has_key?(copied(), "copied")

    {:ok, _} = Example.Stream.open("lost")
    copy = Process.whereis(Example.Copy)
    monitor = Process.monitor(copy)
    Process.exit(Process.whereis(:streams), :kill)
    assert_receive {:DOWN, ^monitor, :process, ^copy, _}
    # This call returns once both are started again.
    assert [_, _] = Supervisor.which_children(Example.Supervisor)
    assert Example.Copy.children() == %{}
  end

  # The process that sends all events answers this call, after the events that it has sent before.
  defp copied do
    {:ok, _} = :gen_tracker.subscribe(:streams)
    Example.Copy.children()
  end
end
