"""The bench host's room: phones over ADB, the measuring protocol, runners, and the agent's loop.

Installs alone (`pip install 'fulcrum[agent]'`): nothing here imports torch or another room.
"""
