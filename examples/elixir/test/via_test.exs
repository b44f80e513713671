defmodule ViaTest do
  # `{:via, :gen_tracker, {zone, name}}` wherever Elixir takes a name.
  use ZoneCase

  test "a GenServer is started, found, called, cast to and stopped by its name", %{zone: zone} do
    pid = start_server(zone)
    assert GenServer.whereis(via(zone)) == pid
    assert :gen_tracker.find(zone, "tv1") == {:ok, pid}
    assert GenServer.call(via(zone), :who) == pid
    assert GenServer.cast(via(zone), {:tell, self(), :hello}) == :ok
    assert_receive {:hello, ^pid}
    assert GenServer.stop(via(zone)) == :ok
    assert GenServer.whereis(via(zone)) == nil
  end

  test "a name in use is refused with its process", %{zone: zone} do
    pid = start_server(zone)

    assert Server.start_link(fn -> {:ok, 2} end, name: via(zone)) ==
             {:error, {:already_started, pid}}

    assert Agent.start(fn -> 2 end, name: via(zone)) == {:error, {:already_started, pid}}
    assert GenServer.call(via(zone), :who) == pid
  end

  test "a name is free as soon as its process has exited", %{zone: zone} do
    Process.flag(:trap_exit, true)

    for _ <- 1..500 do
      start_server(zone)
      assert GenServer.stop(via(zone)) == :ok
      pid = start_server(zone)
      Process.exit(pid, :kill)
      assert_receive {:EXIT, ^pid, :killed}
    end

    start_server(zone)
  end

  @tag :capture_log
  test "a GenServer whose init fails leaves no name", %{zone: zone} do
    Process.flag(:trap_exit, true)
    assert Server.start_link(fn -> :ignore end, name: via(zone)) == :ignore
    assert Server.start_link(fn -> {:stop, :no} end, name: via(zone)) == {:error, :no}

    assert {:error, {%RuntimeError{}, _}} =
             Server.start_link(fn -> raise "no" end, name: via(zone))

    assert GenServer.whereis(via(zone)) == nil
    start_server(zone)
  end

  test "an unused name, and a name in a zone that does not run, have no process", %{zone: zone} do
    for unused <- [via(zone), via(:not_running)] do
      assert GenServer.whereis(unused) == nil
      assert {:noproc, {GenServer, :call, _}} = catch_exit(GenServer.call(unused, :who))
      assert {:noproc, {GenServer, :stop, _}} = catch_exit(GenServer.stop(unused))
      assert GenServer.cast(unused, :lost) == :ok
    end
  end

  test "no process is started under a name in a zone that does not run" do
    assert {:error, {:badarg, _}} = Agent.start(fn -> 0 end, name: via(:not_running))
  end

  test "a Supervisor restarts a crashed GenServer under its name", %{zone: zone} do
    start_supervised!(server_spec(zone))
    {:ok, [{"tv1", first}]} = :gen_tracker.subscribe(zone)
    Process.exit(first, :kill)
    assert event(zone) == {:down, "tv1", first, :killed}
    assert {:up, "tv1", second} = event(zone)
    assert GenServer.call(via(zone), :who) == second
  end

  test "a Supervisor restarts a killed zone, and the processes with names in it", %{zone: zone} do
    test = self()

    init = fn ->
      send(test, {:started, self()})
      {:ok, nil}
    end

    # The supervisor has a zone of its own; that of the test is not below it.
    inner = :"#{zone} of the supervisor"
    server = %{id: :server, start: {Server, :start_link, [init, [name: via(inner)]]}}
    options = [strategy: :rest_for_one]

    start_supervised!(%{
      id: :supervisor,
      start: {Supervisor, :start_link, [[zone_spec(inner), server], options]},
      type: :supervisor
    })

    assert_receive {:started, first}
    Process.exit(Process.whereis(inner), :kill)
    assert_receive {:started, second}
    refute Process.alive?(first)
    assert GenServer.call(via(inner), :who) == second
  end

  test "agents, tasks and supervisors have such names, too", %{zone: zone} do
    {:ok, _} = Agent.start_link(fn -> 1 end, name: via(zone, :agent))
    assert Agent.update(via(zone, :agent), &(&1 + 1)) == :ok
    assert Agent.get(via(zone, :agent), & &1) == 2

    {:ok, _} = Task.Supervisor.start_link(name: via(zone, :tasks))
    assert Task.await(Task.Supervisor.async(via(zone, :tasks), fn -> 3 end)) == 3

    {:ok, _} = DynamicSupervisor.start_link(strategy: :one_for_one, name: via(zone, :dynamic))
    assert {:ok, pid} = DynamicSupervisor.start_child(via(zone, :dynamic), server_spec(zone))
    assert GenServer.call(via(zone), :who) == pid
  end

  test "a supervisor is found by such a name, and so are its children", %{zone: zone} do
    options = [strategy: :one_for_one, name: via(zone, :supervisor)]
    {:ok, supervisor} = Supervisor.start_link([server_spec(zone)], options)
    assert GenServer.whereis(via(zone, :supervisor)) == supervisor
    assert [{"tv1", pid, :worker, _}] = Supervisor.which_children(via(zone, :supervisor))
    assert GenServer.call(via(zone), :who) == pid
    assert Supervisor.stop(via(zone, :supervisor)) == :ok
    refute Process.alive?(pid)
  end

  test "the behaviours of Erlang take such names, too", %{zone: zone} do
    {:ok, manager} = :gen_event.start_link(via(zone, :manager))
    assert :gen_event.which_handlers(via(zone, :manager)) == []
    assert :gen_tracker.find(zone, :manager) == {:ok, manager}

    {:ok, machine} = :gen_statem.start_link(via(zone, :machine), Machine, :idle, [])
    assert :gen_statem.call(via(zone, :machine), :who) == {:idle, machine}
  end

  test "a process may register itself", %{zone: zone} do
    test = self()

    task =
      Task.async(fn ->
        assert :gen_tracker.register_name({zone, "job"}, self()) == :yes
        assert :gen_tracker.register_name({zone, "job"}, test) == :no
        :ok = :gen_tracker.setattr(zone, "job", progress: 0)
        send(test, :registered)
        receive do: (message -> message)
      end)

    assert_receive :registered
    assert :gen_tracker.list(zone) == [{"job", [pid: task.pid, progress: 0]}]
    assert :gen_tracker.send({zone, "job"}, :go) == task.pid
    assert Task.await(task) == :go
    assert catch_exit(:gen_tracker.send({zone, "job"}, :go)) == {:badarg, {{zone, "job"}, :go}}
  end

  test "a process that is unregistered lives on without its name", %{zone: zone} do
    pid = start_server(zone)
    assert :gen_tracker.unregister_name({zone, "tv1"}) == :ok
    assert GenServer.whereis(via(zone)) == nil
    assert GenServer.call(pid, :who) == pid
  end

  test "a named process is a child of the zone, and is stopped with it", %{zone: zone} do
    Process.flag(:trap_exit, true)
    one = start_server(zone, 1)
    two = start_server(zone, 2)

    assert Enum.sort(Supervisor.which_children(zone)) == [
             {1, one, :worker, []},
             {2, two, :worker, []}
           ]

    assert Supervisor.terminate_child(zone, 1) == :ok
    assert_receive {:EXIT, ^one, :shutdown}
    assert Supervisor.terminate_child(zone, 1) == {:error, :no_child}
    assert stop_supervised(zone) == :ok
    assert_receive {:EXIT, ^two, :shutdown}
  end

  test "a child that the zone starts may have the same name by via", %{zone: zone} do
    {:ok, pid} = :gen_tracker.find_or_open(zone, server_spec(zone))
    assert GenServer.call(via(zone), :who) == pid
    assert {:ok, [{"tv1", ^pid}]} = :gen_tracker.subscribe(zone)
    Process.exit(pid, :kill)
    assert event(zone) == {:down, "tv1", pid, :killed}
    assert {:up, "tv1", again} = event(zone)
    assert GenServer.call(via(zone), :who) == again
  end

  test "the functions of Supervisor work on a zone", %{zone: zone} do
    assert {:ok, pid} = Supervisor.start_child(zone, {Agent, fn -> 0 end})
    assert Supervisor.start_child(zone, {Agent, fn -> 1 end}) == {:error, {:already_started, pid}}
    assert Supervisor.which_children(zone) == [{Agent, pid, :worker, [Agent]}]
    assert Supervisor.count_children(zone) == %{specs: 1, active: 1, supervisors: 0, workers: 1}
    assert Supervisor.delete_child(zone, Agent) == :ok
    assert Supervisor.count_children(zone).specs == 0
    assert Supervisor.stop(zone) == :ok
  end

  test "names are any terms, compared by ===", %{zone: zone} do
    names = [1, 1.0, "tv1", 'tv1', :tv1, {"tv", 1}, %{tv: 1}, ~D[2024-02-29]]
    pids = for name <- names, do: start_server(zone, name)
    assert Enum.map(names, &GenServer.call(via(zone, &1), :who)) == pids
    assert :gen_tracker.count(zone) == length(names)
    assert Enum.sort(:gen_tracker.names(zone)) == Enum.sort(names)
  end
end
