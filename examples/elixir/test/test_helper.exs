# Long enough for a busy machine.
ExUnit.start(assert_receive_timeout: 10_000)

defmodule Server do
  # A server for the tests. Its argument is the function that `init` calls.
  use GenServer

  def start_link(init, options), do: GenServer.start_link(__MODULE__, init, options)

  @impl true
  def init(init), do: init.()

  @impl true
  def handle_call(:who, _from, state), do: {:reply, self(), state}

  @impl true
  def handle_cast({:tell, pid, message}, state), do: told(pid, message, state)

  @impl true
  def handle_info({:tell, pid, message}, state), do: told(pid, message, state)

  defp told(pid, message, state) do
    send(pid, {message, self()})
    {:noreply, state}
  end
end

defmodule Machine do
  # A state machine for the tests, which stays in the state that it begins in.
  @behaviour :gen_statem

  @impl true
  def callback_mode, do: :handle_event_function

  @impl true
  def init(state), do: {:ok, state, nil}

  @impl true
  def handle_event({:call, from}, :who, state, _data) do
    {:keep_state_and_data, [{:reply, from, {state, self()}}]}
  end
end

defmodule ZoneCase do
  # Each test has a zone with the name of the test.
  use ExUnit.CaseTemplate

  using do
    quote do
      import ZoneCase
    end
  end

  setup context do
    zone = context.test
    start_supervised!({:gen_tracker, zone})
    {:ok, zone: zone}
  end

  def zone_spec(zone) do
    :gen_tracker.child_spec(zone)
  end

  def via(zone, name \\ "tv1"), do: {:via, :gen_tracker, {zone, name}}

  def server_spec(zone, name \\ "tv1") do
    %{id: name, start: {Server, :start_link, [fn -> {:ok, name} end, [name: via(zone, name)]]}}
  end

  def start_server(zone, name \\ "tv1") do
    {:ok, pid} = Server.start_link(fn -> {:ok, name} end, name: via(zone, name))
    pid
  end

  # Returns the next event of the zone.
  def event(zone) do
    assert_receive {:gen_tracker, ^zone, event}
    event
  end
end
