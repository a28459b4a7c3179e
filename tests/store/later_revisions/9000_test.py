"""A revision of a later version, for the tests of a database that is behind."""

from store import migrate

revision = "9000_test"
down_revision = max(path.name[:4] for path in (migrate._SCRIPTS / "versions").glob("0*.py"))
branch_labels = None
depends_on = None


def upgrade() -> None:
    """Nothing to change."""


def downgrade() -> None:
    """Nothing to change back."""
