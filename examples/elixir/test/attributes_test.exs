defmodule AttributesTest do
  # Attributes with terms of Elixir.
  use ZoneCase

  defmodule Format do
    defstruct [:codec, rate: 0]
  end

  setup %{zone: zone} do
    {:ok, pid: start_server(zone)}
  end

  test "any term of Elixir comes back exactly", %{zone: zone, pid: pid} do
    values = [
      nil,
      true,
      :hls,
      Format,
      "größer",
      <<1::3>>,
      'tv',
      -0.0,
      2 ** 100,
      [a: 1],
      {},
      %{"a" => %{b: 1}},
      %Format{codec: :aac}
    ]

    values =
      values ++
        [
          ~U[2024-02-29 12:00:00Z],
          1..10//3,
          MapSet.new([1, 2]),
          ~r/a/,
          &String.upcase/1,
          make_ref(),
          pid
        ]

    for {value, key} <- Enum.with_index(values) do
      assert :gen_tracker.setattr(zone, "tv1", key, value) == :ok
      assert :gen_tracker.getattr(zone, "tv1", key) === {:ok, value}
    end

    assert Map.new(:gen_tracker.info(zone, "tv1")) == Map.new(Enum.with_index(values, &{&2, &1}))
  end

  test "a keyword list is set in one step, and comes back as one", %{zone: zone} do
    assert :gen_tracker.setattr(zone, "tv1", format: :hls, bytes: 0) == :ok
    assert Enum.sort(:gen_tracker.info(zone, "tv1")) == [bytes: 0, format: :hls]
    assert :gen_tracker.info(zone, "tv1")[:format] == :hls
    assert :gen_tracker.delattr(zone, "tv1", :format) == :ok
    assert :gen_tracker.getattr(zone, "tv1", :format) == :undefined
  end

  test "no increment of concurrent tasks is lost", %{zone: zone} do
    1..20
    |> Enum.map(fn _ ->
      Task.async(fn ->
        for _ <- 1..1000, do: :gen_tracker.increment(zone, "tv1", :viewers, 1, 0)
      end)
    end)
    |> Task.await_many(:infinity)

    assert :gen_tracker.getattr(zone, "tv1", :viewers) == {:ok, 20_000}
  end

  test "one of many concurrent compare-and-set calls succeeds", %{zone: zone} do
    :ok = :gen_tracker.setattr(zone, "tv1", :owner, nil)

    answers =
      1..20
      |> Enum.map(&Task.async(fn -> {:gen_tracker.cas(zone, "tv1", :owner, nil, &1), &1} end))
      |> Task.await_many(:infinity)

    assert [{:ok, owner}] = Enum.filter(answers, &match?({:ok, _}, &1))
    assert Enum.count(answers, &match?({{:error, {:current, ^owner}}, _}, &1)) == 19
  end

  test "a task that waits for an attribute is woken when it is set", %{zone: zone} do
    task = Task.async(fn -> :gen_tracker.getattr(zone, "tv1", :ready, :infinity) end)
    until_waiting(task.pid)
    :ok = :gen_tracker.setattr(zone, "tv1", :other, true)
    :ok = :gen_tracker.setattr(zone, "tv1", :ready, %Format{codec: :aac})
    assert Task.await(task, :infinity) == {:ok, %Format{codec: :aac}}
    assert :gen_tracker.getattr(zone, "tv1", :never, 1) == :undefined
  end

  defp until_waiting(pid) do
    case Process.info(pid, [:status, :current_function]) do
      [status: :waiting, current_function: {:gen_tracker_waiting, _, _}] -> :ok
      _ -> until_waiting(pid)
    end
  end

  test "attributes are removed with the process", %{zone: zone} do
    Process.flag(:trap_exit, true)
    :ok = :gen_tracker.setattr(zone, "tv1", :format, :hls)
    :ok = Supervisor.terminate_child(zone, "tv1")
    assert :gen_tracker.getattr(zone, "tv1", :format) == :undefined

    assert {:void_setting, ^zone, "tv1", :format} =
             catch_error(:gen_tracker.setattr(zone, "tv1", :format, :hls))
  end

  test "wrong arguments raise ArgumentError", %{zone: zone} do
    assert_raise ArgumentError, fn -> :gen_tracker.getattr(:not_running, "tv1", :format) end
    assert_raise ArgumentError, fn -> :gen_tracker.increment(zone, "tv1", :missing, 1) end
  end
end
