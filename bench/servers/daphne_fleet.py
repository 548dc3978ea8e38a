"""Several Daphnes on one port. Daphne has no workers, so they share a socket, as in its manual.

``python daphne_fleet.py PORT PROCESSES``
"""

import signal
import socket
import subprocess
import sys

port, processes = map(int, sys.argv[1:])
listener = socket.create_server(("127.0.0.1", port), backlog=2048)
command = [sys.executable, "-m", "daphne", "-v", "0", "--fd", str(listener.fileno())]
fleet = [
    subprocess.Popen([*command, "channels_site:application"], pass_fds=[listener.fileno()])
    for _ in range(processes)
]
signal.signal(signal.SIGTERM, lambda *_: [daphne.terminate() for daphne in fleet])
sys.exit(max(abs(daphne.wait()) for daphne in fleet))
