"""The fleet: groups, notes, vitals, health, maintenance."""

import sqlalchemy as sa
from alembic import op

revision = "0002"
down_revision = "0001"
branch_labels = None
depends_on = None

_TEXTS = ("group_name", "note", "via", "vitals_json", "health_json", "worker_json", "maintenance_json")
_TIMES = ("probed_at", "quarantined_at", "check_at", "check_told_at")


def upgrade() -> None:
    """To this revision."""
    for name in _TEXTS:
        op.add_column("phones", sa.Column(name, sa.Text(), nullable=True))
    for name in _TIMES:
        op.add_column("phones", sa.Column(name, sa.DateTime(timezone=True), nullable=True))


def downgrade() -> None:
    """Back from this revision."""
    with op.batch_alter_table("phones") as phones:
        for name in (*_TEXTS, *_TIMES):
            phones.drop_column(name)
