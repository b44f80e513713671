defmodule Example.Channel do
  use GenServer

  def start_link(name), do: GenServer.start_link(__MODULE__, name, name: via(name))

  def viewers(name), do: GenServer.call(via(name), :viewers)

  def join(name), do: GenServer.cast(via(name), :join)

  defp via(name), do: {:via, :gen_tracker, {:streams, name}}

  @impl true
  def init(name) do
    :ok = :gen_tracker.setattr(:streams, name, :viewers, 0)
    {:ok, name}
  end

  @impl true
  def handle_call(:viewers, _from, name) do
    {:ok, viewers} = :gen_tracker.getattr(:streams, name, :viewers)
    {:reply, viewers, name}
  end

  @impl true
  def handle_cast(:join, name) do
    _ = :gen_tracker.increment(:streams, name, :viewers, 1)
    {:noreply, name}
  end
end
