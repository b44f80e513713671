defmodule Example.Copy do
  use GenServer

  def start_link(zone), do: GenServer.start_link(__MODULE__, zone, name: __MODULE__)

  def children, do: GenServer.call(__MODULE__, :children)

  @impl true
  def init(zone) do
    {:ok, children} = :gen_tracker.subscribe(zone)
    {:ok, Map.new(children)}
  end

  @impl true
  def handle_call(:children, _from, children), do: {:reply, children, children}

  @impl true
  def handle_info({:gen_tracker, _zone, event}, children) do
    case event do
      {:up, name, pid} -> {:noreply, Map.put(children, name, pid)}
      {:down, name, _pid, _reason} -> {:noreply, Map.delete(children, name)}
      :unsubscribed -> {:stop, :unsubscribed, children}
    end
  end
end
