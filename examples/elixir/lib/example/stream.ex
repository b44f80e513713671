defmodule Example.Stream do
  use GenServer, restart: :temporary
  require Logger

  def open(name) do
    :gen_tracker.find_or_open(:streams, Supervisor.child_spec({__MODULE__, name}, id: name))
  end

  def start_link(name), do: GenServer.start_link(__MODULE__, name)

  @impl true
  def init(name) do
    :ok = :gen_tracker.setattr(:streams, name, format: :hls, bytes: 0)
    {:ok, name}
  end

  @impl true
  def handle_call({:data, data}, _from, name) do
    {:reply, :gen_tracker.increment(:streams, name, :bytes, byte_size(data)), name}
  end

  # Called by the library after the death of a stream, with its last attributes.
  def after_terminate(name, attributes) do
    Logger.info("#{name} ended after #{attributes[:bytes]} bytes")
  end
end
