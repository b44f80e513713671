defmodule EventsTest do
  # Births and deaths, in order for each name.
  use ZoneCase

  test "each birth and each death is sent as an event, in order", %{zone: zone} do
    {:ok, []} = :gen_tracker.subscribe(zone)

    pids =
      for _ <- 1..100 do
        pid = start_server(zone)
        :ok = GenServer.stop(pid)
        pid
      end

    events = for _ <- 1..200, do: event(zone)
    assert events == Enum.flat_map(pids, &[{:up, "tv1", &1}, {:down, "tv1", &1, :normal}])
    assert :gen_tracker.unsubscribe(zone) == :ok
    start_server(zone)
    refute_received {:gen_tracker, _, _}
  end

  test "a new subscriber gets the live children", %{zone: zone} do
    children = for name <- ["tv1", "tv2"], do: {name, start_server(zone, name)}
    {:ok, found} = :gen_tracker.subscribe(zone)
    assert Enum.sort(found) == children
  end

  test "the end of a zone, and unregistering, are sent as events", %{zone: zone} do
    {:ok, []} = :gen_tracker.subscribe(zone)
    Process.flag(:trap_exit, true)
    one = start_server(zone, 1)
    two = start_server(zone, 2)
    :ok = :gen_tracker.unregister_name({zone, 1})
    :ok = stop_supervised(zone)

    assert [
             {:up, 1, ^one},
             {:up, 2, ^two},
             {:down, 1, ^one, :unregistered},
             {:down, 2, ^two, :shutdown}
           ] = for(_ <- 1..4, do: event(zone))
  end
end
