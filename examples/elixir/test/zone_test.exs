defmodule ZoneTest do
  # A zone as a child of a supervisor of Elixir.
  use ExUnit.Case

  test "a zone starts with options", %{test: zone} do
    start_supervised!({:gen_tracker, {zone, %{max_children: 1, index: [:room]}}})
    assert :gen_tracker.register_name({zone, "anna"}, self()) == :yes
    assert :gen_tracker.register_name({zone, "bert"}, self()) == :no
    assert :gen_tracker.setattr(zone, "anna", :room, 7) == :ok
    assert :gen_tracker.lookup(zone, :room, 7) == [{"anna", self()}]
    assert :gen_tracker.unregister_name({zone, "anna"}) == :ok
  end

  test "a supervisor has several zones, each under its name", %{test: test} do
    zones = [one, two] = [:"#{test} one", :"#{test} two"]
    children = [{:gen_tracker, one}, {:gen_tracker, {two, %{restart: false}}}]
    {:ok, supervisor} = Supervisor.start_link(children, strategy: :one_for_one)

    assert Enum.sort(Supervisor.which_children(supervisor)) ==
             for(zone <- zones, do: {zone, Process.whereis(zone), :supervisor, [:gen_tracker]})

    assert Supervisor.stop(supervisor) == :ok
    assert Enum.map(zones, &Process.whereis/1) == [nil, nil]
  end

  test "a wrong option or name is refused before anything starts" do
    for wrong <- ["zone", {:zone, []}, {:zone, %{other: 1}}, []] do
      assert_raise ArgumentError, fn -> Supervisor.child_spec({:gen_tracker, wrong}, []) end
    end
  end
end
