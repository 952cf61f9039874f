"""`python -m server.worker`: a worker with settings from the environment, for as long as its standard input is open."""

from server.settings import Settings
from server.worker.loop import serve

serve(Settings())
