"""Attempts at searches and runs, and how far a run has come."""

import sqlalchemy as sa
from alembic import op

revision = "0005"
down_revision = "0004"
branch_labels = None
depends_on = None


def upgrade() -> None:
    """To this revision."""
    for table in ("searches", "runs"):
        op.add_column(table, sa.Column("attempts", sa.BigInteger(), server_default="0", nullable=False))
    op.add_column("runs", sa.Column("reached_json", sa.Text(), server_default="[]", nullable=False))


def downgrade() -> None:
    """Back to the revision before."""
    with op.batch_alter_table("runs") as runs:
        runs.drop_column("reached_json")
        runs.drop_column("attempts")
    with op.batch_alter_table("searches") as searches:
        searches.drop_column("attempts")
