"""The `kommo` command: every door of the data plane for a person at a terminal.

Each command imports what it needs when it runs, so that `kommo --help` answers at once and commands that only read the
store never pay for Prefect.
"""

from cyclopts import App

from deployments.cli.groups import GroupedApp
from deployments.cli.run import quiet_prefect, run_app

HELP = """\
Connect Kommo (amoCRM) accounts, keep versioned snapshots of their set-up, see what changed.

Start with `kommo demo`: it needs no account and no key. Then `kommo connect ORG --domain SUBDOMAIN.kommo.com`,
`kommo sync ORG` and `kommo snapshot show ORG pipelines`.

Exit codes: 0 done · 1 failed, with a sentence that says what to do · 2 wrong use · 130 interrupted.
"""


def build_app() -> App:
    """The command tree."""
    app = GroupedApp(
        name="kommo",
        help=HELP,
        version_flags=["--version"],
        version=_version,
        suppress_keyboard_interrupt=False,  # else it leaves without our sentence
    )
    app.command(
        "deployments.cli.demo:demo", name="demo", help="See it all work in a minute, on a stand-in for Kommo."
    )
    _begin(app)
    app.command(
        "deployments.cli.sandbox:sandbox", name="sandbox", help="Run the stand-in for Kommo by itself."
    )
    app.command(
        "deployments.cli.connect:connect", name="connect", help="Connect an org to its Kommo account."
    )
    app.command(
        "deployments.cli.refresh:refresh", name="refresh", help="Refresh tokens before anybody misses them."
    )
    _one_org(app)
    keys = App(name="keys", help="Keys: those that seal tokens, and those of the gateway's callers.")
    keys.command(
        "deployments.cli.sealing:rotate", name="rotate", help="Seal the journal of tokens with a new key."
    )
    keys.command(
        "deployments.cli.reencrypt:reencrypt",
        name="reencrypt",
        help="Write Prefect's blocks with another encryption key.",
    )
    api = App(name="api", help="The product's keys, with which it comes to the gateway.")
    api.command("deployments.cli.keys:create", name="create", help="Make a key; it is shown once.")
    api.command("deployments.cli.keys:show", name="list", help="The keys that there are.")
    api.command("deployments.cli.keys:revoke", name="revoke", help="End a key, at once and for good.")
    keys.command(api)
    app.command(keys)
    app.command(
        "deployments.cli.sync:sync", name="sync", help="Read an org's Kommo set-up and save what changed."
    )
    app.command(
        "deployments.cli.status:status", name="status", help="Which orgs are connected, and how they are."
    )
    app.command(
        "deployments.cli.webhooks:run_backlog",
        name="backlog",
        help="Work off what webhooks have told, once.",
    )
    webhooks = App(name="webhooks", help="What Kommo has told us: what waits, what was given up.")
    webhooks.command("deployments.cli.webhooks:backlog", name="backlog", help="What waits to be worked off.")
    webhooks.command("deployments.cli.webhooks:dead", name="dead", help="Events that were given up, and why.")
    webhooks.command("deployments.cli.webhooks:show", name="show", help="One event, with its delivery.")
    webhooks.command(
        "deployments.cli.webhooks:replay", name="replay", help="Try what was given up once more."
    )
    webhooks.command(
        "deployments.cli.webhook_health:health",
        name="health",
        help="See that subscriptions are on; read what was missed.",
    )
    webhooks.command(
        "deployments.cli.webhook_health:reconcile",
        name="reconcile",
        help="Compare an org's webhooks with Kommo, and repair.",
    )
    app.command(webhooks)
    events = App(
        name="events", help="What the product is told: what waits, what was given up, telling it again."
    )
    events.command("deployments.cli.events:show", name="list", help="Events, and how their delivery stands.")
    events.command("deployments.cli.events:dead", name="dead", help="Events that were given up, and why.")
    events.command(
        "deployments.cli.events:replay", name="replay", help="Tell events again, under the same ids."
    )
    events.command(
        "deployments.cli.events:deliver", name="deliver", help="Tell the product what is due, once."
    )
    events.command(
        "deployments.cli.events:trial", name="test", help="Try the product's address with one signed event."
    )
    app.command(events)
    for group in (_actions(), _records()):
        app.command(group)
    snapshot = App(
        name="snapshot", help="Look at what was read: now, at any time, and what changed between runs."
    )
    snapshot.command(
        "deployments.cli.snapshot:show", name="show", help="What one kind held, now or at a time."
    )
    snapshot.command("deployments.cli.snapshot:diff", name="diff", help="What changed between two runs.")
    snapshot.command("deployments.cli.snapshot:runs", name="runs", help="The runs of an org, newest first.")
    app.command(snapshot)
    app.command(_database())
    app.command("deployments.cli.retention:retention", name="retention", help="Remove what has grown old.")
    app.command(
        "deployments.cli.gateway:gateway", name="gateway", help="Serve the HTTP door: OAuth and status."
    )
    _service(app)
    return app


