"""A revision of a later version, for the tests of a database that is behind."""

revision = "0010_test"
down_revision = "0009"
branch_labels = None
depends_on = None


def upgrade() -> None:
    """Nothing to change."""


def downgrade() -> None:
    """Nothing to change back."""
