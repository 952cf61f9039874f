"""Alembic's entry: one transaction, on the URL that `server.migrate` hands over."""

from alembic import context
from sqlalchemy import create_engine, pool

from server.tables import Base

engine = create_engine(context.config.attributes["url"], poolclass=pool.NullPool)
with engine.connect() as connection:
    context.configure(connection=connection, target_metadata=Base.metadata)
    with context.begin_transaction():
        context.run_migrations()
