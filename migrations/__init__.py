"""Alembic's migrations, from empty to head on SQLite and PostgreSQL. `server.migrate` runs them."""