def _begin(app: App) -> None:
    app.command("deployments.cli.setup:setup", name="setup", help="Set everything up, step by step.")
    app.command(
        "deployments.cli.doctor:doctor", name="doctor", help="Find what is set up wrongly; say what to type."
    )


def _one_org(app: App) -> None:
    app.command("deployments.cli.refresh:disconnect", name="disconnect", help="Forget an org's tokens.")
    org = App(name="org", help="Everything that is kept of one org: given out, or removed for good.")
    org.command("deployments.cli.org:export", name="export", help="Write all of it into one file.")
    org.command("deployments.cli.org:erase", name="erase", help="Remove every trace of it.")
    app.command(org)


def _service(app: App) -> None:
    app.command(
        "deployments.cli.serve:serve",
        name="serve",
        help="Make all deployments and execute their runs, in one process.",
    )
    app.command(
        "deployments.cli.deploy:deploy",
        name="deploy",
        help="Make the work pool and all deployments, for workers.",
    )
    automations = App(
        name="automations", help="What Prefect does by itself: tell somebody, wake the backlog."
    )
    automations.command(
        "deployments.cli.automations:apply",
        name="apply",
        help="Make all automations, or bring them up to date.",
    )
    automations.command(
        "deployments.cli.automations:show", name="list", help="The automations, as they stand."
    )
    automations.command("deployments.cli.automations:remove", name="remove", help="Remove all of ours.")
    app.command(automations)
    budget = App(name="budget", help="The request budget shared by all processes.")
    budget.command(
        "deployments.cli.budget:show", name="show", help="Who may send when, and which keys are stopped."
    )
    budget.command(
        "deployments.cli.budget:unblock", name="unblock", help="Let requests of a stopped key go again."
    )
    app.command(budget)


def _actions() -> App:
    place = "deployments.cli.actions"
    action = App(name="action", help="Have something done at Kommo, once, and see what came of it.")
    action.command(
        f"{place}:send_message", name="send-message", help="Send the customer a text in an open conversation."
    )
    action.command(f"{place}:create_task", name="create-task", help="Create a task for the sales team.")
    action.command(
        f"{place}:update_deal_field", name="update-deal-field", help="Give one field of a deal a new value."
    )
    action.command(f"{place}:add_note", name="add-note", help="Leave an internal note; no customer sees it.")
    action.command(f"{place}:show_all", name="list", help="Actions and what came of them, newest first.")
    action.command(f"{place}:show", name="show", help="One action, with what was asked for.")
    action.command(f"{place}:settle", name="settle", help="Go on with what was left behind.")
    return action


def _database() -> App:
    db = App(name="db", help="The project's own database.")
    db.command("deployments.cli.database:upgrade", name="upgrade", help="Bring the tables to this version.")
    db.command(
        "deployments.cli.database:downgrade",
        name="downgrade",
        help="Take the tables back to an older version.",
    )
    db.command(
        "deployments.cli.database:backup", name="backup", help="Copy an SQLite database while it is in use."
    )
    db.command("deployments.cli.database:state", name="state", help="Which version the tables have.")
    return db


def _records() -> App:
    place = "deployments.cli.records"
    records = App(name="records", help="Leads, contacts, tasks, notes …: read them, count them, ask in SQL.")
    records.command(
        f"{place}:sync", name="sync", help="Read what changed since the last time, or everything."
    )
    records.command(f"{place}:count", name="count", help="How many of each kind there are, and how fresh.")
    records.command(f"{place}:show", name="show", help="Records of one kind, or one of them whole.")
    records.command(f"{place}:sql", name="sql", help="Ask in SQL; nothing can be changed by it.")
    records.command(
        f"{place}:export", name="export", help="Write them into files: Parquet, CSV or JSON lines."
    )
    place = "deployments.cli.record_history"
    records.command(f"{place}:history", name="history", help="What a record is, and what it was before.")
    records.command(
        f"{place}:keep_history", name="keep-history", help="Keep what records were before, by kind."
    )
    records.command(f"{place}:forget", name="forget", help="Remove the content of a record that was deleted.")
    return records


def _version() -> str:
    from importlib.metadata import version

    return version("kommo-data-plane")


def main() -> None:
    """Entry point of the console script."""
    quiet_prefect()
    run_app(build_app())
