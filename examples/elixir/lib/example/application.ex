defmodule Example.Application do
  use Application

  @impl true
  def start(_type, _args) do
    children = [
      {:gen_tracker, :streams},
      {Example.Copy, :streams}
    ]

    # What depends on the zone is started again with it.
    Supervisor.start_link(children, strategy: :rest_for_one, name: Example.Supervisor)
  end
end
